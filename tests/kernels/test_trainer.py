"""Whole training runs: every backend against `Population` steps fed with the reference network's gradients."""

from typing import Any

import numpy as np
import pytest
import torch

import kernels
from kernels import bits
from kernels.population import network_reference

NETWORK = kernels.NETWORKS["mlp-6-6-1"]
FAMILIES, ARMS = 3, 4
MODELS = FAMILIES * ARMS
# The interpreter takes a tenth of a second a step: long runs where a rule is used as it comes, short ones elsewhere.
LONG, SHORT = 10, 3
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "sgd": [{}, {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1}, {"momentum": 0.9, "nesterov": True}],
    "adam": [{}, {"weight_decay": 0.1}, {"amsgrad": True}],
    "adamw": [{}],
    "rmsprop": [{}, {"momentum": 0.9}, {"centered": True}],
    "adagrad": [{"initial_accumulator_value": 0.1, "lr_decay": 0.1}],
    "adam_atan2": [{"weight_decay": 0.1}],
}
CASES = [
    (name, recipe, options)
    for name, listed in OPTIONS.items()
    for recipe in kernels.get_algorithm(name).recipes
    for options in listed
]


def problem(models: int, families: int, steps: int, policy: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Initial parameters in the policy's format and data."""
    rng = np.random.default_rng(0)
    drawn = ((rng.random((models, NETWORK.parameters)) * 2 - 1) / 6**0.5).astype(np.float32)
    data = rng.random((steps, families, NETWORK.features)).astype(np.float32)
    return torch.from_numpy(drawn).to(kernels.POLICIES[policy].dtype("params")), torch.from_numpy(data)


def records(name: str, options: dict[str, Any], arms: int = ARMS) -> list[Any]:
    make = kernels.get_algorithm(name).hyperparameters
    return [make(lr=0.01 * (1 + k), **options) for k in range(arms)]


SCALES = [1.0, 8.0, 2.0**-6, 3.7]


def by_population_steps(
    name: str, recipe: str, options: dict[str, Any], policy: str, steps: int
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Parameters and states after a run of single steps, and the gradients."""
    formats = kernels.POLICIES[policy]
    params, data = problem(MODELS, FAMILIES, steps, policy)
    population = kernels.Population(
        name,
        records(name, options) * FAMILIES,
        params,
        recipe=recipe,
        backend="reference",
        state_dtype=formats.dtype("state"),
    )
    scales = torch.tensor(SCALES).repeat(FAMILIES)
    seen = []
    for sample in data:
        each = sample.repeat_interleave(ARMS, 0)
        grads = network_reference.gradients(NETWORK, params, each, scales, formats.dtype("compute"))
        seen.append(grads.to(params.dtype))
        population.step(seen[-1])
    return [params, *population.state.values()], torch.stack(seen)


def by_trainer(
    name: str, recipe: str, options: dict[str, Any], policy: str, backend: str, steps: int, **changes: Any
) -> tuple[list[torch.Tensor], torch.Tensor]:
    params, data = problem(MODELS, FAMILIES, steps, policy)
    given: dict[str, Any] = {"recipe": recipe, "backend": backend, "policy": policy, "loss_scale": SCALES, **changes}
    trainer = kernels.Trainer(name, records(name, options), params, **given)
    grads = trainer.run(data, keep_gradients=True)
    assert grads is not None
    return [params, *trainer.state.values()], grads


def assert_equal(got: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(got) == len(expected)
    for tensor, other in zip(got, expected, strict=True):
        found = bits.report(tensor, other)
        assert found is None, found


def compare(name: str, recipe: str, options: dict[str, Any], policy: str, backend: str, steps: int) -> None:
    expected, gradients = by_population_steps(name, recipe, options, policy, steps)
    got, kept = by_trainer(name, recipe, options, policy, backend, steps)
    assert_equal([*got, kept], [*expected, gradients])


@pytest.mark.interpreter
@pytest.mark.parametrize(("name", "recipe", "options"), CASES)
def test_interpreted_runs_are_population_steps(name: str, recipe: str, options: dict[str, Any]) -> None:
    default = recipe == "foreach" and options == OPTIONS[name][0]
    compare(name, recipe, options, "fp32", "interpreter", LONG if default else SHORT)


@pytest.mark.interpreter
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
@pytest.mark.parametrize("policy", [policy for policy in kernels.POLICIES if policy != "fp32"])
def test_interpreted_runs_in_every_policy(name: str, policy: str) -> None:
    options = OPTIONS[name][min(1, len(OPTIONS[name]) - 1)]
    compare(name, "foreach", options, policy, "interpreter", LONG if name == "adam" else SHORT)
    if "fused" in kernels.get_algorithm(name).recipes:
        compare(name, "fused", options, policy, "interpreter", SHORT)


@pytest.mark.parametrize(("name", "recipe", "options"), CASES)
def test_vector_runs_are_population_steps(name: str, recipe: str, options: dict[str, Any]) -> None:
    compare(name, recipe, options, "fp32", "simd", LONG)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
@pytest.mark.parametrize("policy", [policy for policy in kernels.POLICIES if policy != "fp32"])
def test_vector_runs_in_every_policy(name: str, policy: str) -> None:
    for recipe in kernels.get_algorithm(name).recipes:
        for options in OPTIONS[name]:
            compare(name, recipe, options, policy, "simd", LONG)
