"""How far the numbers of a run stay from the ends of their formats."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

import kernels

from .compare import Flags, Floats
from .training import Runs

_SAFE: Final = 2.0**12
"""How far every recorded number must stay from its format's ends for a run to count as in range: what is formed on the
way to a gradient or a moment lies within that factor of it."""


class Extremes:
    """The smallest and largest numbers of a run, step by step: whether it stays in range when the loss is scaled.

    Args:
        runs: whose arms are watched.
    """

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._degrees = {"grad": 1, **{name: runs.setting.algorithm.degrees[name] for name in runs.state}}
        self.low = {name: torch.full(runs.shape[:2], torch.inf) for name in self._degrees}
        self.high = {name: torch.zeros(runs.shape[:2]) for name in self._degrees}

    def see(self, grads: Tensor) -> None:
        """After a step: its gradients, and the states."""
        for name, tensor in {"grad": grads, **self._runs.state}.items():
            size = tensor.float().abs()
            self.high[name] = torch.maximum(self.high[name], size.amax(2))
            self.low[name] = torch.minimum(self.low[name], torch.where(size > 0, size, torch.inf).amin(2))

    def in_range(self, scales: Floats) -> Flags:
        """[inits, arms, scales]: whether every number stays normal, with room, at scale 1 and at the given one."""
        setting = self._runs.setting
        formats = {name: kernels.DTYPES[form] for name, form in vars(setting.policy).items()}
        factor = np.asarray(scales, np.float64)
        inside = np.ones((*self._runs.shape[:2], len(factor)), np.bool_)
        for each in (np.ones_like(factor), factor):
            for name, degree in self._degrees.items():
                low = self.low[name].double().numpy()[..., None] * each**degree
                high = self.high[name].double().numpy()[..., None] * each**degree
                held = [formats["grads"], formats["compute"]] if name == "grad" else [formats["state"]]
                for form in held:
                    inside &= (low >= _SAFE * form.smallest_normal) & (high * _SAFE <= form.largest)
            # The squares on their way into the second moment, and the loss's own factor.
            squares = (self.low["grad"].double().numpy()[..., None] * each) ** 2
            inside &= squares >= _SAFE**2 * kernels.DTYPES[setting.policy.params].smallest_normal
            inside &= (each * _SAFE <= formats["compute"].largest)[None, None]
        return inside
