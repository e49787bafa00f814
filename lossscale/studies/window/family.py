"""The one-dimensional family of runs in which the plane of the phase diagram lies where nothing leaves its range.

The run at scale s = 2^k with eps has the bits of the run at scale 1 with eps / s, every number shifted by its degree.
So the plane (s, eps) of a cell has no more runs than there are values of eps / s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import kernels

from ...diagnose import steps as diagnose
from .compare import Flags, Floats, eps_shares
from .extremes import Extremes
from .training import Arm, Families, Runs, Setting, with_eps

_ARMS: Final = 1024
"""Members that are trained at a time."""

_CHAIN: Final = 0x9E3779B97F4A7C15 - (1 << 64)
"""Odd multiplier of the chained hash."""


@dataclass(frozen=True, kw_only=True)
class Members:
    """Runs at scale 1, [inits, members] each.

    Attributes:
        eps: [members].
        initial: [inits, n] where they began.
        params: [inits, members, n] after the last step.
        trace: int64 hash of the parameters' bits after every step, chained; equal traces are runs that never differed
            (but for a chance of 2^-64 a pair).
        finite: all parameters are.
        moved: share of elements that ended elsewhere, of those that had a gradient at any step.
        rho: after the last step.
        smallest_root: the smallest r over steps and elements that have one.
        in_range: [inits, members, scales].
        rms: [inits] of the nonzero gradients at step 1.
    """

    eps: Floats
    initial: Tensor
    params: Tensor
    trace: npt.NDArray[np.int64]
    finite: Flags
    moved: Floats
    rho: Floats
    smallest_root: Floats
    in_range: Flags
    rms: Floats

    def distances(self, at: npt.NDArray[np.int64], base: npt.NDArray[np.int64]) -> Floats:
        """[rows, columns, inits] d of member ``at`` [rows, columns] from member ``base`` [rows]."""
        found = np.empty((*at.shape, len(self.initial)))
        params, first = self.params.transpose(0, 1).double(), self.initial.double()
        for row, (own, others) in enumerate(zip(base.tolist(), at, strict=True)):
            apart = (params[others] - params[own]).norm(dim=2)
            d = torch.where(apart == 0, 0.0, apart / (params[own] - first).norm(dim=1))
            found[row] = torch.where(params[others].isfinite().all(2), d, torch.inf).numpy()
        return found


def train_members(setting: Setting, given: Families, base: Any, eps: Floats, scales: Floats) -> Members:
    """Train a run for every eps, watched at every step.

    Args:
        setting: formats and recipe.
        given: families.
        base: hyperparameters but for eps.
        eps: [members].
        scales: for which it is asked whether everything stays in range.
    """
    pieces = [_train(setting, given, base, eps[first : first + _ARMS], scales) for first in range(0, len(eps), _ARMS)]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(piece, name) for piece in pieces], 1)

    return Members(
        eps=eps,
        initial=pieces[0].initial,
        params=torch.cat([piece.params for piece in pieces], 1),
        rms=pieces[0].rms,
        **{name: joined(name) for name in ("trace", "finite", "moved", "rho", "smallest_root", "in_range")},
    )


def _train(setting: Setting, given: Families, base: Any, eps: Floats, scales: Floats) -> Members:
    runs = Runs(setting, given, [Arm(hyper=with_eps(base, value)) for value in eps.tolist()])
    extremes = Extremes(runs)
    weights = torch.randint(-(1 << 62), 1 << 62, (runs.shape[2],), generator=torch.Generator().manual_seed(0)) * 2 + 1
    trace = torch.zeros(runs.shape[:2], dtype=torch.int64)
    alive = torch.zeros(runs.shape, dtype=torch.bool)
    smallest = torch.full(runs.shape[:2], torch.inf, dtype=torch.float64)
    rms = grads = torch.empty(0)
    for step in range(1, given.steps + 1):
        grads = runs.step()
        extremes.see(grads)
        alive |= grads != 0
        bits = kernels.bits.bit_view(runs.params).long()
        trace = trace * _CHAIN + (bits * weights).sum(2)
        root = diagnose.root(setting.algorithm, {name: t.float() for name, t in runs.state.items()}, base, step)
        assert root is not None, "an optimizer with eps has a root"
        smallest = torch.minimum(smallest, torch.where(root > 0, root, torch.inf).amin(2))
        if step == 1:
            rms = (grads.double().square().sum(2) / (grads != 0).sum(2)).sqrt()[:, 0]
    moved = (kernels.bits.bit_view(runs.params) != kernels.bits.bit_view(runs.initial).unsqueeze(1)) & alive
    return Members(
        eps=eps,
        initial=runs.initial,
        params=runs.params.clone(),
        trace=trace.numpy(),
        finite=runs.params.isfinite().all(2).numpy(),
        moved=(moved.sum(2) / alive.sum(2)).double().numpy(),
        rho=eps_shares(runs, grads),
        smallest_root=smallest.numpy(),
        in_range=extremes.in_range(scales),
        rms=rms.double().numpy(),
    )
