"""Hyperparameters of other types than Python's numbers, and values at the edges of what torch takes."""

import copy
import functools
import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch

import kernels
from kernels import bits

Param = torch.nn.Parameter


def values(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def wrong(a: list[Any], b: list[Any]) -> int:
    return sum(bits.mismatches(x.detach(), y.detach()) for x, y in zip(a, b, strict=True))


def _with_grad(p: Param) -> Param:
    p.grad = torch.full_like(p, 0.25)
    return p


@pytest.mark.parametrize("lr", [np.float64(0.5), np.array(0.5), np.float32(0.5), torch.tensor(0.5)], ids=repr)
def test_hyperparameters_may_be_numpy_numbers(lr: Any) -> None:
    for options in ({"lr": lr}, {"lr": 0.1}):
        p = _with_grad(Param(torch.ones(4)))
        optimizer = kernels.SGD([p], **options)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        expected = _with_grad(Param(torch.ones(4)))
        kernels.SGD([expected], lr=0.5).step()
        assert bits.mismatches(p.detach(), expected.detach()) == 0


@pytest.mark.parametrize("lr", [torch.tensor(0.507), np.float32(0.507), np.array(0.507, np.float32)], ids=repr)
def test_a_rounded_number_in_the_place_of_an_equal_one_is_noticed(lr: Any) -> None:
    # Rounded to float32, by almost half a unit in the last place, and yet equal as torch and numpy compare.
    assert lr == 0.507
    assert float(lr) != 0.507
    stepped = []
    for kept in (True, False):
        p = Param(values(400))
        optimizer = kernels.Adam([p], lr=0.507)
        for step in range(6):
            p.grad = values(400, seed=step)
            optimizer.step()
            optimizer.param_groups[0]["lr"] = lr if kept else float(lr)
        stepped.append(p)
    assert wrong(*([p] for p in stepped)) == 0


@pytest.mark.parametrize("grouped", [False, True], ids=["in turn", "in two groups"])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adagrad"])
@pytest.mark.parametrize("backend", ["simd", "reference", pytest.param("interpreter", marks=pytest.mark.interpreter)])
def test_the_sign_of_a_learning_rate_of_zero_is_noticed(backend: str, name: str, grouped: bool) -> None:
    """It decides the sign of a parameter that is zero."""
    # Optional: without Numba there is no vector code; the other backends are asked all the same.
    if missing := kernels.available_backends()[backend]:
        pytest.skip(missing)
    zeros, grad = torch.tensor([0.0, -0.0, 0.0, -0.0]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    found = []
    for make in (functools.partial(getattr(kernels, name), backend=backend), getattr(torch.optim, name)):
        params = [Param(zeros.clone()) for _ in range(2)]
        optimizer = make([{"params": [p]} for p in params])
        first, second = optimizer.param_groups
        seen = []
        for lr in (0.0, -0.0, -0.0, 0.0):
            first["lr"], second["lr"] = lr, -lr if grouped else lr
            for p in params:
                p.data.copy_(zeros)
                p.grad = grad.clone()
            optimizer.step()
            seen += [p.detach().clone() for p in params]
        found.append(seen)
    assert wrong(*found) == 0


@pytest.mark.parametrize(
    "betas", [np.array([0.8, 0.99]), (np.float64(0.8), np.float64(0.99))], ids=["array", "scalars"]
)
def test_betas_may_be_numpy_numbers(betas: Any) -> None:
    stepped = []
    for given in (betas, (0.8, 0.99)):
        p = _with_grad(Param(values(40)))
        optimizer = kernels.Adam([p], betas=given, fused=True)
        optimizer.step()
        optimizer.step()
        stepped.append(p)
    assert wrong(*([p] for p in stepped)) == 0


BETAS = [
    np.array([0.75, 0.875]),
    np.array([0.75, 0.875], np.float32),
    torch.tensor([0.75, 0.875]),
    [0.75, 0.875],
    [torch.tensor(0.75), torch.tensor([0.875])],
    (np.float32(0.75), np.float64(0.875)),
]


@pytest.mark.parametrize("recipe", ["foreach", "for-loop", "fused"])
@pytest.mark.parametrize("betas", BETAS, ids=repr)
def test_betas_of_a_group_may_become_any_two_numbers(betas: Any, recipe: str) -> None:
    stepped = []
    for given in (betas, (0.75, 0.875)):
        p = _with_grad(Param(values(40)))
        optimizer = kernels.Adam([p], recipe=recipe)
        for _ in range(4):
            optimizer.step()
            # Again and again: what is there is compared with what was.
            optimizer.param_groups[0]["betas"] = copy.copy(given)
        stepped.append(p)
    assert wrong(*([p] for p in stepped)) == 0


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("betas", [*BETAS, (0.8, 0.9), (torch.tensor(0.5), torch.tensor(0.75))], ids=repr)
def test_betas_in_the_group_are_those_of_torch(name: str, betas: Any) -> None:
    found = []
    for package in (torch.optim, kernels):
        try:
            kept = getattr(package, name)([Param(torch.ones(1))], betas=betas).param_groups[0]["betas"]
            found.append((type(kept), [(type(beta), getattr(beta, "shape", None), float(beta)) for beta in kept]))
        except ValueError as refused:
            found.append(str(refused))
    assert found[0] == found[1]


@pytest.mark.parametrize("betas", [(0.8,), [0.8, 0.9, 0.9], np.array([0.5]), torch.ones(3)], ids=repr)
def test_other_than_two_betas_are_refused(betas: Any) -> None:
    with pytest.raises(ValueError, match="give two numbers"):
        kernels.AdamW([Param(torch.ones(1))], betas=betas)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
@pytest.mark.parametrize("option", ["lr", "momentum", "dampening", "weight_decay", "eps", "alpha", "lr_decay"])
def test_nan_is_taken_or_refused_as_in_torch(name: str, option: str) -> None:
    if option not in inspect.signature(getattr(torch.optim, name)).parameters:
        return
    ends = []
    for package in (torch.optim, kernels):
        p = _with_grad(Param(torch.ones(4)))
        try:
            optimizer = getattr(package, name)([p], **{"lr": 0.5, option: math.nan})
            for _ in range(3):
                optimizer.step()
            ends.append(str(p.tolist()))
        except ValueError as refused:
            ends.append(str(refused))
    assert ends[0] == ends[1]
