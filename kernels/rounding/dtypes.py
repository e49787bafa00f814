"""What is known of a dtype, in one table: its names in torch and Triton, its width, its precision and its range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import triton.language as tl


@dataclass(frozen=True, kw_only=True)
class Dtype:
    """A floating-point format that the kernels step.

    Attributes:
        name: ``fp32``, ``bf16`` or ``fp16``.
        torch: its dtype in torch.
        triton: its dtype in Triton.
        bytes: of one element.
        significant_bits: with the hidden one.
        smallest_normal: below it numbers are subnormal.
        smallest: the smallest positive number.
        largest: the largest finite number.
    """

    name: str
    torch: torch.dtype
    triton: tl.dtype
    bytes: int
    significant_bits: int
    smallest_normal: float
    smallest: float
    largest: float


def _dtype(name: str, kind: torch.dtype, triton: tl.dtype, significant_bits: int) -> Dtype:
    info = torch.finfo(kind)
    return Dtype(
        name=name,
        torch=kind,
        triton=triton,
        bytes=kind.itemsize,
        significant_bits=significant_bits,
        smallest_normal=info.tiny,
        smallest=info.tiny * info.eps,
        largest=info.max,
    )


DTYPES: Mapping[str, Dtype] = {
    dtype.name: dtype
    for dtype in (
        _dtype("fp32", torch.float32, tl.float32, 24),
        _dtype("bf16", torch.bfloat16, tl.bfloat16, 8),
        _dtype("fp16", torch.float16, tl.float16, 11),
    )
}
"""By the names that the kernels, the policies and the commands use."""

BY_TORCH: Mapping[torch.dtype, Dtype] = {dtype.torch: dtype for dtype in DTYPES.values()}
"""The same by torch's dtype: what is not here cannot be stepped."""

NAMES = ", ".join(str(dtype.torch).removeprefix("torch.") for dtype in DTYPES.values())
"""All of them in words, for errors."""
