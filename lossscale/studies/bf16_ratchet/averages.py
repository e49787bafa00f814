"""Second moments of many elements over thousands of steps, in several storages, on the same gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels import Population

from ...design.study import StudyContext
from ...engines.populations import Arithmetic, step_from_zero

Floats = npt.NDArray[np.float64]

FALL_AT: Final = 2000
"""The step from which decaying gradients are smaller."""


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """How the gradients of a row of elements are drawn.

    Attributes:
        name: in tables and pictures.
        beta2: of the average that they feed.
        sigma: their standard deviation (of the normal factor, where there is another).
        tail: log-standard deviation of a lognormal factor; 0 without one.
        falls_to: factor on sigma from step ``FALL_AT`` on.
        constant: whether they are sigma itself, step after step.
    """

    name: str
    beta2: float = 0.999
    sigma: float = 1.0
    tail: float = 0.0
    falls_to: float = 1.0
    constant: bool = False

    def at(self, step: int, normal: Tensor, other: Tensor) -> Tensor:
        """[elements], from two draws of the normal distribution."""
        size = self.sigma * (self.falls_to if step > FALL_AT else 1.0)
        if self.constant:
            return torch.full_like(normal, size)
        drawn = normal * size
        return drawn * torch.exp(self.tail * other) if self.tail else drawn

    @property
    def cell(self) -> dict[str, Any]:
        """Its column of a summary."""
        return {"optimizer": "adam", "options": f"beta2={self.beta2:g}; {self.name}"}


@dataclass(frozen=True, kw_only=True)
class Storage:
    """An arithmetic, and whether its averages start anew every so many steps.

    Attributes:
        arithmetic: formats and recipe.
        roundings: of v in a step; 0 for float32, which is what others are compared with.
        reset_every: steps; 0 for never.
    """

    arithmetic: Arithmetic
    roundings: int
    reset_every: int = 0

    @property
    def arm(self) -> str:
        """Its name in a summary."""
        return f"{self.arithmetic.name} v{', resets' if self.reset_every else ''}"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Rows of elements at a step, each [rows, elements]: the averages, and the update of that step."""

    step: int
    m: Mapping[Storage, Floats]
    v: Mapping[Storage, Floats]
    update: Mapping[Storage, Floats]

    def v_ratio(self, storage: Storage, row: int, against: Storage) -> Floats:
        """[elements]: v over the other storage's."""
        ratio: Floats = self.v[storage][row] / self.v[against][row]
        return ratio

    def step_ratio(self, storage: Storage, row: int, against: Storage) -> Floats:
        """[elements]: the update's size over that of the other storage; NaN where that is 0."""
        mine, other = np.abs(self.update[storage][row]), np.abs(self.update[against][row])
        return np.where(other > 0, mine / np.where(other > 0, other, 1.0), math.nan)


def simulate(
    context: StudyContext,
    rows: Sequence[Gradients],
    storages: Sequence[Storage],
    *,
    elements: int,
    checkpoints: Sequence[int],
) -> Iterator[Reading]:
    """Adam on each row's gradients, in every storage at once; a reading at each checkpoint.

    The gradients are rounded to the narrowest format among the storages before any of them sees them, so that what
    differs is the storage.
    """
    generator = torch.Generator().manual_seed(context.seed)
    hyper: list[dict[str, Any]] = [{"lr": 1.0, "betas": (0.9, row.beta2)} for row in rows]
    populations = {storage: storage.arithmetic.population(context, "adam", hyper, elements) for storage in storages}
    narrow = min((storage.arithmetic.params for storage in storages), key=lambda dtype: dtype.itemsize)
    for step in range(1, max(checkpoints) + 1):
        normal = torch.randn(elements, generator=generator)
        other = torch.randn(elements, generator=generator) if any(row.tail for row in rows) else normal
        grads = torch.stack([row.at(step, normal, other) for row in rows]).to(narrow)
        updates = {}
        for storage, population in populations.items():
            if storage.reset_every and step % storage.reset_every == 1:
                population.restart(torch.zeros_like(population.params))
            given = storage.arithmetic.grads(population, grads)
            if step in checkpoints:
                updates[storage] = step_from_zero(population, given).numpy()
            else:
                population.step(given)
        if updates:
            yield Reading(
                step=step,
                m={storage: _held(item, "exp_avg") for storage, item in populations.items()},
                v={storage: second_moment(item) for storage, item in populations.items()},
                update=updates,
            )


def second_moment(population: Population) -> Floats:
    """[models, elements] float64."""
    return _held(population, "exp_avg_sq")


def _held(population: Population, name: str) -> Floats:
    held: Floats = population.state[name].double().cpu().numpy()
    return held


def places(steps: int, count: int = 24) -> list[int]:
    """Steps to read for a picture: evenly on a logarithmic axis from 10 on."""
    first = min(10, steps)
    return sorted({round(first * (steps / first) ** (k / count)) for k in range(count + 1)})
