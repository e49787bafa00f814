"""`lossscale.clip_grad_norm_`: torch's bits at its eps, and a mapped pair's bits at eps × s."""

import math

import pytest
import torch

import lossscale
from kernels import bits

SHAPES = ((33,), (4, 5), (), (2, 3, 7))


def parameters(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    made = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in SHAPES]
    for p in made:
        p.grad = (torch.randn(p.shape, generator=generator) * scale).to(dtype)
    return [*made, torch.nn.Parameter(torch.zeros(3))]  # the last has no gradient


def grads(made: list[torch.nn.Parameter]) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in made if p.grad is not None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, math.inf])
@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("max_norm", [0.5, 1e4])
def test_torchs_bits(dtype: torch.dtype, norm_type: float, foreach: bool | None, max_norm: float) -> None:
    ours, theirs = parameters(dtype), parameters(dtype)
    found = lossscale.clip_grad_norm_(ours, max_norm, norm_type, foreach=foreach)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type, foreach=foreach)
    assert found.dtype == expected.dtype and found.tolist() == expected.tolist()
    assert grads(ours).tolist() == grads(theirs).tolist()
    assert (grads(ours).tolist() != grads(parameters(dtype)).tolist()) == (max_norm == 0.5)


@pytest.mark.parametrize("k", [-40, -3, 10, 20])
def test_a_mapped_pair_has_the_same_bits(k: int) -> None:
    # The norm is of the size of eps, where torch's fixed 1e-6 shows most.
    s, base, scaled, fixed = 2.0**k, parameters(scale=1e-6), parameters(scale=1e-6), parameters(scale=1e-6)
    for p in (*scaled, *fixed):
        if p.grad is not None:
            p.grad *= s
    lossscale.clip_grad_norm_(base, 1e-6)
    lossscale.clip_grad_norm_(scaled, 1e-6 * s, eps=1e-6 * s)
    torch.nn.utils.clip_grad_norm_(fixed, 1e-6 * s)
    assert int(bits.differing_bits(grads(scaled) / s, grads(base)).sum()) == 0
    assert int(bits.differing_bits(grads(fixed) / s, grads(base)).sum()) > 0


def test_what_comes_in() -> None:
    single = torch.nn.Parameter(torch.zeros(2))
    single.grad = torch.tensor([3.0, 4.0])
    assert float(lossscale.clip_grad_norm_(single, 1.0, eps=0.0)) == 5.0
    assert single.grad.tolist() == torch.tensor([0.6, 0.8]).tolist()
    assert float(lossscale.clip_grad_norm_((p for p in [single]), 10.0)) == pytest.approx(1.0)
    assert float(lossscale.clip_grad_norm_([], 1.0)) == 0.0
    for eps in (-1e-6, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"eps .* give torch's 1e-6"):
            lossscale.clip_grad_norm_(single, 1.0, eps=eps)
    single.grad = torch.tensor([math.inf, 1.0])
    with pytest.raises(RuntimeError, match="non-finite"):
        lossscale.clip_grad_norm_(single, 1.0, error_if_nonfinite=True)
