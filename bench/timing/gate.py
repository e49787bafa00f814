"""The gate: a provider whose bits are known has no time where they are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from ..conformance import bitwise


class Stepped(Protocol):
    """A provider that is being timed: parameters that have taken so many steps."""

    steps: int
    parameters: list[torch.Tensor]

    def step(self) -> Any:
        """One more step."""


def differing(mine: Stepped, reference: Stepped) -> int:
    """Elements of the parameters that differ after equally many steps; whoever is behind catches up first."""
    for slower in (mine, reference):
        while slower.steps < max(mine.steps, reference.steps):
            slower.step()
    return count_differing(mine.parameters, reference.parameters)


def count_differing(mine: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> int:
    """Elements that differ, NaN equal to NaN."""
    pairs = zip(mine, other, strict=True)
    return sum(int(bitwise.unequal(a.detach().reshape(-1), b.detach().reshape(-1)).sum()) for a, b in pairs)


def reason(count: int, of: int, reference: str) -> str:
    """Why a row has no time."""
    return f"wrong bits: {count} of {of} elements are not those of {reference}, so there is no time"
