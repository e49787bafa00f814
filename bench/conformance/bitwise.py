"""Comparing tensors as bit patterns, on top of `kernels.bits`: equal bits, or both NaN."""

from __future__ import annotations

import math
from typing import Any

import torch

from kernels import bits

integer_view = bits.bit_view
unequal = bits.mismatch_mask


def count_bits(a: torch.Tensor, b: torch.Tensor) -> int:
    """Number of differing bits over all elements; elements that are NaN on both sides count none."""
    return int(bits.differing_bits(a, b).sum())


def max_ulp(a: torch.Tensor, b: torch.Tensor) -> int:
    """Largest distance in units in the last place; the largest int64 when one side alone has a NaN."""
    return int(bits.ulp_distance(a, b).max()) if a.numel() else 0


def furthest(a: torch.Tensor, b: torch.Tensor) -> int:
    """The element with the largest distance."""
    return int(bits.ulp_distance(a, b).argmax())


def described(quantity: str, index: int, provider: torch.Tensor, against: torch.Tensor, ulp: int) -> dict[str, Any]:
    """A pair of elements as a document has it; infinities and NaN as text."""
    numbers = {"provider": float(provider[index]), "against": float(against[index])}
    shown = {side: value if math.isfinite(value) else str(value) for side, value in numbers.items()}
    return {"quantity": quantity, "index": index, "ulp": ulp, **shown}


def as_hex(tensor: torch.Tensor, index: int) -> str:
    """The bit pattern of element `index` (of the flattened tensor) in hexadecimal."""
    width = 8 * tensor.element_size()
    flat = bits.bit_view(tensor.detach().reshape(-1))
    return f"0x{int(flat[index]) & ((1 << width) - 1):0{width // 4}x}"


def histogram(a: torch.Tensor, b: torch.Tensor) -> dict[str, int]:
    """How many elements are how far apart in ulp: 0, 1, 2, 3-4, 5-8, ... and NaN on one side."""
    return ulp_histogram(bits.ulp_distance(a, b).double())


def ulp_histogram(distance: torch.Tensor) -> dict[str, int]:
    """Elements by distance, doubling from bin to bin; the last bin is for a NaN on one side."""
    counts: dict[str, int] = {}
    far = float(2**40)
    nan = int((distance > far).sum())
    low, high = -1.0, 0.0
    while high <= far:
        if count := int(((distance > low) & (distance <= high)).sum()):
            counts[f"{low + 1:.0f}" if high - low <= 1 else f"{low + 1:.0f}-{high:.0f}"] = count
        low, high = high, max(1.0, 2 * high)
    return {**counts, **({"not a number": nan} if nan else {})}
