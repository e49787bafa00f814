"""The bias corrections that a rule reads from the device by step, as tables.

Three kinds, each a float32 array whose element t - 1 belongs to step t:

- `place`: ``1 - powf(beta, t)`` in float32, of torch's fused and capturable Adam. CUDA's powf is not correctly rounded,
  so no formula gives it elsewhere. On a GPU torch's own elementwise pow fills the table; on the CPU it is the recording
  ``bias_corrections.npz`` (ten betas, 20,000 steps). For a beta or a step outside the recording the CPU uses the
  float32 rounding of the double value, which can differ from a GPU by an ulp: `PowerTable.unrecorded` names them.
- `place_double`: ``1 - pow(beta, t)`` in double, narrowed once, of torch's mixed fused Adam (torch >= 2.13, float32
  parameters with bfloat16 states).
- `place_double_root`: for ``sqrt(1 - pow(beta, t))`` of that kernel, taken in double and narrowed once to r. The table
  holds r·r rounded to float32, whose correctly rounded root is r again, so that one rule serves both kernels.

Narrowing hides the last bits of a double pow: for the ten recorded betas and 0.99999 no entry of the double tables
changes if the pow is off by four ulp either way (CUDA's bound is two), so a CPU's are those of a GPU.

A table ends at the first step with beta^step <= 2^-25, from where 1 - beta^step rounds to 1. float32 step counters stop
at 2^24, so no table is longer.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .power import power_grid

BIAS_CORRECTIONS = Path(__file__).with_name("bias_corrections.npz")
"""The recording: float32 arrays named by beta, element t - 1 is 1 - powf(beta, t)."""

_LIMIT = 2**24
_ROOM = 1 << 20
"""Numbers that there is room for at first, 4 MB: more than any fixed betas take."""
_OFTEN = 64
"""Tables are begun anew after so many formations at the soonest; where that is too soon, there is to be more room."""

Formed = TypeVar("Formed")


@functools.cache
def _recorded() -> dict[float, np.ndarray]:
    """The recording by beta as powf takes it: narrowed to float32."""
    with np.load(BIAS_CORRECTIONS) as archive:
        return {_narrowed(float(name)): archive[name] for name in archive.files}


def _narrowed(beta: float) -> float:
    return float(np.float32(beta))


def _length(beta: float) -> int:
    """Steps until the power rounds away against 1, with a margin for the power's error."""
    if beta <= 0.0:
        return 1
    if beta >= 1.0:
        return _LIMIT
    return min(_LIMIT, math.ceil(25 * math.log(2) / -math.log(beta)) + 2)


def _on_cpu(beta32: float, length: int) -> tuple[np.ndarray, bool]:
    """The table of a narrowed beta and whether all of it was recorded from CUDA's powf."""
    recorded = _recorded().get(beta32, np.empty(0, np.float32))[:length]
    if recorded.size == length:
        return recorded, True
    raised = _raised(beta32, recorded.size + 1, length).astype(np.float32)
    return np.concatenate([recorded, np.float32(1.0) - raised]), beta32 in (0.0, 1.0)


def _raised(beta: float, first: int, last: int) -> np.ndarray:
    """The powers of a beta at steps ``first`` to ``last``."""
    return power_grid(np.array([beta], np.float64), np.arange(first, last + 1)).reshape(-1)


def reciprocal(x: Any) -> Any:
    """1 / x in double, infinity for 0; of one record's number or of a column of many records'."""
    if isinstance(x, int | float):
        return 1.0 / x if x else float("inf")
    return 1.0 / abs(x)


class PowerTable:
    """The tables of all betas used on one device, in one float32 tensor.

    New ones are added behind the others, in place while there is room. A schedule may bring another beta at every step
    (OneCycleLR): when the room is used up, all are forgotten and another tensor is begun, while whoever still reads the
    old one keeps it (`formed`).

    Attributes:
        values: float32 tensor; a rule reads it at ``offset + step - 1``.
        generation: how often tables were begun anew; places of an earlier one are not those of today.
        unrecorded: betas among them whose CPU table of powf is not wholly recorded from a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.generation = 0
        self._lock = threading.RLock()
        self._room = _ROOM
        self._formations = 0
        self._begin()

    def _begin(self) -> None:
        self.values = self._zeros(1)
        self._used = 1
        self.unrecorded: set[float] = set()
        self._whole: dict[float, bool] = {}
        self._places: dict[tuple[str, float], tuple[float, float]] = {}

    def _zeros(self, count: int) -> Tensor:
        # Tensors made in inference mode could not be written outside of it.
        with torch.inference_mode(False):
            return torch.zeros(count, dtype=torch.float32, device=self.device)

    def formed(self, form: Callable[[], Formed]) -> tuple[Formed, Tensor]:
        """What is formed of places, and the values that these are places in: whoever keeps the one keeps the other."""
        with self._lock:
            if self._used > self._room:
                if self._formations < _OFTEN:
                    self._room *= 2
                else:
                    self.generation, self._formations = self.generation + 1, 0
                    self._begin()
            found = form()
            self._formations += 1
            if self._formations == 1:
                # One launch may need more than there is room for.
                self._room = max(self._room, 2 * self._used)
            return found, self.values

    def place(self, beta: float) -> tuple[float, float]:
        """Offset and length of the table of ``1 - powf(beta, t)``, built at its first use."""
        # Keyed by what powf sees, so that every spelling of a beta (a tensor's value, numpy's) has the same table.
        beta32 = _narrowed(beta)
        with self._lock:
            found = self._place("powf", beta32)
            if self.device.type != "cuda" and not self._whole[beta32]:
                self.unrecorded.add(float(beta))
            return found

    def place_double(self, beta: float) -> tuple[float, float]:
        """The same of ``1 - pow(beta, t)``, formed in double."""
        return self._place("pow", float(beta))

    def place_double_root(self, beta: float) -> tuple[float, float]:
        """The same of the float32 numbers whose root is ``sqrt(1 - pow(beta, t))``, formed in double."""
        return self._place("root", float(beta))

    def _place(self, kind: str, beta: float) -> tuple[float, float]:
        with self._lock:
            if (kind, beta) not in self._places:
                table = self._powf(beta) if kind == "powf" else self._double(beta, root=kind == "root")
                begin, end = self._used, self._used + table.numel()
                if end > len(self.values):
                    values = self._zeros(max(_ROOM, 2 * end))
                    values[:begin] = self.values[:begin]
                    self.values = values
                self.values[begin:end] = table
                self._used = end
                self._places[kind, beta] = (float(begin), float(table.numel()))
            return self._places[kind, beta]

    def _powf(self, beta32: float) -> Tensor:
        length = _length(beta32)
        if self.device.type == "cuda":
            steps = torch.arange(1, length + 1, dtype=torch.float32, device=self.device)
            return 1 - torch.pow(beta32, steps)
        table, self._whole[beta32] = _on_cpu(beta32, length)
        return torch.from_numpy(np.ascontiguousarray(table)).to(self.device)

    def _double(self, beta: float, *, root: bool) -> Tensor:
        length = _length(beta)
        if self.device.type == "cuda":
            correction = 1 - torch.pow(beta, torch.arange(1, length + 1, dtype=torch.float64, device=self.device))
            return correction.sqrt_().float().square_() if root else correction.float()
        # numpy's root is correctly rounded on every CPU; torch's is not.
        exact = 1 - _raised(beta, 1, length)
        narrowed = np.sqrt(exact).astype(np.float32) ** 2 if root else exact.astype(np.float32)
        return torch.from_numpy(narrowed).to(self.device)


@functools.cache
def power_table(device: torch.device) -> PowerTable:
    """The one `PowerTable` of a device."""
    return PowerTable(device)
