"""Bit views, distances and reports, against definitions that are written out."""

import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import bits

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
FORMATS = {torch.float64: ("<d", "<q"), torch.float32: ("<f", "<i")}
LARGEST = 2**63 - 1


def _every_16_bit(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", FORMATS)
def test_bit_view_is_the_stored_pattern(dtype: torch.dtype) -> None:
    values = [0.0, -0.0, 1.0, -1.5, math.inf, 2.0**-126]
    as_float, as_integer = FORMATS[dtype]
    expected = [struct.unpack(as_integer, struct.pack(as_float, x))[0] for x in values]
    assert bits.bit_view(torch.tensor(values, dtype=dtype)).tolist() == expected


def test_bit_view_takes_strided_tensors_and_refuses_other_dtypes() -> None:
    x = torch.arange(6.0).view(2, 3).t()
    assert torch.equal(bits.bit_view(x).view(torch.float32), x)
    with pytest.raises(TypeError, match="int64"):
        bits.bit_view(torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_nan_equals_any_nan_and_zeros_differ(dtype: torch.dtype) -> None:
    integer = bits.bit_view(torch.zeros(1, dtype=dtype)).dtype
    quiet = torch.tensor([math.nan, 0.0, 1.0], dtype=dtype)
    other = quiet.clone()
    other.view(integer)[0] += 1
    other[1] = -0.0
    assert bool(other[0].isnan())
    assert bits.mismatch_mask(quiet, other).tolist() == [False, True, False]
    assert bits.mismatches(quiet, other) == 1
    assert bits.differing_bits(quiet, other).tolist() == [0, 1, 0]
    assert bits.ulp_distance(quiet, other).tolist() == [0, 0, 0]


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
def test_differing_bits_counts_the_exclusive_or(left: int, right: int) -> None:
    a, b = (torch.tensor([x], dtype=torch.int32).view(torch.float32) for x in (left, right))
    both_nan = bool(a.isnan() & b.isnan())
    expected = 0 if both_nan else ((left ^ right) & 0xFFFFFFFF).bit_count()
    assert bits.differing_bits(a, b).tolist() == [expected]


@given(st.floats(), st.floats())
def test_differing_bits_counts_64_bits(left: float, right: float) -> None:
    a, b = (torch.tensor([x], dtype=torch.float64) for x in (left, right))
    patterns = [struct.unpack("<Q", struct.pack("<d", x))[0] for x in (left, right)]
    both_nan = math.isnan(left) and math.isnan(right)
    assert bits.differing_bits(a, b).tolist() == [0 if both_nan else (patterns[0] ^ patterns[1]).bit_count()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_ulp_distance_counts_the_floats_between_for_every_16_bit_pattern(dtype: torch.dtype) -> None:
    every = _every_16_bit(dtype)
    numbers = every[~every.isnan()]
    ascending = numbers[numbers.double().argsort(stable=True)]
    # Both zeros are one number; every other neighbour is one step away.
    ranks = (ascending[1:].double() != ascending[:-1].double()).long().cumsum(0)
    first = ascending[:1]
    assert torch.equal(bits.ulp_distance(ascending[1:], first.expand(len(ranks))), ranks)
    assert int(bits.ulp_distance(first, torch.tensor([math.nan], dtype=dtype))) == LARGEST


def test_ulp_distance_crosses_zero_and_spans_all() -> None:
    tiny = torch.tensor([1e-45])
    assert bits.ulp_distance(tiny, -tiny).tolist() == [2]
    infinity = torch.tensor([math.inf])
    assert bits.ulp_distance(infinity, -infinity).tolist() == [2 * 0x7F800000]
    one = torch.tensor([1.0], dtype=torch.float64)
    assert bits.ulp_distance(one, torch.nextafter(one, 2 * one)).tolist() == [1]


def test_report_names_count_first_index_and_both_patterns() -> None:
    a = torch.ones(2, 3)
    b = a.clone()
    b[1, 0] = -2.0
    b[1, 2] = 1.0 + 2**-23
    assert str(bits.report(a, b)) == (
        f"2 elements differ, first at 3: 0x3f800000 against 0xc0000000, up to {0x3F800000 + 0x40000000} ulp"
    )
    assert bits.report(a, a.clone()) is None
    half = bits.report(torch.ones(1, dtype=torch.float16), -torch.ones(1, dtype=torch.float16))
    assert half is not None
    assert (half.left, half.right) == ("0x3c00", "0xbc00")


def test_empty_tensors_have_no_mismatch() -> None:
    empty = torch.zeros(0)
    assert bits.report(empty, empty) is None
    assert bits.mismatches(empty, empty) == 0
    assert bits.differing_bits(empty, empty).numel() == 0
    scalar = bits.differing_bits(torch.tensor(7.0), torch.tensor(-7.0))
    assert scalar.dim() == 0 and int(scalar) == 1


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_bits_are_counted_alike_on_every_device(dtype: torch.dtype) -> None:
    info = torch.iinfo(dtype)
    words = torch.cat(
        [torch.randint(info.min, info.max, (1000,), dtype=dtype), torch.tensor([0, -1, info.min]).to(dtype)]
    )
    expected = [(int(word) & ((1 << info.bits) - 1)).bit_count() for word in words]
    assert bits._popcount(words).tolist() == expected
    floats = words.view({16: torch.float16, 32: torch.float32, 64: torch.float64}[info.bits])
    against = torch.where(floats.isnan(), floats, 0.0)
    counted = [0 if bool(value.isnan()) else count for value, count in zip(floats, expected, strict=True)]
    assert bits.differing_bits(floats, against).tolist() == counted
