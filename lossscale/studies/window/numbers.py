"""The part with the numbers that are predicted of single cells of the default optimizer: from many initialisations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

import kernels

from ...design.arms import ULP, Member
from ...diagnose import steps as diagnose
from ...engines.start import starting_points
from .cells import STEPS, Cell
from .compare import bases, distances
from .training import Arm, Families, Runs, Setting, families, with_eps

BIASED_AT: Final = -6.0
"""Where S8.window.11 looks: log2(eps / RMS g)."""

EPS_GONE: Final = 2.0**40
"""A loss scale at which nothing of eps is left there."""

_AT_ONCE: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A cell's part; attributes as those of `Scan`."""

    cell: Cell
    seed: int
    inits: int
    backend: str = "auto"
    trained: int = STEPS

    @property
    def name(self) -> str:
        """Of its file."""
        return f"numbers-{self.cell.name}"

    @property
    def work(self) -> float:
        """In model-steps."""
        return 4.0 * self.inits * self.trained

    def compute(self, run: Path) -> dict[str, np.ndarray]:
        """Arrays [inits].

        ``ulp_first`` and ``ulp``: d of the one-ulp arm after one step and at the end; ``biased``: d of the pair at eps
        / RMS g = 2^-6 that eps alone tells apart, RMS g the median; ``rms`` of the nonzero gradients at step 1;
        ``root_last`` the smallest r at the end; ``moved`` and ``alive`` elements, as in a `Scan`.
        """
        del run
        setting = Setting(
            optimizer=self.cell.optimizer, recipe=self.cell.recipe, policy=self.cell.formats, backend=self.backend
        )
        given = families(self.seed, self.inits, self.trained)
        found = [self._piece(setting, given, first) for first in range(0, self.inits, _AT_ONCE)]
        known = {name: np.concatenate([piece[name] for piece in found]) for name in found[0]}
        size = float(np.median(known["rms"]))
        return {**known, "biased": self._biased(setting, given, size)}

    def _piece(self, setting: Setting, given: Families, first: int) -> dict[str, np.ndarray]:
        inits = range(first, min(first + _AT_ONCE, self.inits))
        own = _slice(given, inits)
        arms = [Arm(hyper=self.cell.base), Arm(hyper=self.cell.base)]
        drawn = own.initial.to(kernels.DTYPES[setting.policy.params].torch)
        starts = drawn.unsqueeze(1).repeat(1, 2, 1)
        starts[:, 1] = starting_points(drawn, [Member(arm=ULP)], self.seed, inits)
        runs, alive = Runs(setting, own, arms, starts), torch.zeros(drawn.shape, dtype=torch.bool)
        rms = first_ulp = np.empty(0)
        for step in range(1, self.trained + 1):
            grads = runs.step()[:, 0]
            alive |= grads != 0
            if step == 1:
                rms = (grads.double().square().sum(1) / (grads != 0).sum(1)).sqrt().numpy()
                first_ulp = distances(runs.params, bases(arms), drawn)[:, 1]
        root = diagnose.root(setting.algorithm, runs.state, self.cell.base, self.trained)
        assert root is not None, "an optimizer with eps has a root"
        moved = (kernels.bits.bit_view(runs.params[:, 0]) != kernels.bits.bit_view(drawn)) & alive
        return {
            "rms": rms,
            "ulp_first": first_ulp,
            "ulp": distances(runs.params, bases(arms), drawn)[:, 1],
            "root_last": torch.where(root > 0, root, torch.inf).amin(2)[:, 0].numpy(),
            "moved": moved.sum(1).numpy(),
            "alive": alive.sum(1).numpy(),
        }

    def _biased(self, setting: Setting, given: Families, size: float) -> np.ndarray:
        hyper: Any = with_eps(self.cell.base, size * 2.0**BIASED_AT)
        arms = [Arm(hyper=hyper), Arm(hyper=hyper, scale=EPS_GONE)]
        runs = Runs(setting, given, arms)
        runs.to(self.trained)
        return distances(runs.params, bases(arms), runs.initial)[:, 1]


def _slice(given: Families, inits: range) -> Families:
    return Families(
        initial=given.initial[inits.start : inits.stop], data=given.data[:, inits.start : inits.stop].contiguous()
    )
