"""Number formats by torch's dtype, and the spacing of their numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels import DTYPES

BY_TORCH = {dtype.torch: dtype for dtype in DTYPES.values()}
"""The formats that are known, by torch's dtype."""

_EXPONENT_BIAS, _MANTISSA_BITS = 1023, 52  # float64's


def half_ulp(values: Tensor, significant_bits: int | Tensor, smallest: float | Tensor) -> Tensor:
    """Half the spacing of a format's numbers at each value (above it, where the value is a power of two).

    A change smaller than that is lost when the sum is rounded to the nearest; toward 0 from a power of two, one of half
    that size.

    Args:
        values: float64, of any shape.
        significant_bits: of the format, the hidden one included; or one per value.
        smallest: the format's smallest positive number; or one per value.

    Returns:
        float64, of that shape; NaN where a value is not finite.
    """
    _, exponent = torch.frexp(torch.where(values == 0, smallest, values))
    # A power of two is made of its exponent: torch's own are functions that round.
    spacing = ((exponent.long() - significant_bits + _EXPONENT_BIAS) << _MANTISSA_BITS).view(torch.float64)
    # The spacing of subnormal numbers, and of those just above, is the smallest one.
    spacing = torch.clamp(spacing, min=torch.as_tensor(smallest, dtype=torch.float64))
    return torch.where(values.isfinite(), spacing / 2.0, torch.nan)
