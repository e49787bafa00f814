"""Bits of floating-point tensors as integers: views, differing bits, ulp distances, a mismatch report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_INTEGER = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}


def bit_view(tensor: Tensor) -> Tensor:
    """The same bits as signed integers of the same width (int16, int32 or int64).

    Raises:
        TypeError: for a dtype that is not float64, float32, bfloat16 or float16.
    """
    if tensor.dtype not in _INTEGER:
        raise TypeError(f"tensor of {tensor.dtype}: bits are compared for float64, float32, bfloat16 and float16")
    return tensor.contiguous().view(_INTEGER[tensor.dtype])


def mismatch_mask(a: Tensor, b: Tensor) -> Tensor:
    """bool, where the bits differ; any NaN equals any NaN (payloads are nobody's promise)."""
    return (bit_view(a) != bit_view(b)) & ~(a.isnan() & b.isnan())


def mismatches(a: Tensor, b: Tensor) -> int:
    """Number of elements whose bits differ; any NaN equals any NaN."""
    return int(mismatch_mask(a, b).sum())


def differing_bits(a: Tensor, b: Tensor) -> Tensor:
    """int64, number of differing bits per element (0 to the dtype's width; two NaN count 0)."""
    return set_bits(torch.where(a.isnan() & b.isnan(), 0, bit_view(a) ^ bit_view(b))).to(torch.int64)


def set_bits(words: Tensor) -> Tensor:
    """How many bits of every element of an integer tensor are set: uint8 on a CPU, else int64."""
    if words.device.type != "cpu":
        return _popcount(words)
    # One pass where numpy has an instruction for it; of a signed number it would count the absolute value's.
    array = words.numpy()
    counts = np.bitwise_count(array.view(f"u{array.itemsize}"))
    return torch.from_numpy(np.asarray(counts))  # of a scalar tensor numpy makes a number


def _popcount(words: Tensor) -> Tensor:
    """int64, how many bits of an integer tensor's elements are set, on any device."""
    width = torch.iinfo(words.dtype).bits
    xor = words.to(torch.int64)
    if width < 64:
        xor &= (1 << width) - 1
    # Count by halves: the sums of 2, 4, 8, ... neighbouring bits, for both 32-bit words at once.
    low, high = xor & 0xFFFFFFFF, (xor >> 32) & 0xFFFFFFFF
    return _popcount32(low) + (_popcount32(high) if width == 64 else 0)


def _popcount32(x: Tensor) -> Tensor:
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x * 0x01010101) & 0xFFFFFFFF) >> 24


def ordered(tensor: Tensor) -> Tensor:
    """int64 numbers in the order of the floats: neighbours differ by 1, -0 and +0 are the same number."""
    bits = bit_view(tensor)
    magnitude, sign = bits & torch.iinfo(bits.dtype).max, bits >> (8 * bits.itemsize - 1)  # the sign's is 0 or -1
    return ((magnitude ^ sign) - sign).to(torch.int64)


def ulp_distance(a: Tensor, b: Tensor) -> Tensor:
    """int64, how many representable numbers lie from a to b; 0 for two NaN, the largest int64 for one."""
    distance = (ordered(a) - ordered(b)).abs()
    nan_a, nan_b = a.isnan(), b.isnan()
    distance = torch.where(nan_a & nan_b, 0, distance)
    return torch.where(nan_a ^ nan_b, torch.iinfo(torch.int64).max, distance)


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """Where and how two tensors first differ.

    Attributes:
        count: elements that differ.
        index: flat index of the first.
        left, right: its bits in hexadecimal.
        max_ulp: largest ulp distance.
    """

    count: int
    index: int
    left: str
    right: str
    max_ulp: int

    def __str__(self) -> str:
        first = f"first at {self.index}: {self.left} against {self.right}"
        return f"{self.count} elements differ, {first}, up to {self.max_ulp} ulp"


def report(a: Tensor, b: Tensor) -> Mismatch | None:
    """The first mismatch of ``a`` against ``b``, or None if all bits agree."""
    wrong = mismatch_mask(a, b).flatten()
    if not bool(wrong.any()):
        return None
    index = int(wrong.nonzero()[0])
    digits = a.element_size() * 2
    mask = (1 << (4 * digits)) - 1
    left, right = (f"0x{int(bit_view(x).flatten()[index]) & mask:0{digits}x}" for x in (a, b))
    return Mismatch(count=int(wrong.sum()), index=index, left=left, right=right, max_ulp=int(ulp_distance(a, b).max()))
