"""The gate: a provider whose bits are known has no time where they are wrong."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from ..conformance import bitwise


class Stepped(Protocol):
    """A provider that is being timed: parameters that have taken so many steps."""

    steps: int
    parameters: list[torch.Tensor]

    def step(self) -> Any:
        """One more step."""


def differing(mine: Stepped, reference: Stepped, block: int = 1) -> int | None:
    """Elements of the parameters that differ after equally many steps; whoever is behind catches up first.

    Args:
        mine: whose bits are known.
        reference: whose bits they should be.
        block: only tensors of a multiple of so many elements are compared; None when there is no such tensor.
    """
    for slower in (mine, reference):
        while slower.steps < max(mine.steps, reference.steps):
            slower.step()
    pairs = [pair for pair in zip(mine.parameters, reference.parameters, strict=True) if pair[0].numel() % block == 0]
    # One number comes back from the device, not one per tensor.
    counts = [bitwise.unequal(a.detach().reshape(-1), b.detach().reshape(-1)).sum() for a, b in pairs]
    return int(torch.stack(counts).sum()) if counts else None


def reason(count: int, of: int, reference: str) -> str:
    """Why a row has no time."""
    return f"wrong bits: {count} of {of} elements are not those of {reference}, so there is no time"
