"""The interpreter's own arithmetic, against exact rationals and every pattern."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from kernels import interpreter
from kernels.rounding import reference

rng = np.random.default_rng(0)
needs_fma64 = pytest.mark.skipif(
    not reference.addcmul_is_fma("cpu", torch.float64), reason="torch's addcmul rounds twice on this CPU"
)


def _round_float32(x: Fraction) -> np.float32:
    """The float32 nearest to a rational, ties to even, by bisection over bit patterns."""
    if x == 0:
        return np.float32(0)
    sign, x = (-1, -x) if x < 0 else (1, x)
    low, high = 0, 0x7F800000
    while high - low > 1:
        middle = (low + high) // 2
        value = Fraction(float(np.uint32(middle).view(np.float32)))
        low, high = (middle, high) if value <= x else (low, middle)
    below = Fraction(float(np.uint32(low).view(np.float32)))
    top = Fraction(2) ** 128 if high == 0x7F800000 else Fraction(float(np.uint32(high).view(np.float32)))
    up = (x - below, low & 1) > (top - x, high & 1)
    return np.float32(sign) * np.uint32(high if up else low).view(np.float32)


def _operands(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    def wide(span: int) -> np.ndarray:
        return (rng.standard_normal(count) * np.exp2(rng.integers(-span, span, count))).astype(np.float32)

    a, b, c = wide(40), wide(40), wide(40)
    near = count // 2
    # Cancellation, and sums that fall next to a tie.
    c[:near] = (-a[:near] * b[:near] * rng.choice([1, 1 + 2**-23, 2, 0.5], near)).astype(np.float32)
    a[near : near + 200] *= np.float32(2**-70)
    b[near : near + 200] *= np.float32(2**-70)
    c[near : near + 200] = (rng.integers(-50, 50, 200) * 2.0**-149).astype(np.float32)
    return a, b, c


def test_fma_rounds_once() -> None:
    a, b, c = _operands(3000)
    got = interpreter.fma(a, b, c)
    exact = [
        _round_float32(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)))
        for x, y, z in zip(a, b, c, strict=True)
    ]
    assert np.array_equal(np.abs(got).view(np.uint32), np.abs(np.array(exact, np.float32)).view(np.uint32))
    twice = a * b + c
    assert (twice != got).sum() > 100, "the operands do not tell one rounding from two"


@needs_fma64
def test_fma_rounds_once_in_double_too() -> None:
    a, b = (rng.standard_normal(3000) * np.exp2(rng.integers(-40, 40, 3000)) for _ in range(2))
    c = -a * b * rng.choice([1, 1 + 2**-52, 2, 0.5], 3000)
    got = interpreter.fma(a, b, c)
    # Python rounds the quotient of two integers once.
    operands = zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    exact = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in operands]
    assert np.array_equal(got, np.array(exact))
    assert (a * b + c != got).sum() > 100, "the operands do not tell one rounding from two"


def test_fma_in_double_is_refused_where_torch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "addcmul_is_fma", lambda device, dtype: False)
    with pytest.raises(RuntimeError, match="ATEN_CPU_CAPABILITY"):
        interpreter.fma(*[np.ones(1)] * 3)


def test_fma_keeps_signed_zero_and_nonfinite_values() -> None:
    inf, nan = np.float32(np.inf), np.float32(np.nan)
    one, zero = np.float32(1), np.float32(0)
    cases = [(one, -zero, -zero, -0.0), (one, zero, -zero, 0.0), (inf, one, -one, np.inf), (inf, zero, one, np.nan)]
    cases += [(nan, one, one, np.nan), (inf, one, -inf, np.nan), (np.float32(3e38), np.float32(2), -inf, -np.inf)]
    with np.errstate(all="ignore"):
        for a, b, c, expected in cases:
            got = interpreter.fma(np.array([a]), np.array([b]), np.array([c]))[0]
            assert np.array_equal(got, np.float32(expected), equal_nan=True)
            assert np.isnan(got) or np.signbit(got) == np.signbit(expected)


def test_fma_refuses_other_dtypes() -> None:
    with pytest.raises(TypeError, match="float16"):
        interpreter.fma(*[np.ones(1, np.float16)] * 3)


def test_every_bfloat16_widens_exactly() -> None:
    patterns = np.arange(65536, dtype=np.uint16)
    expected = torch.from_numpy(patterns.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert np.array_equal(interpreter.from_bfloat16(patterns).view(np.uint32), expected.view(np.uint32))


def test_bfloat16_narrows_to_nearest_even() -> None:
    upper = np.arange(65536, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    values = (upper[:, None] | lower).ravel().view(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16)
    got = torch.from_numpy(interpreter.to_bfloat16(values).view(np.int16)).view(torch.bfloat16)
    both_nan = expected.isnan() & got.isnan()
    assert bool(((expected.view(torch.int16) == got.view(torch.int16)) | both_nan).all())


@pytest.mark.interpreter
def test_stock_interpreter_is_left_as_it_was() -> None:
    from triton.runtime.interpreter import InterpreterBuilder

    before = InterpreterBuilder.create_fma
    with interpreter.exact():
        assert InterpreterBuilder.create_fma is not before
    assert InterpreterBuilder.create_fma is before
