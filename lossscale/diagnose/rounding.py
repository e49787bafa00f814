"""Number formats by torch's dtype, and the spacing of their numbers."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from kernels import DTYPES

BY_TORCH = {dtype.torch: dtype for dtype in DTYPES.values()}
"""The formats that are known, by torch's dtype."""

_MANTISSA_BITS = 52  # float64's
_EXPONENT = 0x7FF << _MANTISSA_BITS


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
    # A power of two is made of its exponent: torch's own are functions that round. What would lie below float64's
    # normal numbers, as of 0 and its subnormals, becomes negative here, and the format's own spacing is larger.
    if values.device.type == "cpu" and isinstance(significant_bits, int) and isinstance(smallest, float):
        array = values.detach().numpy()  # its calls cost a fraction of torch's on few elements
        spacing = (array.view(np.int64) & _EXPONENT) - (significant_bits << _MANTISSA_BITS)
        found = np.maximum(spacing.view(np.float64), smallest / 2.0)
        finite = np.isfinite(array)
        return torch.from_numpy(found if finite.all() else np.where(finite, found, np.nan))
    exponent = values.view(torch.int64) & _EXPONENT
    half = (exponent - (significant_bits << _MANTISSA_BITS)).view(torch.float64)
    half = torch.clamp(half, min=smallest / 2.0)
    return half + (values - values)  # infinity less itself is NaN


def absorbs_from(eps: float, significant_bits: int, smallest: float) -> float:
    """The smallest positive number that a sum with eps rounds back to, where `half_ulp` is above eps.

    A power of two; float64's smallest number where all positive ones do.
    """
    if smallest / 2.0 > eps:
        return math.ulp(0.0)
    _, exponent = math.frexp(eps)
    return math.ldexp(1.0, exponent + significant_bits)
