"""A cohort at a checkpoint, and its pairs measured there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from kernels import Algorithm

from ..design.arms import Member
from ..design.measures import STANDARD, get_measure
from ..design.policies import Policy
from ..design.spec import Pairing
from .arithmetic import TORCH, Arithmetic
from .observation import Observation

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A cohort at a checkpoint; every tensor [models, n] unless said otherwise, the models of a family side by side.

    Attributes:
        step: counted from 1.
        initial: parameters before the first step.
        before: parameters before this step.
        params: parameters after it.
        grads: the gradients that the optimizer saw.
        losses: [models], of the batch of this step, before it, not scaled.
        state: the optimizer's state after the step.
        taken: [models], the steps that the optimizer has taken, where models may skip some; None where none does.
    """

    step: int
    initial: Tensor
    before: Tensor
    params: Tensor
    grads: Tensor
    losses: Tensor
    state: Mapping[str, Tensor]
    taken: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Measures the pairs of a cohort.

    Attributes:
        algorithm: decides the degrees of the state.
        hyperparameters: one record per member of a family.
        family: the members of every family.
        pairings: of every family, as indices into ``family``.
        kept: how many families are measured; those after them are dropped.
        policy: the formats of the run.
        measures: names of what is measured.
        arithmetic: how measures sum.
    """

    algorithm: Algorithm
    hyperparameters: Sequence[Any]
    family: Sequence[Member]
    pairings: Sequence[Pairing]
    kept: int
    policy: Policy
    measures: Sequence[str] = STANDARD
    arithmetic: Arithmetic = TORCH

    def observe(self, now: Snapshot) -> Columns:
        """One value per kept family and pair, families outermost, of every measure that is observed."""
        seen = Observation(self, now)
        chosen = map(get_measure, self.measures)
        tensors = {item.name: item.observe(seen) for item in chosen if item.observe is not None}
        return {name: tensor.reshape(-1).cpu().numpy() for name, tensor in tensors.items()}


def join(parts: Sequence[Columns]) -> Columns:
    """The columns of several observations, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
