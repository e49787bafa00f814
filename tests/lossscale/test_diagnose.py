"""The numbers that probes, checkpoints and studies share: spacing, roots, updates and eps's share of them."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import kernels
from lossscale.diagnose import numbers, rounding, steps


@pytest.mark.parametrize("name", kernels.DTYPES)
def test_half_an_ulp_is_half_the_way_to_the_next_number(name: str) -> None:
    dtype = kernels.DTYPES[name]
    drawn = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-60, 30, 2000, base=2)
    edges = torch.tensor([0.0, 1.0, 0.5, dtype.smallest, dtype.smallest_normal, 3 * dtype.smallest, -1.5])
    values = torch.cat([drawn, edges]).to(dtype.torch)
    values = values[values.isfinite()].abs()
    above = torch.nextafter(values, torch.full_like(values, math.inf))
    expected = (above.double() - values.double()) / 2
    found = rounding.half_ulp(-values.double(), dtype.significant_bits, dtype.smallest)
    assert torch.equal(found[above.isfinite()], expected[above.isfinite()])
    assert rounding.half_ulp(torch.tensor([math.inf, math.nan]).double(), 24, 2.0**-149).isnan().all()


UPDATES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.5, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.25, "weight_decay": 0.5}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.1, "eps": 0.1}),
    ("Adam", {"lr": 0.1, "eps": 0.1, "amsgrad": True, "weight_decay": 0.5, "maximize": True}),
    ("AdamW", {"lr": 0.1, "eps": 0.1, "weight_decay": 0.0}),
    ("RMSprop", {"lr": 0.1, "eps": 0.1, "weight_decay": 0.5}),
    ("RMSprop", {"lr": 0.1, "eps": 0.1, "centered": True, "momentum": 0.5}),
    ("Adagrad", {"lr": 0.1, "eps": 0.1, "lr_decay": 0.5, "weight_decay": 0.5, "initial_accumulator_value": 0.1}),
    ("AdamAtan2", {"lr": 0.1}),
]


@pytest.mark.parametrize(("title", "options"), UPDATES, ids=lambda value: str(value))
def test_the_update_is_what_the_parameters_moved(title: str, options: dict[str, Any]) -> None:
    algorithm = next(a for a in kernels.ALGORITHMS.values() if a.title == title)
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(256, generator=generator))
    optimizer = kernels.CLASSES[title]([p], backend="reference", **options)
    for step in range(1, 4):
        before, p.grad = p.detach().clone(), torch.randn(256, generator=generator)
        optimizer.step()
        hyper = optimizer.hyper_of(optimizer.param_groups[0])
        states = {name: optimizer.state[p][name] for name in algorithm.state_names(hyper)}
        found = steps.update(algorithm, states, hyper, step, grads=p.grad, params=before)
        assert found is not None
        moved = p.detach().double() - before.double()
        # Both parameters are rounded to float32, and so is every operation of the step.
        spacing = rounding.half_ulp(before.double(), 24, 2.0**-149) * 4
        assert bool(((found - moved).abs() <= spacing + 2e-6 * moved.abs()).all()), step


@pytest.mark.parametrize("title", [a.title for a in kernels.ALGORITHMS.values()])
def test_what_an_update_needs_is_asked_for(title: str) -> None:
    algorithm = next(a for a in kernels.ALGORITHMS.values() if a.title == title)
    states = {state.name: torch.full((3,), 0.5) for state in algorithm.states}
    found = steps.update(algorithm, states, algorithm.hyperparameters(), 3)
    assert (found is None) == (title in ("SGD", "RMSprop", "Adagrad"))


def test_the_share_of_eps_is_how_the_update_follows_the_loss_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    moment, r = torch.randn(2000, generator=generator).double(), torch.rand(2000, generator=generator).double() ** 4
    r[:10] = 0.0
    eps = 1e-2

    def length(s: float) -> float:
        return float((s * moment / (s * r + eps)).abs().sum())

    slope = (math.log(length(1 + 1e-5)) - math.log(length(1 - 1e-5))) / (math.log1p(1e-5) - math.log1p(-1e-5))
    share = float(steps.eps_share(moment / (r + eps), r, eps))
    assert share == pytest.approx(slope, rel=1e-6)
    assert float(steps.eps_share(moment, r * 0, eps)) == 1.0
    assert float(steps.eps_share(moment, r, 0.0)) == 0.0


def test_memories() -> None:
    assert steps.memory(kernels.get_algorithm("adam").hyperparameters()) == pytest.approx(1000)
    assert steps.memory(kernels.get_algorithm("rmsprop").hyperparameters()) == pytest.approx(100)
    assert steps.memory(kernels.get_algorithm("adagrad").hyperparameters()) == 0


@pytest.mark.parametrize("name", kernels.DTYPES)
def test_from_where_on_eps_is_absorbed(name: str) -> None:
    dtype = kernels.DTYPES[name]
    for eps in (0.0, dtype.smallest / 4, dtype.smallest / 2, dtype.smallest, 1e-8, 2.0**-20, 1.5, 1e3):
        first = rounding.absorbs_from(eps, dtype.significant_bits, dtype.smallest)
        values = torch.tensor([first, math.nextafter(first, 0.0), 2 * first, first / 2], dtype=torch.float64)
        values = values[values > 0]
        absorbed = rounding.half_ulp(values, dtype.significant_bits, dtype.smallest) > eps
        assert torch.equal(values >= first, absorbed), eps


def test_quantiles_with_equal_weights_are_those_with_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 19, 20, 21, 400):
        values = torch.randn(count, generator=generator, dtype=torch.float64)
        values[::7] = math.nan
        levels = (0.0, 0.05, 0.5, 0.95, 1.0)
        weights = torch.ones(count, dtype=torch.float64)
        found, expected = (numbers.weighted_quantiles(values.numpy(), w, levels) for w in (None, weights))
        assert found == expected or (count == 1 and all(map(math.isnan, found)))


def test_numbers_are_ordered_by_their_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.exp2(torch.randint(-1022, 1020, (3000,), generator=generator).double()).numpy()
    drawn = torch.rand(3000, generator=generator, dtype=torch.float64).numpy()
    for values in (spread, drawn, np.array([math.inf, 0.0, 2.0**-1022, 1.0]), -drawn, np.zeros(3), np.array([2.0])):
        order = numbers._order(values)
        assert sorted(order.tolist()) == list(range(len(values)))
        ordered = values[order]
        assert np.all(ordered[1:] >= ordered[:-1] * (1 - np.copysign(2.0**-30, ordered[:-1])))


def test_half_an_ulp_is_the_same_for_one_format_and_for_one_per_value() -> None:
    special = torch.tensor([0.0, -0.0, 5e-324, 2.0**-1022, 1.0, -1.0, 3.0, 65504.0, math.inf, -math.inf, math.nan])
    values = torch.cat(
        [special.double(), torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0))]
    )
    for dtype in kernels.DTYPES.values():
        bits, smallest = dtype.significant_bits, dtype.smallest
        one = rounding.half_ulp(values, bits, smallest)
        several = rounding.half_ulp(values, torch.full_like(values, bits).long(), torch.full_like(values, smallest))
        assert torch.equal(one.isnan(), ~values.isfinite()) and torch.equal(several.isnan(), one.isnan())
        assert torch.equal(one[values.isfinite()], several[values.isfinite()])
