"""Studies: one file each, with its grid, its predictions and (where it is not a grid) its own script.

A study file defines ``STUDY``. The registry finds the files of this folder by name, so adding a study is adding a file.
Nothing here imports torch: listing the studies is fast.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Value = float | int | bool

ARMS = ("base", "loss", "lr", "mapped", "null", "ulp")
"""What may be done to a model of a family; ``base`` is always there."""

SCALED_ARMS = ("loss", "lr", "mapped")
"""Arms that exist once per scale; the others exist once per family."""


def is_power_of_two(scale: float) -> bool:
    """Whether multiplying by ``scale`` only moves the exponent."""
    return scale > 0 and math.isfinite(scale) and math.frexp(scale)[0] == 0.5


def value_text(value: Value) -> str:
    """The canonical spelling of a number: integers without a point, floats as Python writes them."""
    if not isinstance(value, bool) and float(value).is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value)


@dataclass(frozen=True, kw_only=True, order=True)
class OptimizerSpec:
    """An algorithm with the hyperparameters that differ from its defaults (the learning rate is the grid's).

    ``recipe`` is empty where it is the grid's.
    """

    algorithm: str
    options: tuple[tuple[str, Value], ...] = ()
    recipe: str = ""

    @property
    def text(self) -> str:
        """Canonical text of the options: ``"eps=0.001"``, ``""`` for the defaults."""
        return ",".join(f"{name}={value_text(value)}" for name, value in self.options)


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """How many random initialisations a network gets per cell, and how many of them advance together.

    ``cohort_inits`` is part of the run's identity: batched matrix products may change bits with the batch size.
    """

    network: str
    inits: int
    cohort_inits: int
    quick_inits: int


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The combinations of a study. Every combination of policy, network and optimizer is one series of cohorts."""

    networks: tuple[NetworkPlan, ...]
    optimizers: tuple[OptimizerSpec, ...]
    scales: tuple[float, ...]
    arms: tuple[str, ...] = ARMS
    against: tuple[tuple[str, str], ...] = (("loss", "lr"),)
    """Pairs beyond "each arm against base": (arm, against) at equal scale."""
    policies: tuple[str, ...] = ("fp32",)
    checkpoints: tuple[int, ...] = (1, 10, 50, 200)
    lr: float = 0.01
    recipe: str = "foreach"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a prediction may look at: one line of the summary before its quantity."""

    network: str
    optimizer: str
    options: str
    recipe: str
    policy: str
    arm: str
    against: str
    scale: float
    step: int


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A falsifiable statement about one quantity of the summary.

    Attributes:
        quantity: name in summary.csv, such as ``identical_share`` or ``update_norm_ratio``.
        predicted: the number, or the name of the pairs column that predicts each pair's own value (the measured column
            is then ``quantity``; a cell is judged by the median of measured over predicted − 1).
        tolerance: largest deviation that still holds; absolute, or relative to the prediction when ``relative``. Or the
            name of the pairs column that bounds each pair's own deviation (every pair must lie within its bound).
        relative: how ``tolerance`` is meant.
        applies: which cells it speaks about.
        moved: whether the cell counts only if its models moved (median distance from their initialisation > 0).
        why: one sentence for the page.
    """

    quantity: str
    predicted: float | str
    tolerance: float | str
    applies: Callable[[Cell], bool]
    why: str
    relative: bool = False
    moved: bool = False


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """What a study with a script of its own is given."""

    run: Path
    seed: int
    steps: int | None
    quick: bool
    device: str
    backend: str
    note: Callable[[str], None] = field(default=lambda text: None)


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study: a grid of paired runs, or a script of its own.

    Attributes:
        name: as typed on the command line; the file is the name with ``_`` for ``-``.
        title: a short line.
        shows: what one learns from it, one sentence.
        cost: a human's estimate of time and size on two cores.
        grid: the paired runs; None for a study with a script.
        predictions: what the summary judges.
        execute: the script: writes its result files, ``summary.csv`` among them, whole into ``context.run``.
        table: rows that the command prints at its end, read from the finished run; None: the analysis' wide table.
        sections: further parts of the page, from the finished run: (title, HTML body) pairs.
    """

    name: str
    title: str
    shows: str
    cost: str
    grid: Grid | None = None
    predictions: tuple[Prediction, ...] = ()
    execute: Callable[[StudyContext], None] | None = None
    table: Callable[[Path], Sequence[Mapping[str, Any]]] | None = None
    sections: Callable[[Path], Iterable[tuple[str, str]]] | None = None


def names() -> tuple[str, ...]:
    """Names of all studies, the default one first."""
    found = sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(found, key=lambda name: name != DEFAULT))


def get(name: str) -> Study:
    """The study of that name; KeyError when there is none."""
    if name not in names():
        raise KeyError(name)
    module = importlib.import_module(f".{name.replace('-', '_')}", __name__)
    study = module.STUDY
    assert isinstance(study, Study) and study.name == name, f"{module.__name__}.STUDY must be the study {name!r}"
    return study


def every() -> tuple[Study, ...]:
    """All studies, the default one first."""
    return tuple(get(name) for name in names())


DEFAULT = "loss-vs-lr"
