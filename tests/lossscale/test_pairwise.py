"""Pairs side by side: against the plain definitions, with NaN, infinities, zeros and subnormal states among them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels import bits
from lossscale.engines import pairwise
from lossscale.engines.arithmetic import ORDERED, TORCH
from lossscale.engines.pairwise import Sides, compare_params, compare_states

FAMILIES, MEMBERS, N = 5, 4, 33
SIDES = Sides(arm=(1, 2, 3, 3, 0), against=(0, 0, 0, 2, 0))
UNITS = (1.0, 2.0**-12, 1e4, 3.0)
SMALLEST_NORMAL = 2.0**-126


def planted(dtype: torch.dtype) -> Tensor:
    """Numbers of all sizes, members that agree, and in some places what is no ordinary number."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(FAMILIES, 1, N, generator=generator) * 2.0 ** torch.randint(-20, 20, (N,), generator=generator)
    near = 1 + 2 * torch.finfo(dtype).eps * torch.randint(-3, 4, (FAMILIES, MEMBERS, N), generator=generator)
    near[:, 1] = near[:, 0]
    values = (base * near).to(dtype)
    special = (0.0, -0.0, 1e-40, -1e-40, float("inf"), -float("inf"), float("nan"), 2.0**-126)
    for place, value in enumerate(special):
        values[0, :, place] = value
        values[1, place % MEMBERS, 2 * place] = value
    values[2, 3] = float("nan")
    return values


@pytest.mark.parametrize("together", [1, 1 << 20], ids=["a family at a time", "all at once"])
@pytest.mark.parametrize("arithmetic", [TORCH, ORDERED], ids=["torch", "ordered"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_parameters_of_pairs(monkeypatch, dtype, arithmetic, together):
    monkeypatch.setattr(pairwise, "_TOGETHER", together)
    params = planted(dtype)
    found = compare_params(params, SIDES, arithmetic.norm)
    arm, against = params[:, list(SIDES.arm)], params[:, list(SIDES.against)]
    assert torch.equal(found.differing_bits, bits.differing_bits(arm, against).sum(2))
    assert torch.equal(found.max_ulp, bits.ulp_distance(arm, against).amax(2))
    assert bits.mismatches(found.distance, arithmetic.norm(arm.double() - against.double())) == 0
    assert (found.differing_bits[3:, 0] == 0).all() and (found.differing_bits[3:, 1] > 0).all()


@pytest.mark.parametrize("together", [1, 1 << 20], ids=["a family at a time", "all at once"])
def test_states_of_pairs(monkeypatch, together):
    """Element by element: equal at one scale, or subnormal or underflowed at the scale of either."""
    monkeypatch.setattr(pairwise, "_TOGETHER", together)
    small = torch.tensor([1.0, 1.0, 1.0, 1e-36, 1.0]).view(-1, 1, 1)
    first, second = planted(torch.float32), planted(torch.float32).square() * small
    scaled = [first * torch.tensor(UNITS).unsqueeze(1), second]
    found = compare_states([(state, UNITS) for state in scaled], SIDES, SMALLEST_NORMAL)
    same = torch.ones(FAMILIES, len(SIDES.arm), dtype=torch.bool)
    left_out = torch.zeros(same.shape, dtype=torch.int64)
    for state in scaled:
        unscaled = state.double() / torch.tensor(UNITS, dtype=torch.float64).unsqueeze(1)
        for pair, (arm, against) in enumerate(zip(SIDES.arm, SIDES.against, strict=True)):
            ours, theirs = unscaled[:, arm], unscaled[:, against]
            tiny = torch.zeros(ours.shape, dtype=torch.bool)
            for unit in (UNITS[arm], UNITS[against]):
                for side in (ours, theirs):
                    tiny |= (side != 0) & ((side * unit).abs() < SMALLEST_NORMAL)
            both = ours.isnan() & theirs.isnan()
            same[:, pair] &= ((ours == theirs) | both | tiny).all(1)
            left_out[:, pair] += tiny.sum(1)
    assert torch.equal(found.identical, same) and torch.equal(found.left_out, left_out)
    assert same.any() and not same.all() and 0 < (left_out > 0).sum() < left_out.numel()


def test_states_that_differ_only_where_they_are_subnormal():
    units = torch.tensor(UNITS).unsqueeze(1)
    state = torch.ones(1, MEMBERS, N) * units
    state[0, :, 5] = torch.tensor([1e-40, 0.0, 1e-40, 3e-40])
    found = compare_states([(state, UNITS)], SIDES, SMALLEST_NORMAL)
    assert found.identical.all() and (found.left_out == 1).all()
    state[0, :, 5] *= 1e10
    found = compare_states([(state, UNITS)], SIDES, SMALLEST_NORMAL)
    assert found.identical.tolist() == [[False, False, False, False, True]] and (found.left_out == 0).all()
