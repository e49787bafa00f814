"""What a study is: a grid of pairs or a script, its predictions, and how it shows itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .claims import Claim
from .grid import Grid

if TYPE_CHECKING:
    import pandas as pd


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
        id: as a claim's, ``S<section>.<topic>.<number>``.
        quantity: name in summary.csv, such as ``identical_share`` or ``update_norm_ratio``.
        predicted: the number, or the name of the pairs column that predicts each pair's own value (the measured column
            is then ``quantity``; a cell is judged by the median of measured over predicted − 1).
        tolerance: largest deviation that still holds; absolute, or relative to the prediction when ``relative``. Or the
            name of the pairs column that bounds each pair's own deviation (every pair must lie within its bound).
        relative: how ``tolerance`` is meant.
        applies: which cells it speaks about.
        moved: whether the cell counts only if its models moved (median distance from their initialisation > 0).
        why: one sentence for the page.
        unjudged: of what, and why, there is no prediction in the policy of that name; empty where there is one.
        limits: what its judgement leaves open, for the page's limits; empty if nothing.
    """

    id: str
    quantity: str
    predicted: float | str
    tolerance: float | str
    applies: Callable[[Cell], bool]
    why: str
    relative: bool = False
    moved: bool = False
    unjudged: Callable[[str], str] = lambda policy: ""
    limits: str = ""

    def judges(self, cell: Cell) -> bool:
        """Whether it says anything about the cell."""
        return self.applies(cell) and not self.unjudged(cell.policy)


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """What a study with a script of its own is given."""

    study: Study
    run: Path
    seed: int
    steps: int | None
    quick: bool
    device: str
    backend: str
    note: Callable[[str], None] = field(default=lambda text: None)


class Presentation(Protocol):
    """How a study shows a finished run; each part reads the run's files. `report.neutral.Neutral` has them all."""

    @property
    def question(self) -> str:
        """What the study asks, with its question mark; empty where its title says it."""

    @property
    def limits(self) -> Sequence[str]:
        """What the study's numbers leave open, a sentence each, for the page; beside what every page says."""

    def table(self, run: Path) -> Sequence[Mapping[str, Any]]:
        """The rows that the command prints at its end."""

    def sentences(self, run: Path) -> Sequence[str]:
        """The answers in words, below the table and at the head of the page; a question comes before its answer."""

    def headline(self, run: Path) -> str:
        """HTML below the sentences at the head of the page: the answer as a table; empty where they are all of it."""

    def legend(self, run: Path) -> Sequence[str]:
        """What the table's words mean, below the sentences."""

    def sections(self, run: Path) -> Iterable[tuple[str, str, str]]:
        """The study's own parts of the page: title, anchor (empty to leave it out of the list at the top), HTML."""

    def picture(self, run: Path, out: Path) -> None:
        """Draws the study's one picture into ``out``, whose ending names the format.

        Raises:
            InputError: if the study has none, or the run lacks what it shows.
        """

    def keep(self, run: Path, folder: Path) -> Iterable[Path]:
        """Writes the small tables and pictures that documents keep of a run, and names them.

        Raises:
            InputError: if the study has none.
        """


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study: a grid of paired runs, or a script of its own.

    Attributes:
        name: as typed on the command line; the file or folder is the name with ``_`` for ``-``.
        title: a short line.
        shows: what one learns from it, one sentence.
        cost: what a full run and a quick one took, measured: ``48 s of processor time (9 s with --quick), 32 MB``, in s
            or min on two busy x86-64 cores, with some 2 s for the start of the process (a run takes as long divided by
            the cores that it gets), and on disk where it was looked at.
        grid: the paired runs; None for a study with a script.
        predictions: what the summary of a grid judges.
        claims: what the script's lines judge, or the further ones.
        execute: the script: writes its result files, ``summary.csv`` among them, whole into ``context.run``.
        further: lines that a grid's summary has beyond those of its pairs, read from the run's directory.
        leads: whether it comes first on a page of several runs: it has the answer that the others explain.
        presentation: given the study, imports and returns how it shows itself; by default a table of its predictions
            and verdicts.
    """

    name: str
    title: str
    shows: str
    cost: str
    grid: Grid | None = None
    predictions: tuple[Prediction, ...] = ()
    claims: tuple[Claim, ...] = ()
    execute: Callable[[StudyContext], None] | None = None
    further: Callable[[Study, Path], pd.DataFrame] | None = None
    presentation: Callable[[Study], Presentation] | None = None
    leads: bool = False

    @property
    def statements(self) -> dict[str, str]:
        """Every prediction by its id, in words."""
        return {
            **{prediction.id: prediction.why for prediction in self.predictions},
            **{claim.id: claim.says for claim in self.claims},
        }
