"""Populations with a loss scale and an overflow flag per model: each model steps as it would alone, or not at all."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from configurations import random_hyper, vary
from torch import Tensor

import kernels
from kernels import bits

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OTHERS = ["reference", "simd", pytest.param("interpreter", marks=pytest.mark.interpreter)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """A run: what the population is made of, and scales and flags for every step."""

    algorithm: kernels.Algorithm
    recipe: kernels.Recipe
    hypers: list[Any]
    params: Tensor
    state: torch.dtype
    grads: list[Tensor]
    scales: list[Any]
    flags: list[Any]


def draw(seed: int) -> Drawn:
    rng = np.random.default_rng(seed)
    algorithm = list(kernels.ALGORITHMS.values())[seed % len(kernels.ALGORITHMS)]
    recipe = list(algorithm.recipes.values())[seed // len(kernels.ALGORITHMS) % len(algorithm.recipes)]
    hyper = random_hyper(algorithm, rng)
    models, width, steps = int(rng.integers(1, 7)), int(rng.choice([1, 3, 16, 49, 130])), 4
    dtype = DTYPES[rng.integers(3)]

    def values() -> Tensor:
        return torch.from_numpy(rng.standard_normal((models, width))).to(dtype)

    def numbers(choices: tuple[float, ...]) -> Any:
        kind = rng.integers(4)
        drawn = torch.tensor(rng.choice(choices, models), dtype=torch.float32)
        return (None, float(drawn[0]), drawn, drawn)[kind]

    return Drawn(
        algorithm=algorithm,
        recipe=recipe,
        hypers=[vary(algorithm, hyper, rng) if rng.random() < 0.5 else hyper for _ in range(models)],
        params=values(),
        state=dtype if rng.random() < 0.7 else DTYPES[rng.integers(3)],
        grads=[values() for _ in range(steps)],
        scales=[numbers((1.0, 2.0, 3.0, 65536.0, 0.1)) for _ in range(steps)],
        flags=[numbers((0.0, 0.0, 1.0, 2.0)) for _ in range(steps)],
    )


def of_model(values: Any, model: int) -> float | None:
    """A model's own scale or flag."""
    return None if values is None else float(values[model]) if isinstance(values, Tensor) else values


def together(drawn: Drawn, backend: str) -> tuple[list[Tensor], Tensor]:
    """Everything that the population wrote, gradients included, and the models' steps."""
    params, grads = drawn.params.clone(), [g.clone() for g in drawn.grads]
    population = kernels.Population(
        drawn.algorithm.name,
        drawn.hypers,
        params,
        recipe=drawn.recipe.name,
        backend=backend,
        state_dtype=drawn.state,
    )
    for g, scale, flag in zip(grads, drawn.scales, drawn.flags, strict=True):
        population.step(g, grad_scale=scale, found_inf=flag)
    return [params, *population.state.values(), *grads], population.steps


def alone(drawn: Drawn, model: int) -> tuple[list[Tensor], int]:
    """The same of one model: in a population of its own that a skipped step never reaches."""
    rows = slice(model, model + 1)
    params, grads = drawn.params.clone()[rows], [g.clone()[rows] for g in drawn.grads]
    population = kernels.Population(
        drawn.algorithm.name,
        [drawn.hypers[model]],
        params,
        recipe=drawn.recipe.name,
        backend="reference",
        state_dtype=drawn.state,
    )
    for g, scale, flag in zip(grads, drawn.scales, drawn.flags, strict=True):
        if of_model(flag, model) != 1:
            population.step(g, grad_scale=of_model(scale, model))
    return [params, *population.state.values(), *grads], population.step_count


def by_function(drawn: Drawn, model: int) -> list[Tensor]:
    """The same as a tensor of the functional step, which takes one scale and one flag for all."""
    params, grads = drawn.params.clone()[model], [g.clone()[model] for g in drawn.grads]
    hyper = drawn.hypers[model]
    names = drawn.algorithm.state_names(hyper)
    fill = drawn.algorithm.fill(hyper)
    states = {name: torch.full_like(drawn.params, fill)[model] for name in names}
    taken = 0
    for g, scale, flag in zip(grads, drawn.scales, drawn.flags, strict=True):
        own_scale, own_flag = of_model(scale, model), of_model(flag, model)
        kernels.functional.step_(
            drawn.algorithm.name,
            hyper,
            [params],
            [g],
            {name: [state] for name, state in states.items()},
            step=taken + 1.0,
            first=taken == 0,
            recipe=drawn.recipe.name,
            backend="reference",
            grad_scale=None if own_scale is None else torch.tensor(own_scale),
            found_inf=None if own_flag is None else torch.tensor(own_flag),
        )
        taken += own_flag != 1
    return [params, *states.values(), *grads]


def compare(first: list[Tensor], second: list[Tensor], place: str) -> None:
    for k, (a, b) in enumerate(zip(first, second, strict=True)):
        found = bits.report(a.reshape(-1), b.reshape(-1))
        assert found is None, f"{place}, tensor {k}: {found}"


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("part", range(2))
def test_every_model_steps_as_it_would_alone(part: int, backend: str) -> None:
    skipped = 0
    for seed in range(30 * part, 30 * part + 30):
        drawn = draw(seed)
        found, steps = together(drawn, backend)
        for model in range(len(drawn.params)):
            expected, count = alone(drawn, model)
            compare([tensor[model] for tensor in found], expected, f"seed {seed}, model {model}")
            assert int(steps[model]) == count
            skipped += count < len(drawn.grads)
    assert skipped > 10


def test_a_population_is_the_functional_step() -> None:
    for seed in range(60):
        drawn = draw(seed)
        drawn = dataclasses.replace(drawn, state=drawn.params.dtype)
        found, _ = together(drawn, "reference")
        for model in range(len(drawn.params)):
            expected = by_function(drawn, model)
            compare([tensor[model] for tensor in found], expected, f"seed {seed}, model {model}")


@pytest.mark.parametrize("backend", ["reference", "simd"])
@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"grad_scale": torch.ones(3)}, ValueError, r"grad_scale of shape \(3,\) for 4 models: give one number"),
        ({"found_inf": torch.zeros(2, 2)}, ValueError, r"found_inf of shape \(2, 2\) for 4 models"),
        ({"found_inf": torch.zeros(0)}, ValueError, r"found_inf of shape \(0,\) for 4 models"),
        ({"grad_scale": "large"}, TypeError, "grad_scale: .*give a number, or one per model"),
        ({"grad_scale": [1.0, "x", 1.0, 1.0]}, TypeError, "grad_scale: .*give a number, or one per model"),
        ({"grad_scale": torch.ones(4, dtype=torch.complex64)}, TypeError, "grad_scale of torch.complex64"),
        ({"found_inf": torch.zeros(4, device="meta")}, ValueError, "found_inf on meta"),
        ({"found_inf": torch.zeros(4).to_sparse()}, TypeError, "found_inf: .*give .*a number"),
    ],
)
def test_scales_and_flags_that_do_not_fit_change_nothing(
    backend: str, given: dict[str, Any], error: type[Exception], words: str
) -> None:
    params, grads = torch.ones(4, 8), torch.ones(4, 8)
    population = kernels.Population("adam", [kernels.get_algorithm("adam").hyperparameters()], params, backend=backend)
    with pytest.raises(error, match=words) as caught:
        population.step(grads, **given)
    assert "\n" not in str(caught.value)
    assert population.step_count == 0 and torch.equal(params, torch.ones(4, 8)) and torch.equal(grads, params)


def test_a_model_that_turns_nan_is_its_own() -> None:
    """Gradients of one model are not finite and nothing is skipped: its neighbours step as without it."""
    hyper = kernels.get_algorithm("adam").hyperparameters()
    found = []
    for bad in (1.0, float("nan"), float("inf")):
        params, grads = torch.ones(3, 49), torch.ones(3, 49)
        grads[1] = bad
        kernels.Population("adam", [hyper], params).step(grads, grad_scale=[1.0, 2.0, 4.0])
        found.append(params)
    for other in found[1:]:
        assert torch.equal(other[::2], found[0][::2]) and other[1].isnan().all()


@pytest.mark.parametrize("backend", OTHERS)
def test_a_backward_pass_through_values_that_were_stepped_fails_as_in_torch(backend: str) -> None:
    w = torch.ones(2, 4, requires_grad=True)
    population = kernels.Population("adam", [{"lr": 0.1}], w.detach(), backend=backend)
    loss = (w * w).sum()
    grads = torch.ones(2, 4)
    written = [w, *population.state.values(), grads]
    before = [tensor._version for tensor in written]
    population.step(grads, grad_scale=2.0)
    assert all(tensor._version > version for tensor, version in zip(written, before, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (-5, "^steps of model 0 is -5; give whole numbers from 0 to 16777216$"),
        (torch.tensor([0.0, float("nan")]), "^steps of model 1 is nan; give whole"),
        ([0, 1.5], "^steps of model 1 is 1.5; give whole"),
        ([float("inf"), 0], "^steps of model 0 is inf; give whole"),
        (torch.tensor([3, 2**24 + 1]), "^steps of model 1 is 16777217; give whole"),
        ([3, 2**24 + 1], "^steps of model 1 is 16777217; give whole"),
        ([1, 2, 3], r"^steps of shape \(3,\) for 2 models: give one number, one per model"),
    ],
)
def test_counts_of_steps_are_whole_numbers(steps: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernels.Population("adam", [{}], torch.zeros(2, 4), steps=steps)


@pytest.mark.parametrize("steps", [7, [7, 7], (7.0, 7.0), torch.tensor([7, 7]), torch.tensor(7.0), np.array([7, 7])])
def test_counts_of_steps_are_taken_as_given(steps: Any) -> None:
    assert kernels.Population("adam", [{}], torch.zeros(2, 4), steps=steps).steps.tolist() == [7, 7]
    kept = kernels.Population("adam", [{}], torch.zeros(2, 4), steps=torch.tensor([2**24, 2**24 - 1]))
    assert kept.steps.tolist() == [2**24, 2**24 - 1]
