"""A loss multiplied by 2^k, with hyperparameters mapped by their degrees, leaves every parameter bit as it was."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import kernels
from kernels import bits
from kernels.backends import step_bucket
from kernels.launch.buckets import Bucket
from kernels.rounding.powers import power_table

POWERS = (4, -4, 10, -10, 20, -20)
WIDTH = 256


def _grid(**choices: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


_SIGNS = {"weight_decay": (0.0, 0.1), "maximize": (False, True)}
_ADAM = [*_grid(**_SIGNS, amsgrad=(False, True)), {"betas": (0.3, 0.6)}, {"eps": 1e-3}]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "sgd": [
        *_grid(**_SIGNS, momentum=(0.0, 0.9)),
        *_grid(**_SIGNS, momentum=(0.9,), dampening=(0.3,)),
        *_grid(**_SIGNS, momentum=(0.9,), nesterov=(True,)),
    ],
    "adam": _ADAM,
    "adamw": _ADAM,
    "rmsprop": [*_grid(**_SIGNS, momentum=(0.0, 0.9), centered=(False, True)), {"alpha": 0.3, "centered": True}],
    "adagrad": _grid(**_SIGNS, lr_decay=(0.0, 0.1), initial_accumulator_value=(0.0, 0.1)),
    "adam_atan2": _grid(**_SIGNS),
}
RECIPES = {
    (name, recipe.reference): (name, recipe.name)
    for name, algorithm in kernels.ALGORITHMS.items()
    for recipe in reversed(algorithm.recipes.values())
}


def _family(name: str, recipe: str, options: dict[str, Any], dtype: torch.dtype, steps: int) -> kernels.Population:
    """A base model and one for every power of two, each on its own multiple of the same gradients."""
    algorithm = kernels.get_algorithm(name)
    base = algorithm.hyperparameters(**{"lr": 0.01, **options})
    hypers = [base, *(algorithm.rescale(base, 2.0**k) for k in POWERS)]
    scale = torch.tensor([1.0, *(2.0**k for k in POWERS)]).unsqueeze(1)
    params = torch.randn(WIDTH).to(dtype).expand(len(hypers), WIDTH).contiguous()
    population = kernels.Population(name, hypers, params, recipe=recipe, backend="reference")
    for step in range(steps):
        # Gradients shrink as in training, and some are 0.
        gradient = (torch.randn(WIDTH) / (1 + step) * (torch.rand(WIDTH) > 0.1)).to(dtype)
        population.step((gradient.float() * scale).to(dtype))
    return population


def _check(population: kernels.Population) -> None:
    params = population.params
    for row in range(1, len(params)):
        found = bits.report(params[row], params[0])
        assert found is None, f"s = 2^{POWERS[row - 1]}: {found}"
    degrees = population.algorithm.degrees
    smallest = torch.finfo(params.dtype).tiny
    for name, state in population.state.items():
        for row, power in enumerate(POWERS, 1):
            normal = (state[row].abs() >= smallest) & (state[0].abs() >= smallest)
            mapped = (state[row].double() * 2.0 ** (-power * degrees[name])).to(state.dtype)
            assert bits.mismatches(mapped[normal], state[0][normal]) == 0, (name, power)
            assert bool(normal.any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("name", "recipe"), RECIPES.values(), ids=map("-".join, RECIPES.values()))
def test_mapped_hyperparameters_leave_every_parameter_bit(name: str, recipe: str, dtype: torch.dtype) -> None:
    for options in OPTIONS[name]:
        _check(_family(name, recipe, options, dtype, steps=8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", OPTIONS)
def test_mapped_hyperparameters_leave_every_bit_for_many_steps(name: str, dtype: torch.dtype) -> None:
    _check(_family(name, kernels.get_algorithm(name).default_recipe, {"weight_decay": 0.01}, dtype, steps=300))


def test_atan2_needs_no_map() -> None:
    algorithm = kernels.get_algorithm("adam_atan2")
    hyper = algorithm.hyperparameters(weight_decay=0.1)
    assert algorithm.rescale(hyper, 2.0**10) == hyper


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop", "adagrad"])
def test_unmapped_hyperparameters_do_not(name: str) -> None:
    algorithm = kernels.get_algorithm(name)
    options = {"weight_decay": 0.1} | ({} if name == "sgd" else {"eps": 1e-3})
    hyper = algorithm.hyperparameters(**options)
    params = torch.randn(WIDTH).expand(2, WIDTH).contiguous()
    population = kernels.Population(name, [hyper, hyper], params)
    population.step(torch.randn(WIDTH) * torch.tensor([[1.0], [16.0]]))
    assert bits.mismatches(params[0], params[1]) > WIDTH // 2


def _float16_state(dtype: torch.dtype, power: int) -> Tensor:
    """Float32 parameters after 20 foreach Adam steps with moments in ``dtype``, on 2^power times a small loss."""
    algorithm = kernels.get_algorithm("adam")
    recipe, scale = algorithm.recipe("foreach"), 2.0**power
    hyper = algorithm.rescale(algorithm.hyperparameters(), scale)
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(4096, generator=generator)
    m, v = (torch.zeros(4096, dtype=dtype) for _ in range(2))
    powers = power_table(torch.device("cpu"))
    for step in range(1, 21):
        g = 0.01 * torch.randn(4096, generator=generator) * scale
        step_bucket(
            recipe,
            algorithm.flags(hyper),
            Bucket(params=[p], grads=[g], states=[[m], [v], None], row_of=[0]),
            rows=torch.tensor([recipe.row(hyper, float(step), step == 1, powers)], dtype=torch.float64),
            steps=torch.tensor([float(step)]),
            powers=powers.values,
            backend="reference",
        )
    return p


@pytest.mark.parametrize("power", POWERS)
def test_float16_moments_break_the_map_and_bfloat16_ones_keep_it(power: int) -> None:
    assert bits.mismatches(_float16_state(torch.bfloat16, power), _float16_state(torch.bfloat16, 0)) == 0
    wrong = bits.mismatches(_float16_state(torch.float16, power), _float16_state(torch.float16, 0))
    assert wrong > 2048, f"{wrong} of 4096"
