"""The bias corrections of torch's fused Adam: ``1 - powf(beta, step)`` in float32, as tables.

CUDA's powf is not correctly rounded, so the corrections cannot be computed from a formula elsewhere. On a GPU torch's
own elementwise pow fills the table; on the CPU it is the recording ``bias_corrections.npz`` (ten betas, 20,000 steps).
For a beta or a step outside the recording the CPU uses the float32 rounding of the double value, which can differ from
a GPU by an ulp: `PowerTable.unrecorded` names those betas.

A table ends at the first step with beta^step <= 2^-25, from where 1 - beta^step rounds to 1. float32 step counters stop
at 2^24, so no table is longer.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

BIAS_CORRECTIONS = Path(__file__).with_name("bias_corrections.npz")
"""The recording: float32 arrays named by beta, element t - 1 is 1 - powf(beta, t)."""

_LIMIT = 2**24


@functools.cache
def _recorded() -> dict[str, np.ndarray]:
    with np.load(BIAS_CORRECTIONS) as archive:
        return {name: archive[name] for name in archive.files}


def _length(beta32: float) -> int:
    """Steps until the power rounds away against 1, with a margin for powf's error."""
    if beta32 <= 0.0:
        return 1
    if beta32 >= 1.0:
        return _LIMIT
    return min(_LIMIT, math.ceil(25 * math.log(2) / -math.log(beta32)) + 2)


def _on_cpu(beta: float, length: int) -> tuple[np.ndarray, bool]:
    """The table of a beta and whether all of it was recorded from CUDA's powf."""
    recorded = _recorded().get(repr(beta), np.empty(0, np.float32))[:length]
    if recorded.size == length:
        return recorded, True
    beta32 = float(np.float32(beta))
    steps = np.arange(recorded.size + 1, length + 1, dtype=np.float64)
    power = np.power(beta32, steps).astype(np.float32)
    return np.concatenate([recorded, np.float32(1.0) - power]), beta32 in (0.0, 1.0)


class PowerTable:
    """The tables of all betas used on one device, in one float32 tensor.

    Attributes:
        values: float32 tensor; a rule reads it at ``offset + step - 1``.
        unrecorded: betas whose CPU table is not wholly recorded from a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.values = torch.zeros(1, dtype=torch.float32, device=device)
        self.unrecorded: set[float] = set()
        self._places: dict[float, tuple[float, float]] = {}

    def place(self, beta: float) -> tuple[float, float]:
        """Offset and length of the table of ``beta``, built at its first use."""
        if beta not in self._places:
            table = self._table(beta)
            self._places[beta] = (float(self.values.numel()), float(table.numel()))
            self.values = torch.cat([self.values, table])
        return self._places[beta]

    def _table(self, beta: float) -> Tensor:
        beta32 = float(np.float32(beta))
        length = _length(beta32)
        if self.device.type == "cuda":
            steps = torch.arange(1, length + 1, dtype=torch.float32, device=self.device)
            return 1 - torch.pow(beta32, steps)
        table, whole = _on_cpu(beta, length)
        if not whole:
            self.unrecorded.add(beta)
        return torch.from_numpy(np.ascontiguousarray(table)).to(self.device)


@functools.cache
def power_table(device: torch.device) -> PowerTable:
    """The one `PowerTable` of a device."""
    return PowerTable(device)
