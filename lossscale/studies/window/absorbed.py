"""Where an arithmetic absorbs eps: the sum r + eps itself, over roots and quotients drawn at random."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

import kernels
from kernels.rounding import reference as ref

from ...diagnose.rounding import half_ulp
from ...theory import absorption

_DRAWN: Final = 1 << 18
_EXPONENTS: Final = 12
"""Roots lie between 2^-12 and 2^4, quotients within four binades of the border."""

DEFAULT_EPS: Final = 1e-8
VISIBLE_BELOW: Final = 0.25


def exceptions(name: str, seed: int) -> tuple[int, int, int]:
    """Sums r + eps that are not as predicted.

    Args:
        name: of the arithmetic's format.
        seed: of the draws.

    Returns:
        Those against the table: eps seen below its left column, or absorbed above its right; those against the
        staircase, on which eps is seen where it is more than half the spacing at r; and how many there were.
    """
    form, border = kernels.DTYPES[name], absorption(name)
    generator = np.random.Generator(np.random.Philox(key=[seed, form.significant_bits]))
    exponents = generator.uniform(-_EXPONENTS, 4, _DRAWN)
    r = torch.from_numpy(2.0**exponents).to(form.torch).float()
    quotient = torch.from_numpy(2.0 ** generator.uniform(-4, 4, _DRAWN)) * border.visible_above
    eps = (r.double() * quotient).float()
    seen = ref.add_scalar(r, eps, form.torch) != r
    exact = eps.double() / r.double()
    table = (seen & (exact < border.invisible_below)) | (~seen & (exact > border.visible_above))
    half = half_ulp(r.double(), form.significant_bits, form.smallest)
    clear = eps.double() != half  # a tie goes to the even neighbour
    stairs = clear & (seen != (eps.double() > half))
    return int(table.sum()), int(stairs.sum()), _DRAWN


def default_eps_exceptions(seed: int) -> tuple[int, int]:
    """Float32 sums in which 1e-8 is seen although r ≥ 0.25, or absorbed although r < 0.25; and how many there were."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
    r = torch.from_numpy(2.0 ** generator.uniform(-_EXPONENTS, 4, _DRAWN)).float()
    seen = ref.add_scalar(r, torch.tensor(DEFAULT_EPS), torch.float32) != r
    return int((seen != (r < VISIBLE_BELOW)).sum()), _DRAWN
