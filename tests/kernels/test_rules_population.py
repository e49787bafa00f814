"""A model steps to the same bits in a population, alone, as a tensor of an optimizer, and on every backend."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from configurations import placed

import kernels
from kernels import bits

ALGORITHMS = {
    "sgd": ({"momentum": 0.9, "nesterov": True}, {"weight_decay": 0.1}),
    "adam": ({}, {"amsgrad": True, "weight_decay": 0.1}),
    "adamw": ({}, {"maximize": True}),
    "rmsprop": ({"centered": True}, {"momentum": 0.9}),
    "adagrad": ({"initial_accumulator_value": 0.1}, {"weight_decay": 0.1, "lr_decay": 0.1}),
    "adam_atan2": ({}, {"weight_decay": 0.1}),
}
CASES = [
    (name, recipe, options)
    for name, listed in ALGORITHMS.items()
    for recipe in kernels.get_algorithm(name).recipes
    for options in listed
]
MODELS = 5


def _three_ways(
    name: str, recipe: str, options: dict[str, Any], width: int, dtype: torch.dtype, backend: str
) -> list[Any]:
    """Parameters and states of models in one population, in populations of one, and as tensors of an optimizer."""
    algorithm = kernels.get_algorithm(name)
    hypers = [algorithm.hyperparameters(lr=0.01 * (1 + k % 3), **options) for k in range(MODELS)]
    torch.manual_seed(0)
    start = torch.randn(MODELS, width).to(dtype)
    together, alone = start.clone(), start.clone()
    # As tensors of one storage, so that their alignment is the population's.
    tensors = [torch.nn.Parameter(row) for row in start.clone()]
    population = kernels.Population(name, hypers, together, recipe=recipe, backend=backend)
    singles = [
        kernels.Population(name, [hyper], alone[k : k + 1], recipe=recipe, backend=backend)
        for k, hyper in enumerate(hypers)
    ]
    groups = [{"params": [p], "lr": hyper.lr} for p, hyper in zip(tensors, hypers, strict=True)]
    base = recipe.removesuffix("-capturable")
    capturable = {"capturable": True} if base != recipe else {}
    optimizer = getattr(kernels, algorithm.title)(groups, recipe=base, backend=backend, **capturable, **options)
    for _ in range(3):
        grads = torch.randn(MODELS, width).to(dtype)
        population.step(grads)
        for k, (single, p) in enumerate(zip(singles, tensors, strict=True)):
            single.step(grads[k : k + 1])
            p.grad = grads[k]
        optimizer.step()
    names = list(population.state)
    return [
        [together, *(population.state[n] for n in names)],
        [alone, *(torch.cat([single.state[n] for single in singles]) for n in names)],
        [
            torch.stack([p.detach() for p in tensors]),
            *(torch.stack([optimizer.state[p][n] for p in tensors]) for n in names),
        ],
    ]


def _assert_equal(first: list[torch.Tensor], *others: list[torch.Tensor]) -> None:
    for other, (k, tensor) in itertools.product(others, enumerate(first)):
        found = bits.report(tensor, other[k])
        assert found is None, found


OTHERS = ["simd", pytest.param("interpreter", marks=pytest.mark.interpreter)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("name", "recipe", "options"), CASES)
def test_population_single_models_and_tensor_lists_agree(
    name: str, recipe: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    for width in (1, 64, 67):
        _assert_equal(*_three_ways(name, recipe, options, width, dtype, "reference"))


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize(("name", "recipe", "options"), CASES[::2])
def test_other_backends_agree_three_times(name: str, recipe: str, options: dict[str, Any], backend: str) -> None:
    stepped = _three_ways(name, recipe, options, 67, torch.bfloat16, backend)
    referenced = _three_ways(name, recipe, options, 67, torch.bfloat16, "reference")
    _assert_equal(referenced[0], *stepped)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("misplaced", ["params", "grads"])
def test_lanes_follow_the_addresses_of_a_population(misplaced: str, other: str) -> None:
    algorithm = kernels.get_algorithm("adam")
    hypers = [algorithm.hyperparameters(lr=0.1, weight_decay=0.97)] * 2
    results = []
    for backend in (other, "reference"):
        rng = np.random.default_rng(0)
        params, grads = (
            placed(rng.standard_normal(128), torch.float32, int(name == misplaced)).view(2, 64)
            for name in ("params", "grads")
        )
        population = kernels.Population("adam", hypers, params, recipe="fused", backend=backend)
        for _ in range(3):
            population.step(grads)
        results.append([params, *population.state.values()])
    _assert_equal(*results)


@pytest.mark.parametrize("backend", ["reference", "simd"])
def test_a_replaced_state_that_does_not_fit_is_refused(backend: str) -> None:
    hyper = kernels.get_algorithm("adam").hyperparameters()
    for wrong in (torch.zeros(2, 8, dtype=torch.bfloat16), torch.zeros(2, 4), torch.zeros(8, 2).t()):
        population = kernels.Population("adam", [hyper], torch.ones(2, 8), backend=backend)
        population.state["exp_avg"] = wrong
        with pytest.raises(ValueError, match=r"state 'exp_avg' of shape .*: give a contiguous one of shape \(2, 8\)"):
            population.step(torch.ones(2, 8))
        assert population.step_count == 0 and torch.equal(population.params, torch.ones(2, 8))


ADAM = kernels.get_algorithm("adam").hyperparameters


def test_records_may_be_mappings() -> None:
    torch.manual_seed(0)
    params, grads = torch.randn(4, 8), torch.randn(4, 8)
    found = []
    for records in ([ADAM(lr=0.1), ADAM(lr=0.2)], [{"lr": 0.1}, {"lr": 0.2}]):
        population = kernels.Population("adam", records, params.clone())
        population.step(grads)
        found.append(population.params)
    assert torch.equal(*found)


def test_records_that_differ_by_the_sign_of_a_zero_are_two() -> None:
    population = kernels.Population("adam", [ADAM(lr=lr) for lr in (0.0, -0.0, 0.0)], torch.full((3, 4), -0.0))
    population.step(torch.ones(3, 4))
    assert population.record_of.tolist() == [0, 1, 0]
    assert population.params.signbit()[:, 0].tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("records", "kind", "message"),
    [
        ([{}, {"lr": -1.0}], ValueError, "hyperparameters of model 1: Invalid learning rate: -1.0"),
        ([{"mu": 0.9}], ValueError, "hyperparameters of model 0: .*'mu'"),
        (
            [kernels.get_algorithm("sgd").hyperparameters(lr=0.1)],
            TypeError,
            "model 0: a SGDHyperparameters; adam takes",
        ),
        (ADAM(), TypeError, "hyperparameters: a AdamHyperparameters, no list"),
        (None, TypeError, "hyperparameters: a NoneType, no list"),
        ([ADAM()] * 3, ValueError, "3 records for 4 models"),
        ([ADAM(), ADAM(amsgrad=True)], ValueError, "options that select code differ"),
    ],
)
def test_records_that_do_not_fit_are_refused(records: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        kernels.Population("adam", records, torch.randn(4, 8))
    if kind is TypeError:
        with pytest.raises(kind, match=message):
            kernels.Population("adam", records, torch.randn(0, 8))
