"""Whether a device's tables are good enough for an optimistic pass: the operands that could tell are tried once.

Short quotients and roots (`kernels.rounding.arithmetic`) start from rcp.approx and rsqrt.approx, whose bits are those
of a GPU's tables. PTX promises a reciprocal within an ulp, and an inverse root within 2^-22.9 of it. A search through
all operands whose results lie next to a midpoint between two numbers, with all estimates within two ulp and 2^-22.9
(``tests/kernels/test_short_forms.py``), leaves `QUOTIENTS` and `ROOTS`: where those are right, all others are.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import triton
import triton.language as tl

from ..backends import interpreter
from ..rounding import arithmetic as ops
from ..rounding.flags import OPTIMISTIC

QUOTIENTS = ((1.0, float.fromhex("0x1.fffffep0")), (float.fromhex("0x1.aaaaa6p0"), float.fromhex("0x1.fffffap0")))
"""Dividends and divisors, up to powers of two, whose short quotient depends on the table."""
ROOTS = (float.fromhex("0x1.dd26e4p-1"), float.fromhex("0x1.f82294p0"))
"""Numbers, up to powers of four, whose short root does."""
_SIZE = 512


@triton.jit
def short_kernel(given_ptr, found_ptr, SIZE: tl.constexpr, MODE: tl.constexpr):
    """Quotients and roots, float32 [2, SIZE], of dividends, divisors and radicands, float32 [3, SIZE]."""
    at = tl.arange(0, SIZE)
    quotient = ops.quotient(tl.load(given_ptr + at), tl.load(given_ptr + SIZE + at), MODE)
    root = ops.sqrt(tl.load(given_ptr + 2 * SIZE + at), tl.float32, MODE)
    tl.store(found_ptr + at, quotient)
    tl.store(found_ptr + SIZE + at, ops.add_scalar(root, 0.0, tl.float32, MODE))


def operands() -> np.ndarray:
    """float32 [3, 512]: `QUOTIENTS` and `ROOTS` at every scale that a pass vouches for, and ones."""
    given = np.ones((3, _SIZE), np.float32)
    # Divisors are no smaller than the smallest eps, dividends below 2^80.
    pairs = [(np.ldexp(a, min(k, 79)), np.ldexp(b, k)) for a, b in QUOTIENTS for k in range(-76, 100)]
    given[:2, : len(pairs)] = np.array(pairs).T
    radicands = [np.ldexp(x, 2 * k) for x in ROOTS for k in range(-62, 24)]
    given[2, : len(radicands)] = radicands
    return given


@functools.cache
def hold(device: torch.device) -> bool:
    """Whether the device's short quotients and roots are those that IEEE 754 rounds. The host waits, once."""
    given = operands()
    exact = np.stack([given[0] / given[1], np.sqrt(given[2])])
    found = torch.empty(exact.shape, device=device)
    tensors, constants = (torch.from_numpy(given).to(device), found), {"SIZE": _SIZE, "MODE": OPTIMISTIC.value}
    if interpreter.ACTIVE:
        interpreter.launch(short_kernel, (1, 1, 1), tensors, constants)
    else:
        with torch.cuda.device(device):
            short_kernel[(1, 1, 1)](*tensors, **constants, num_warps=1, enable_fp_fusion=False)
    return np.array_equal(found.cpu().numpy(), exact)
