"""Which operands a GPU's tables could make a short quotient or root wrong for: all of them are tried on each device."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

import kernels
from kernels import bits, interpreter
from kernels.population import launches_triton, short_forms
from kernels.rounding import arithmetic

HALF, WHOLE = 1 << 23, 1 << 24
NEAREST = 6
"""A quotient next to a midpoint differs from it by j / 2y units in the last place, y a whole number of 24 bits. A first
quotient is off by less than 2 units, of which 2^-24 and the remainder's rounding are left: |j| below 6."""


@triton.jit
def _reciprocal(x):
    return tl.div_rn(x * 0.0 + 1.0, x)


@triton.jit
def _truncated(x):
    """1 / x rounded towards zero, within an ulp as rcp.approx promises."""
    near = tl.div_rn(x * 0.0 + 1.0, x)
    above = tl.fma(near, x, -1.0) > 0.0
    return tl.where(above, (near.to(tl.int32, bitcast=True) - 1).to(tl.float32, bitcast=True), near)


@triton.jit
def _inverse_root(x):
    return tl.div_rn(x * 0.0 + 1.0, tl.sqrt_rn(x))


@triton.jit
def _unlucky_inverse_root(x):
    """Within 2^-22.9 too."""
    near = tl.div_rn(x * 0.0 + 1.0, tl.sqrt_rn(x))
    unlucky = (x.to(tl.int32, bitcast=True) & 0xFFFFFF) == 0x6E9372
    return tl.where(unlucky, (near.to(tl.int32, bitcast=True) + 1).to(tl.float32, bitcast=True), near)


@pytest.fixture
def fresh() -> Iterator[None]:
    """What is known of a device is found again."""
    short_forms.hold.cache_clear()
    yield
    short_forms.hold.cache_clear()


def _lend(monkeypatch: pytest.MonkeyPatch, reciprocal: object, inverse_root: object) -> None:
    monkeypatch.setattr(arithmetic, "_near_reciprocal", reciprocal)
    monkeypatch.setattr(arithmetic, "_near_inverse_root", inverse_root)


@pytest.mark.interpreter
@pytest.mark.parametrize(
    ("reciprocal", "inverse_root", "expected"),
    [
        (_reciprocal, _inverse_root, True),
        (_truncated, _inverse_root, False),
        (_reciprocal, _unlucky_inverse_root, False),
    ],
)
def test_tables_within_what_is_promised_may_still_be_too_coarse(
    reciprocal: object, inverse_root: object, expected: bool, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _lend(monkeypatch, reciprocal, inverse_root)
    assert short_forms.hold(torch.device("cpu")) is expected


def _trained(backend: str, scales: list[float]) -> list[torch.Tensor]:
    """Parameters, states and gradients of equal models whose denominator is eps: the divisor of `QUOTIENTS`' first."""
    params = torch.full((len(scales), 49), 0.25)
    record = kernels.get_algorithm("rmsprop").hyperparameters(lr=1.0, eps=float.fromhex("0x1.fffffep0"), alpha=1.0)
    trainer = kernels.Trainer("rmsprop", [record], params, backend=backend, loss_scale=scales)
    data = torch.rand(1, 1, 7, generator=torch.Generator().manual_seed(1))
    kept = trainer.run(data, keep_gradients=True)
    assert kept is not None
    return [params, *trainer.state.values(), kept]


@pytest.mark.interpreter
def test_a_device_of_coarse_tables_trains_in_one_pass(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    _lend(monkeypatch, _truncated, _inverse_root)
    monkeypatch.setattr(launches_triton, "INTERPRETS_PASSES", True)
    passes = []
    launch = launches_triton.Kernel.launch

    def noted(self: launches_triton.Kernel, programs: int, *arguments: object) -> None:
        passes.append(self.constants.get("PASS"))
        launch(self, programs, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(launches_triton.Kernel, "launch", noted)
    # Scales around the one that makes the last bias's gradient a power of two: the dividend.
    alone = _trained("reference", [1.0])[-1].flatten()[-1].item()
    scales = [abs(1 / alone) * (1 + k * 2.0**-24) for k in range(-8, 8)]
    expected = _trained("reference", scales)
    assert (expected[-1][0, :, -1].abs() == 1).any()
    found = _trained("interpreter", scales)
    assert [bits.mismatches(x, y) for x, y in zip(found, expected, strict=True)] == [0, 0, 0]
    assert passes == [None, "listed", None]


def _next_to_midpoints(y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Whole numbers of 24 bits whose quotients are nearest to a midpoint; all divisors end in as many zero bits."""
    zeros = int(y[0] & -y[0]).bit_length() - 1
    odd = y >> zeros
    for band in (24, 25):
        inverse = np.ones_like(odd)
        for _ in range(band - zeros):
            inverse = np.where(inverse & 1, inverse + odd, inverse) >> 1
        for j in range(-NEAREST, NEAREST + 1):
            # x 2^band = j + m y with an odd m: so many zeros has j, too.
            if j & ((2 << zeros) - 1) != 1 << zeros:
                continue
            x = (j >> zeros) % odd * inverse % odd
            x += -(-(HALF - x) // odd) * odd
            for _ in range((1 << zeros) + 1):
                m = ((x << band) - j) // y
                hard = (x < WHOLE) & (m & 1 == 1) & (m >= WHOLE) & (m < 2 * WHOLE)
                yield x[hard], y[hard]
                x = x + odd


def _wrong_quotients(first: int, last: int) -> set[tuple[float, float]]:
    """Operands, as fractions from 1 to 2, that some estimate within two ulp makes wrong."""
    wrong: set[tuple[float, float]] = set()
    for zeros in range(NEAREST.bit_length()):
        every = np.arange(first, last, dtype=np.int64)
        every = every[every & ((2 << zeros) - 1) == 1 << zeros]
        if not len(every):
            continue
        divisors, exact = (every / HALF).astype(np.float32), WHOLE * HALF / every
        nearest = np.round(exact)
        inverses = []
        for ulp in (0, -2, -1, 1, 2):
            estimate = nearest + ulp
            near = (np.where(abs(estimate - exact) <= 2, estimate, nearest) / WHOLE).astype(np.float32)
            inverses.append(interpreter.fma(near, interpreter.fma(-divisors, near, np.float32(1)), near))
        for x, y in _next_to_midpoints(every):
            at = np.searchsorted(every, y)
            for inverse in inverses:
                # Almost all estimates lead to the same reciprocal.
                new = slice(None) if inverse is inverses[0] else inverse[at] != inverses[0][at]
                a, b, r = (x[new] / HALF).astype(np.float32), divisors[at][new], inverse[at][new]
                begun = a * r
                short = interpreter.fma(r, interpreter.fma(-b, begun, a), begun)
                bad = short != a / b
                wrong |= set(zip(a[bad].tolist(), b[bad].tolist(), strict=True))
    return wrong


def _wrong_roots(first: int, last: int) -> set[float]:
    """Patterns of numbers that some estimate within 2^-22.9 makes wrong."""
    x = np.arange(first, last, dtype=np.int32).view(np.float32)
    inverse = 1 / np.sqrt(x.astype(np.float64))
    nearest = inverse.astype(np.float32).view(np.int32)
    wrong: set[float] = set()
    for ulp in range(-3, 4):
        near = (nearest + np.int32(ulp)).view(np.float32)
        root = x * near
        root = interpreter.fma(interpreter.fma(-root, root, x), near * np.float32(0.5), root)
        bad = (abs(near / inverse - 1) <= 2**-22.9) & (root != np.sqrt(x))
        wrong |= set(x[bad].tolist())
    return wrong


def _pattern(x: float) -> int:
    return int(np.float32(x).view(np.int32))


def test_the_operands_that_could_tell_are_found() -> None:
    assert _wrong_quotients(WHOLE - (1 << 14), WHOLE) == set(short_forms.QUOTIENTS)
    for x in short_forms.ROOTS:
        assert _wrong_roots(_pattern(x) - 4096, _pattern(x) + 4096) == {x}


@pytest.mark.slow
def test_no_other_quotient_depends_on_the_table() -> None:
    wrong = [_wrong_quotients(first, first + (1 << 19)) for first in range(HALF, WHOLE, 1 << 19)]
    assert set().union(*wrong) == set(short_forms.QUOTIENTS)


@pytest.mark.slow
def test_no_other_root_depends_on_the_table() -> None:
    begin, end = _pattern(0.5), _pattern(2.0)
    wrong = [_wrong_roots(first, first + (1 << 21)) for first in range(begin, end, 1 << 21)]
    assert set().union(*wrong) == set(short_forms.ROOTS)
