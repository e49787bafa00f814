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
