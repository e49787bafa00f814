"""The building blocks of `arithmetic.py` as tensor operations: the oracle, on any device.

Values are float32 tensors holding what the storage dtype holds. ``torch.addcmul(c, a, b)`` is one hardware fma wherever
torch runs its AVX2, AVX-512 or CUDA kernels; `fma` checks that once per device and otherwise computes the same value in
float64 with round-to-odd. A CPU's ``Tensor.sqrt`` is not correctly rounded, a float64 root narrowed once is.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

Dtype = torch.dtype


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a reference rule knows besides the tensors of its element.

    Attributes:
        row: host scalars, float64, [columns] for one tensor or [columns, models, 1] for a population.
        step: float32 step number, after the increment; 0-dim or [models, 1].
        powers: float32 bias-correction tables (`kernels.rounding.powers`).
        lane: position in the unrolled loop of torch's fused kernels, 0-3 on its aligned path and 4-7 on the other.
        flags: bit mask of `kernels.rounding.flags`.
        dtype: the parameter's dtype. Eager recipes round after every operation, to its result's dtype: this one, or
        grad: that of lines that make a gradient (see `kernels.launch.dtypes.line_dtypes`), or
        state: that of lines that make a state.
    """

    row: Tensor
    step: Tensor
    powers: Tensor
    lane: Tensor
    flags: int
    dtype: torch.dtype
    grad: torch.dtype
    state: torch.dtype

    def has(self, flag: tl.constexpr) -> bool:
        """Whether an option of `kernels.rounding.flags` is on."""
        return bool(self.flags & flag.value)


def promoted(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """The dtype of an operation on tensors of two dtypes: of float32, bfloat16 and float16, any two give float32."""
    return a if a == b else torch.float32


def _fma_by_round_to_odd(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a·b + c rounded once, for float32: the product is exact in float64, the sum is rounded to odd, then narrowed."""
    product = a.double() * b.double()
    addend = c.double()
    total = product + addend
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    bits = total.view(torch.int64)
    inexact = (error != 0) & torch.isfinite(total) & torch.isfinite(error)
    even = (bits & 1) == 0
    away = (error > 0) == (total > 0)
    odd = torch.where(inexact & even, torch.where(away, bits + 1, bits - 1), bits)
    return odd.view(torch.float64).float()


@functools.cache
def addcmul_is_fma(device: str, dtype: torch.dtype) -> bool:
    """Whether ``torch.addcmul`` with value 1 rounds once here (not under ATEN_CPU_CAPABILITY=default)."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(4099, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    c = (-(a * b)).to(dtype)
    fused = torch.addcmul(c.to(device), a.to(device), b.to(device)).cpu()
    # With one rounding, a·b - rn(a·b) is the product's rounding error, which is almost never 0; with two it always is.
    return bool((fused != 0).sum() > 2000)


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a·b + c with one rounding, broadcasting, float32 or float64.

    Raises:
        RuntimeError: for float64 where torch has no hardware fma (ATEN_CPU_CAPABILITY=default).
    """
    if addcmul_is_fma(c.device.type, c.dtype):
        return torch.addcmul(c, a, b)
    if c.dtype == torch.float64:
        raise RuntimeError(
            "ATEN_CPU_CAPABILITY: torch's float64 addcmul is no fused multiply-add here, and fused Adagrad needs one; "
            "unset ATEN_CPU_CAPABILITY on a CPU with AVX2, or choose recipe='foreach'"
        )
    return _fma_by_round_to_odd(a, b, c)


def narrow(row: Tensor) -> tuple[Tensor, ...]:
    """The host scalars of a row, each narrowed once from double to float32."""
    return row.float().unbind(0)


def bias_correction(powers: Tensor, offset: Tensor, length: Tensor, step: Tensor) -> Tensor:
    """``1 - powf(beta, step)`` from the table (see `arithmetic.bias_correction`)."""
    index = torch.minimum(step.to(torch.int64) - 1, length.to(torch.int64) - 1)
    return powers[offset.to(torch.int64) + index]


def round_to(x: Tensor, dtype: Dtype) -> Tensor:
    """Round float32 to ``dtype`` (nearest even) and widen again."""
    return x if dtype == torch.float32 else x.to(dtype).float()


def negate(x: Tensor) -> Tensor:
    """Flip the sign bit."""
    return -x


def mul(x: Tensor, s: Tensor, dtype: Dtype) -> Tensor:
    """``x.mul_(s)``."""
    return round_to(x * s, dtype)


def add_scaled(x: Tensor, other: Tensor, alpha: Tensor, dtype: Dtype) -> Tensor:
    """``x.add(other, alpha=alpha)``: one fma."""
    return round_to(fma(other, alpha, x), dtype)


def add_scalar(x: Tensor, s: Tensor, dtype: Dtype) -> Tensor:
    """``x.add_(s)``."""
    return round_to(x + s, dtype)


def div(x: Tensor, y: Tensor, dtype: Dtype) -> Tensor:
    """``x / y``, correctly rounded."""
    return round_to(x / y, dtype)


def exact_sqrt(x: Tensor) -> Tensor:
    """The correctly rounded float32 root (a float64 root has enough bits to be rounded twice without harm)."""
    return x.double().sqrt_().float()


def sqrt(x: Tensor, dtype: Dtype) -> Tensor:
    """``x.sqrt()``, correctly rounded."""
    return round_to(exact_sqrt(x), dtype)


def lerp(x: Tensor, end: Tensor, weight: Tensor, dtype: Dtype) -> Tensor:
    """``x.lerp_(end, weight)``: from the nearer end, with 1 - weight formed in float32."""
    difference = end - x
    near = weight.abs() < 0.5
    if bool(near.all()):
        return round_to(fma(difference, weight, x), dtype)
    from_end = fma(-(1 - weight), difference, end)
    return round_to(torch.where(near, fma(difference, weight, x), from_end), dtype)


def addcmul(x: Tensor, a: Tensor, b: Tensor, value: Tensor, dtype: Dtype) -> Tensor:
    """``x.addcmul_(a, b, value=value)``: a·b + x is fused when value is 1; otherwise a·b is rounded first."""
    one = value == 1
    scaled = fma(a * b, value, x)
    return round_to(torch.where(one, fma(a, b, x), scaled) if bool(one.any()) else scaled, dtype)


def addcdiv(x: Tensor, a: Tensor, b: Tensor, value: Tensor, dtype: Dtype) -> Tensor:
    """``x.addcdiv_(a, b, value=value)``: the quotient is rounded, then one fma."""
    return round_to(fma(a / b, value, x), dtype)


def maximum(a: Tensor, b: Tensor) -> Tensor:
    """``torch.maximum``: NaN in either operand propagates."""
    return torch.where((a > b) | a.isnan(), a, b)
