"""Dividing by one number for all elements: what 16-bit kernels put in its place is the correctly rounded quotient."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from kernels import bits, interpreter
from kernels.rounding import arithmetic

pytestmark = pytest.mark.interpreter

COUNT = 65536


@triton.jit
def _divide(x_ptr, y_ptr, out_ptr, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    quotient = arithmetic.div_by_scalar(tl.load(x_ptr + index), tl.load(y_ptr), True)
    tl.store(out_ptr + index, quotient)


def _divisors() -> np.ndarray:
    """Roots of bias corrections: float32 from the smallest that there is up to 1, and such rounded to 16 bits."""
    rng = np.random.default_rng(0)
    roots = np.sqrt(np.exp2(-24 * rng.random(24))).astype(np.float32)
    steps = np.sqrt(1 - 0.999 ** np.arange(1, 6)).astype(np.float32)
    narrow = [torch.from_numpy(roots[:6]).to(dtype).float().numpy() for dtype in (torch.bfloat16, torch.float16)]
    near = np.nextafter(np.float32(1), np.float32([0, 1]))
    return np.concatenate([roots, steps, *narrow, near, np.float32([2.0**-12, 0.0])])


def _dividends(kind: str) -> np.ndarray:
    """Roots of second moments: every 16-bit number that is one, float32 over all binades, 0, infinity and NaN."""
    patterns = np.arange(COUNT, dtype=np.uint16)
    if kind == "bf16":
        values = interpreter.from_bfloat16(patterns)
    elif kind == "fp16":
        values = patterns.view(np.float16).astype(np.float32)
    else:
        rng = np.random.default_rng(1)
        values = np.sqrt(rng.random(COUNT) * np.exp2(rng.integers(-149, 128, COUNT))).astype(np.float32)
    # The root of the smallest float32 is the smallest there is; a root of a negative number is NaN.
    smallest, largest = np.sqrt(np.float32(1e-45)), np.sqrt(np.finfo(np.float32).max)
    with np.errstate(invalid="ignore"):
        finite = (values >= smallest) & (values <= largest)
    return np.where(finite | (values == 0) | ~np.isfinite(values), np.abs(values), np.float32(1)).astype(np.float32)


@pytest.mark.parametrize("kind", ["bf16", "fp16", "fp32"])
def test_quotient_by_one_number_is_correctly_rounded(kind: str) -> None:
    x = _dividends(kind)
    for y in _divisors():
        got = torch.empty(COUNT)
        arguments = (torch.from_numpy(x), torch.tensor([float(y)]), got)
        interpreter.launch(_divide, (1, 1, 1), arguments, {"SIZE": COUNT})
        with np.errstate(all="ignore"):
            expected = torch.from_numpy(x / y)
        assert (found := bits.report(got, expected)) is None, f"by {y!r}: {found}"


@triton.jit
def _around_zeros(a_ptr, b_ptr, quotient_ptr, root_ptr, SIZE: tl.constexpr, ZEROS: tl.constexpr):
    index = tl.arange(0, SIZE)
    a = tl.load(a_ptr + index)
    tl.store(quotient_ptr + index, arithmetic.quotient(a, tl.load(b_ptr + index), ZEROS))
    tl.store(root_ptr + index, arithmetic.sqrt(a, tl.float32, ZEROS))


@pytest.mark.parametrize("zeros", [1 << 9, 3 << 9], ids=["by choice", "by product"])
def test_quotients_and_roots_that_step_around_zeros_are_the_same(zeros: int) -> None:
    """Every pair of zeros, subnormal and extreme numbers, infinities, NaN, and random ones of all binades."""
    special = [0.0, 1e-45, 1e-40, 2.0**-126, 2.0**-74, 1e-8, 1.0, 3e38, np.inf, np.nan]
    numbers = np.float32([*special, *(-x for x in special)])
    rng = np.random.default_rng(2)
    drawn = (rng.standard_normal(44) * np.exp2(rng.integers(-149, 127, 44))).astype(np.float32)
    a, b = (x.ravel() for x in np.meshgrid(np.concatenate([numbers, drawn]), np.concatenate([numbers, drawn])))
    count = len(a)
    assert count == 4096
    quotient, root = torch.empty(count), torch.empty(count)
    given = (torch.from_numpy(np.ascontiguousarray(x)) for x in (a, b))
    interpreter.launch(_around_zeros, (1, 1, 1), (*given, quotient, root), {"SIZE": count, "ZEROS": zeros})
    with np.errstate(all="ignore"):
        assert bits.report(quotient, torch.from_numpy(a / b)) is None
        assert bits.report(root, torch.from_numpy(np.sqrt(a))) is None
