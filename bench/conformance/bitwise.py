"""Comparing tensors as bit patterns, on top of `kernels.bits`: equal bits, or both NaN."""

from __future__ import annotations

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


def as_hex(tensor: torch.Tensor, index: int) -> str:
    """The bit pattern of element `index` (of the flattened tensor) in hexadecimal."""
    width = 8 * tensor.element_size()
    flat = bits.bit_view(tensor.detach().reshape(-1))
    return f"0x{int(flat[index]) & ((1 << width) - 1):0{width // 4}x}"
