"""Loss scales as torch.amp.GradScaler keeps them, one per model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

INITIAL: Final = 2.0**16
"""torch.amp.GradScaler's first scale, and the static one."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """When a scale changes; the defaults are torch.amp.GradScaler's.

    Attributes:
        factor: by which it grows.
        backoff: by which it shrinks at an overflow.
        interval: steps in a row without an overflow after which it grows; 0 for a scale that never changes.
    """

    factor: float = 2.0
    backoff: float = 0.5
    interval: int = 2000


STATIC: Final = Growth(factor=1.0, backoff=1.0, interval=0)
"""A scale that stays; steps that overflow are skipped all the same."""

GROWTHS: Final = {"static": STATIC, "dynamic": Growth()}
"""By the name that a grid gives."""


class Scalers:
    """A GradScaler for each of many models: one that overflows skips its step alone, and its own scale shrinks.

    Args:
        models: how many.
        growth: when scales change.
        initial: the first scale of all.
        device: where.

    Attributes:
        scale: [models] float32, by which the losses are multiplied.
    """

    def __init__(
        self, models: int, growth: Growth, *, initial: float = INITIAL, device: torch.device | str = "cpu"
    ) -> None:
        self._growth = growth
        self.scale = torch.full((models,), initial, dtype=torch.float32, device=device)
        self._since = torch.zeros(models, dtype=torch.int64, device=device)

    def found_inf(self, grads: Tensor) -> Tensor:
        """[models] float32: 1 where a gradient of the scaled loss, [models, n], is infinite or NaN."""
        return (~grads.isfinite()).any(1).float()

    def update(self, found_inf: Tensor) -> None:
        """After a step: `found_inf` of its gradients."""
        if not self._growth.interval:
            return
        found = found_inf == 1
        grown = self.scale * self._growth.factor
        self._since = torch.where(found, 0, self._since + 1)
        due = self._since == self._growth.interval
        # As torch's: what would grow beyond float32 stays.
        unchanged = torch.where(due & grown.isfinite(), grown, self.scale)
        self.scale = torch.where(found, self.scale * self._growth.backoff, unchanged)
        self._since = torch.where(due, 0, self._since)
