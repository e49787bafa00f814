"""What is recorded, what is emitted, and how the rest is refused: by its name and the rule's line."""

import ctypes
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from kernels.backends import simd
from kernels.backends.simd import Code, Recorder, Recording, RecordingError, lanes, record, uniforms, versions
from kernels.rounding import arithmetic as ops

# Recording needs nothing of the machine; running what was recorded needs llvmlite and a CPU with AVX2.
runs_code = pytest.mark.skipif(bool(simd.unavailable()), reason=f"no simd backend: {simd.unavailable()}")

F32 = tl.float32
NAMED = tl.constexpr(3)
LEFT = tl.constexpr(1.5)


def recorded(function: Any, *constants: Any) -> Recording:
    """y = function(x, t, constants), with x and y in memory and t the same for all lanes."""
    recorder = Recorder()
    offset = recorder.lanes("offset", tl.int64)
    x = recorder.load(recorder.pointer("x", F32) + offset)
    result = record(recorder, function, x, recorder.input("t", F32), *constants)
    recorder.store(recorder.pointer("y", F32) + offset, result)
    return recorder.finish()


def build(function: Any, *constants: Any, width: int = 16) -> Callable[[torch.Tensor, torch.Tensor, float], None]:
    """``run(x, y, t)``: y = function(x, t, constants) in vectors of ``width``, over whole vectors."""
    recording = recorded(function, *constants)
    code = Code("run", [("ptr", "x"), ("ptr", "y"), ("i64", "count"), ("float", "t")])
    arrays = {"x": "%x", "y": "%y"}
    shared = uniforms(code, recording, arrays, {"t": "%t"})
    for version in versions(code, recording, shared):
        with code.loop("0", "%count", width) as index:
            lanes(code, version, shared, arrays, {"offset": index}, width)
    compiled = simd.compile_function(
        "run", code.text(), ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    )
    return lambda x, y, t: compiled(x.data_ptr(), y.data_ptr(), x.numel(), t)


@triton.jit
def _helper(x, SCALE: tl.constexpr = NAMED):
    return x * SCALE


@triton.jit
def _mixture(x, t, RULE: tl.constexpr, COUNT: tl.constexpr):
    total = ()
    for k in tl.static_range(COUNT):
        total = total + (RULE(x + k),)  # noqa: RUF005 - Triton has no starred tuples
    bits = total[0].to(tl.int32, bitcast=True)
    exponent = (bits >> 23) & 255
    power = ((exponent // 2 << 23) | 0).to(tl.float32, bitcast=True)
    chosen = tl.where((x > t) | (x != x), total[COUNT - 1], LEFT - x)
    return tl.where(exponent % 2 == 0, ops.round_to(chosen, tl.bfloat16), tl.abs(power) + exponent.to(tl.float32))


@runs_code
@pytest.mark.parametrize("width", [1, 4, 8, 16])
def test_tuples_loops_bits_and_helpers(width: int) -> None:
    x = torch.cat([torch.randn(60) * 100, torch.tensor([0.0, -0.0, math.inf, math.nan])])
    y = torch.empty_like(x)
    build(_mixture, _helper, 3, width=width)(x, y, 0.5)
    exponent = ((x * 3).view(torch.int32) >> 23) & 255
    power = (exponent // 2 << 23).view(torch.float32)
    chosen = torch.where((x > 0.5) | x.isnan(), (x + 2) * 3, 1.5 - x).bfloat16().float()
    expected = torch.where(exponent % 2 == 0, chosen, power.abs() + exponent)
    assert torch.equal(y.nan_to_num(7.0), expected.nan_to_num(7.0))


def test_equal_operations_are_one_and_unneeded_ones_are_gone() -> None:
    recorder = Recorder()
    offset = recorder.lanes("offset", tl.int64)
    x = recorder.load(recorder.pointer("x", F32) + offset)
    assert (x + 1.0).operation is (x + 1.0).operation
    assert (x.to(tl.bfloat16).to(F32).to(tl.bfloat16)).operation is x.to(tl.bfloat16).operation
    recorder.store(recorder.pointer("x", F32) + offset, x + 1.0)
    assert "mul" not in [operation.name for operation in recorder.finish().operations]


@triton.jit
def _rounded(x, t):
    return ops.round_to(x, tl.bfloat16)


@runs_code
@pytest.mark.parametrize("width", [1, 8, 16])
def test_rounding_to_bfloat16_is_torchs_for_every_upper_half(width: int) -> None:
    upper = torch.arange(1 << 16, dtype=torch.int32).repeat(6) << 16
    lower = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=torch.int32).repeat_interleave(1 << 16)
    x = (upper | lower).view(torch.float32)
    y = torch.empty_like(x)
    build(_rounded, width=width)(x, y, 0.0)
    expected = x.bfloat16().float()
    different = (y.view(torch.int32) != expected.view(torch.int32)) & ~(y.isnan() & expected.isnan())
    assert not different.any(), x[different][:4]


# -- what lanes choose alike -----------------------------------------------------------------------------------------


@triton.jit
def _chosen(x, t):
    near = tl.where(tl.abs(t) < 0.5, tl.fma(x, t, x), x - t)
    return tl.where(t == 0.25, near * x, tl.where(x > t, near + t, near))


@runs_code
@pytest.mark.parametrize("t", [0.125, 0.25, 0.75, -0.75, math.nan])
def test_uniform_choices_are_made_as_they_fall(t: float) -> None:
    x = torch.randint(-8, 8, (64,)).float()
    y = torch.empty_like(x)
    build(_chosen)(x, y, t)
    near = x * t + x if abs(t) < 0.5 else x - t
    expected = near * x if t == 0.25 else torch.where(x > t, near + t, near)
    assert torch.equal(y.view(torch.int32), expected.view(torch.int32))


def test_the_expected_version_computes_nothing_that_is_not_chosen() -> None:
    recording = recorded(_chosen)
    code = Code("run", [])
    shared = {x.number: f"%shared{x.number}" for x in recording.operations if x.uniform}
    expected, whole = versions(code, recording, shared)
    assert whole is recording
    names = [x.name for x in expected.operations]
    assert names.count("where") == 1 and {"sub", "mul", "eq"}.isdisjoint(names) and "fma" in names
    assert list(versions(code, expected, shared)) == [expected]


@pytest.mark.parametrize("corrected", [True, False])
def test_a_quotient_by_one_number_is_a_division(corrected: bool) -> None:
    names = [x.name for x in recorded(ops.div_by_scalar, corrected).operations]
    assert names.count("div") == 1 and "fma" not in names


# -- what is refused -------------------------------------------------------------------------------------------------


@triton.jit
def _approximate(x, t):
    return tl.exp(x)


@triton.jit
def _division(x, t):
    return x / t


@triton.jit
def _branch(x, t):
    if x > t:
        x = t
    return x


@triton.jit
def _mixed(x, t):
    return x * t.to(tl.float64)


@triton.jit
def _narrow(x, t):
    return x.to(tl.bfloat16) * t.to(tl.bfloat16)


@triton.jit
def _negative(x, t):
    return -x


@triton.jit
def _method(x, t):
    return x.sum()


@triton.jit
def _twice(x, t):
    return x.to(tl.bfloat16).to(tl.float16)


@triton.jit
def _remainder(x, t):
    return x % t


@triton.jit
def _deeper(x, t):
    return _approximate(x, t)


@pytest.mark.parametrize(
    ("function", "complaint", "line_of"),
    [
        (_approximate, "tl.exp: cannot be recorded", _approximate),
        (_deeper, "tl.exp: cannot be recorded", _approximate),
        (_division, "/ of fp32: approximate", _division),
        (_branch, "a branch on data", _branch),
        (_mixed, "mul of fp32 and fp64: convert one", _mixed),
        (_narrow, "mul of bf16", _narrow),
        (_negative, "-x: ", _negative),
        (_method, "a value's .sum", _method),
        (_twice, "conversion of bf16 to fp16: go by float32", _twice),
        (_remainder, "remainder of fp32", _remainder),
    ],
)
def test_what_cannot_be_recorded_is_named_with_its_line(function: Any, complaint: str, line_of: Any) -> None:
    line = line_of.fn.__code__.co_firstlineno + 2
    with pytest.raises(RecordingError, match=re.escape(complaint) + rf".*test_simd_recorder\.py:{line}\)"):
        build(function)


def test_what_has_no_vector_code_is_named_with_its_line() -> None:
    recorder = Recorder()
    offset = recorder.lanes("offset", tl.int64)
    x = recorder.load(recorder.pointer("x", F32) + offset)
    recorder.store(recorder.pointer("x", F32) + offset, recorder.apply("arctangent", (x,), F32))
    with pytest.raises(RecordingError, match=r"arctangent of fp32: no vector code for it \(.*test_simd_recorder"):
        lanes(Code("run", [("ptr", "x")]), recorder.finish(), {}, {"x": "%x"}, {"offset": "0"}, 16)


def test_memory_that_two_ways_would_disturb_is_refused() -> None:
    recorder = Recorder()
    offset, x = recorder.lanes("offset", tl.int64), recorder.pointer("x", F32)
    with pytest.raises(RecordingError, match="all lanes would write to one place"):
        recorder.store(x, recorder.load(x))
    with pytest.raises(RecordingError, match="store of int64 to 'x', which holds fp32"):
        recorder.store(x + offset, offset)
    recorder.store(x + offset, recorder.load(x))
    with pytest.raises(RecordingError, match="array 'x': stored to, and read at one place"):
        recorder.finish()
    with pytest.raises(ValueError, match="array 'x': holds fp32"):
        recorder.pointer("x", tl.float64)
    with pytest.raises(ValueError, match="input 'offset': there is one already"):
        recorder.input("offset", F32)


@runs_code
def test_lanes_that_are_no_neighbours_are_gathered_and_not_stored_to() -> None:
    recorder = Recorder()
    offset, x, y = recorder.lanes("offset", tl.int64), recorder.pointer("x", F32), recorder.pointer("y", F32)
    recorder.store(y + offset, recorder.load(x + (offset * 3) % 16))
    code = Code("run", [("ptr", "x"), ("ptr", "y")])
    recording = recorder.finish()
    lanes(code, recording, uniforms(code, recording, {}, {}), {"x": "%x", "y": "%y"}, {"offset": "0"}, 16)
    given, taken = torch.randn(16), torch.zeros(16)
    simd.compile_function("run", code.text(), ctypes.c_void_p, ctypes.c_void_p)(given.data_ptr(), taken.data_ptr())
    assert torch.equal(taken, given[torch.arange(16) * 3 % 16])
    recorder.store(y + offset * 2, recorder.load(x + offset))
    with pytest.raises(RecordingError, match="lanes are not neighbours"):
        lanes(Code("run", []), recorder.finish(), {}, {"x": "%x", "y": "%y"}, {"offset": "0"}, 16)
