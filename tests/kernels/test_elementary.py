"""exp and sigmoid of fixed bits: their errors over float32, and the interpreter's bits against tensor operations."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from kernels import bits, interpreter
from kernels.rounding import elementary

FIRST, LAST = (int(np.float32(x).view(np.uint32)) for x in (2.0**-27, 110.0))
"""Below, both are 1 and 1/2 to the last bit but one; above, all is 0, 1 or infinity."""


def numbers(stride: int, piece: int = 1 << 22) -> list[np.ndarray]:
    """Bit patterns of both signs, in pieces."""
    return [
        np.arange(begin, min(begin + piece, LAST), stride, dtype=np.uint32) | np.uint32(sign)
        for sign in (0, 1 << 31)
        for begin in range(FIRST, LAST, piece)
    ]


def largest_errors(
    function: Callable[[torch.Tensor], torch.Tensor], exact: Callable[..., np.ndarray], stride: int
) -> list[float]:
    """In ulp of the exact result: of normal results, and of subnormal ones in their spacing."""
    worst = [0.0, 0.0]
    for pattern in numbers(stride):
        x = pattern.view(np.float32)
        got = function(torch.from_numpy(x)).numpy()
        with np.errstate(over="ignore"):
            true = exact(x.astype(np.float64))
        infinite = true >= 3.4028235677973366e38  # what rounds to infinity
        assert np.array_equal(np.isinf(got), infinite)
        got, true = got[~infinite].astype(np.float64), true[~infinite]
        spacing = np.ldexp(1.0, np.maximum(np.frexp(true)[1] - 24, -149))
        error = np.abs(got - true) / spacing
        normal = true >= 2.0**-126
        for place, chosen in enumerate((normal, ~normal)):
            worst[place] = max(worst[place], float(error[chosen].max(initial=0.0)))
    return worst


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("stride", [211, pytest.param(1, marks=pytest.mark.slow)])
def test_exp_is_within_an_ulp(stride: int) -> None:
    normal, subnormal = largest_errors(elementary.exp_reference, np.exp, stride)
    assert normal <= 0.8914
    assert subnormal <= 0.8578
    if stride == 1:
        assert normal > 0.891


@pytest.mark.parametrize("stride", [211, pytest.param(11, marks=pytest.mark.slow)])
def test_sigmoid_is_within_three(stride: int) -> None:
    normal, subnormal = largest_errors(elementary.sigmoid_reference, sigmoid, stride)
    assert normal <= 2.402
    assert subnormal <= 0.8578


SPECIAL = [
    0.0,
    -0.0,
    1e-30,
    -1e-30,
    1e-45,
    np.inf,
    -np.inf,
    np.nan,
    88.72283,
    88.72284,
    89.0,
    3e38,
    -103.97,
    -103.98,
    -3e38,
]


def test_ends() -> None:
    x = torch.tensor(SPECIAL)
    e, s = elementary.exp_reference(x), elementary.sigmoid_reference(x)
    assert e[:5].tolist() == [1.0] * 5
    assert s[:5].tolist() == [0.5] * 5
    assert e[5:8].nan_to_num(-1.0, posinf=-2.0).tolist() == [-2.0, 0.0, -1.0]
    assert s[5:8].nan_to_num(-1.0).tolist() == [1.0, 0.0, -1.0]


@triton.jit
def _both(x_ptr, e_ptr, s_ptr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    tl.store(e_ptr + at, elementary.exp(x))
    tl.store(s_ptr + at, elementary.sigmoid(x))


@pytest.mark.interpreter
def test_interpreter_has_the_same_bits() -> None:
    drawn = np.concatenate([*numbers(100_003), np.array(SPECIAL, np.float32).view(np.uint32)])
    x = torch.from_numpy(np.pad(drawn, (0, -len(drawn) % 4096)).view(np.float32))
    e, s = torch.empty_like(x), torch.empty_like(x)
    interpreter.launch(_both, (len(x) // 4096, 1, 1), (x, e, s), {"BLOCK": 4096})
    assert bits.report(e, elementary.exp_reference(x)) is None
    assert bits.report(s, elementary.sigmoid_reference(x)) is None
