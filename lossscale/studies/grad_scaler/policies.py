"""Two policies of dynamic loss scaling on a gradient maximum that wanders, many chains at once, in powers of two.

A chain is one training: its largest gradient under the unscaled loss, as log2, follows a slow Ornstein-Uhlenbeck
process; a step overflows where scale · maximum leaves float16. Only exponents matter, so a scale is an integer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Policy(Protocol):
    """A scale per chain."""

    exponent: npt.NDArray[np.int64]

    def update(self, overflow: Flags) -> None:
        """After a step."""


class Torch:
    """torch.amp.GradScaler: × 2 after 2,000 steps in a row without an overflow, ÷ 2 at one."""

    def __init__(self, chains: int, *, interval: int = 2000) -> None:
        self.exponent = np.zeros(chains, np.int64)
        self._since = np.zeros(chains, np.int64)
        self._interval = interval

    def update(self, overflow: Flags) -> None:
        """As ``torch._amp_update_scale_``."""
        self._since = np.where(overflow, 0, self._since + 1)
        grows = self._since == self._interval
        self.exponent += grows.astype(np.int64) - overflow
        self._since[grows] = 0


class DeepSpeed:
    """DeepSpeed's DynamicLossScaler: window 1,000, hysteresis 2 that a growth restores (consecutive_hysteresis off)."""

    def __init__(self, chains: int, *, window: int = 1000, hysteresis: int = 2) -> None:
        self.exponent = np.zeros(chains, np.int64)
        self._left = np.full(chains, hysteresis)
        self._last = np.full(chains, -1)
        self._step = 0
        self._window, self._hysteresis = window, hysteresis

    def update(self, overflow: Flags) -> None:
        """The first overflow after a growth costs a step only; the next ones halve the scale too."""
        halves = overflow & (self._left == 1)
        self._left = np.where(overflow & ~halves, self._left - 1, self._left)
        self._last = np.where(overflow, self._step, self._last)
        grows = ~overflow & ((self._step - self._last) % self._window == 0)
        self._left[grows] = self._hysteresis
        self.exponent += grows.astype(np.int64) - halves
        self._step += 1


@dataclass(frozen=True, kw_only=True)
class Wander:
    """log2 of the gradient maximum: x' = (1 − 1/time) x + step · N(0, 1), in binades.

    Attributes:
        step: what it moves at every step, about.
        time: steps in which it forgets.
    """

    step: float
    time: float = 20_000.0


def skip_rates(
    policies: tuple[Policy, ...], wander: Wander, *, steps: int, chains: int, seed: int, burn_in: int
) -> list[Floats]:
    """For every policy [chains]: the share of steps after the burn-in that overflow; all see the same maxima."""
    generator = np.random.default_rng(seed)
    x = np.zeros(chains)
    skipped = [np.zeros(chains) for _ in policies]
    for step in range(burn_in + steps):
        if wander.step:
            x += wander.step * generator.standard_normal(chains) - x / wander.time
        for policy, count in zip(policies, skipped, strict=True):
            overflow = policy.exponent + x > 0
            policy.update(overflow)
            if step >= burn_in:
                count += overflow
    return [count / steps for count in skipped]
