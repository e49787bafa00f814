"""The step as an operator: the population step's bits under vmap and torch.compile, one error for what does not fit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_population_scaled import Drawn, compare, draw
from torch import Tensor
from torch.func import vmap

import kernels

States = dict[str, Tensor]
ADAM = ("exp_avg", "exp_avg_sq")


def hyperparameters(drawn: Drawn, model: int) -> dict[str, Any]:
    """As a caller gives them; ``decoupled_weight_decay`` is fixed by the class."""
    return dict(vars(drawn.hypers[model]))


def expected(drawn: Drawn) -> list[Tensor]:
    """Of a population, after two steps: the second is scaled, and skipped where its flag is set."""
    params = drawn.params.clone()
    population = kernels.Population(
        drawn.algorithm.name,
        drawn.hypers,
        params,
        recipe=drawn.recipe.name,
        backend="reference",
        state_dtype=drawn.state,
    )
    population.step(drawn.grads[0].clone())
    population.step(drawn.grads[1].clone(), grad_scale=drawn.scales[1], found_inf=drawn.flags[1])
    return [params, *population.state.values()]


def mapped(drawn: Drawn, wrap: Callable[[Any], Any] = lambda function: function) -> list[Tensor]:
    """The same by the operator; numbers that differ between models are mapped over."""
    models = range(len(drawn.params))
    records = [hyperparameters(drawn, model) for model in models]
    varying = {
        name: torch.tensor([record[name] for record in records], dtype=torch.float64)
        for name, value in records[0].items()
        if not isinstance(value, bool) and any(record[name] != value for record in records)
    }
    fixed = {name: value for name, value in records[0].items() if name not in varying}
    names = drawn.algorithm.state_names(drawn.hypers[0])
    fills = torch.tensor([drawn.algorithm.fill(hyper) for hyper in drawn.hypers])
    states = {name: fills.unsqueeze(1).expand(drawn.params.shape).to(drawn.state) for name in names}

    def step(p: Tensor, g: Tensor, kept: States, own: States, number: int, scale: Any, flag: Any) -> Any:
        pairs = {name: (value[0], value[1]) if value.dim() else value for name, value in own.items()}
        return kernels.optimizer_step(
            drawn.algorithm.name,
            p,
            g,
            kept,
            number,
            hyperparameters={**fixed, **pairs},
            recipe=drawn.recipe.name,
            grad_scale=scale,
            found_inf=flag,
        )

    params = drawn.params
    for t, (scale, flag) in enumerate(((None, None), (drawn.scales[1], drawn.flags[1]))):
        dims = (0, 0, 0, 0, None, *(0 if isinstance(value, Tensor) else None for value in (scale, flag)))
        run = wrap(vmap(step, in_dims=dims))
        params, states = run(params, drawn.grads[t], states, varying, t + 1, scale, flag)
    return [params, *states.values()]


@pytest.mark.parametrize("part", range(3))
def test_mapped_over_models_it_is_the_population_step(part: int) -> None:
    for seed in range(20 * part, 20 * part + 20):
        drawn = draw(seed)
        before = [drawn.params.clone(), *[g.clone() for g in drawn.grads]]
        compare(mapped(drawn), expected(drawn), f"seed {seed}")
        compare([drawn.params, *drawn.grads], before, "what was given")


def test_of_one_model_in_any_shape() -> None:
    adam = kernels.get_algorithm("adam").hyperparameters
    p, g = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    params = p.reshape(1, -1).clone()
    population = kernels.Population("adam", [adam(lr=0.1)], params)
    population.step(g.reshape(1, -1).clone(), grad_scale=8.0)
    new, states = kernels.optimizer_step(
        "adam", p, g, dict.fromkeys(ADAM, torch.zeros(3, 4, 5)), 1, hyperparameters={"lr": 0.1}, grad_scale=8.0
    )
    found = [tensor.reshape(1, -1) for tensor in (new, *states.values())]
    compare(found, [params, *population.state.values()], "one")


def test_nested_maps() -> None:
    torch.manual_seed(0)
    p, g, step = torch.randn(2, 3, 7), torch.randn(2, 3, 7), torch.tensor([[1, 2, 3], [4, 5, 6]])
    lr = torch.tensor([0.1, 0.2])
    zeros = torch.zeros(7, 2, 3)

    def one(p: Tensor, g: Tensor, m: Tensor, v: Tensor, number: Tensor, lr: Tensor) -> Any:
        return kernels.optimizer_step("adam", p, g, {"exp_avg": m, "exp_avg_sq": v}, number, hyperparameters={"lr": lr})

    inner = vmap(one, in_dims=(0, 0, 1, 1, 0, None))
    new, _ = vmap(inner, in_dims=(0, 0, 1, 1, 0, 0))(p, g, zeros, zeros, step, lr)
    adam = kernels.get_algorithm("adam").hyperparameters
    params = p.reshape(6, 7).clone()
    records = [adam(lr=float(value)) for value in lr.repeat_interleave(3)]
    kernels.Population("adam", records, params, steps=step.reshape(-1) - 1).step(g.reshape(6, 7))
    compare([new.reshape(6, 7)], [params], "nested")


def test_of_no_models_there_are_none_after_the_step() -> None:
    p = torch.zeros(0, 7)

    def one(p: Tensor, lr: Tensor) -> Any:
        state = {"exp_avg": p, "exp_avg_sq": p}
        return kernels.optimizer_step("adam", p, p, state, 1, hyperparameters={"lr": lr}, found_inf=lr, grad_scale=lr)

    new, states = vmap(one)(p, torch.zeros(0))
    assert [x.shape for x in (new, *states.values())] == [(0, 7)] * 3


def test_torch_compile_keeps_it_whole_and_its_bits() -> None:
    """The graph has one node of it; torch's own checks of an operator pass."""
    for seed in (1, 4):
        drawn = draw(seed)
        whole = mapped(drawn, lambda function: torch.compile(function, fullgraph=True, backend="aot_eager"))
        compare(whole, expected(drawn), f"seed {seed}")
    numbers = torch.full((3, 1), 0.1, dtype=torch.float64)
    p, step = torch.randn(3, 5), torch.tensor([1.0, 2.0, 3.0])
    arguments = (p, p * 2, [p * 0, p * 0], step, numbers, None, None, "adam", ",".join(ADAM), "", [], "lr", "", "auto")
    torch.library.opcheck(torch.ops.kernels.optimizer_step.default, arguments)


def sound() -> dict[str, Any]:
    given: dict[str, Any] = {"algorithm": "adam", "params": torch.ones(4, 6), "grads": torch.ones(4, 6)}
    return {**given, "states": dict.fromkeys(ADAM, torch.zeros(4, 6)), "step": 1, "hyperparameters": {"lr": 0.1}}


WRONG: dict[str, list[Any]] = {
    "algorithm": ["adamm", ""],
    "step": [0, -1, float("nan"), 1.5, 2.0**25],
    "hyperparameters": [
        *({"lr": -1.0}, {"rate": 1.0}, {"betas": 0.9}, {"betas": (0.9, 2.0)}, {"eps": torch.tensor(-1.0)}),
        *({"lr": "small"}, {"lr": torch.ones(2)}, {"lr": None}, {"betas": (0.9, "x")}),
    ],
    "recipe": ["fusedd"],
    "backend": ["numpy"],
    "grad_scale": [torch.ones(3), "large"],
    "found_inf": [torch.ones(2), "none"],
}
TENSORS: list[Callable[[Tensor], Any]] = [
    lambda t: t.double(),
    lambda t: t.long(),
    lambda t: t.to(torch.complex64),
    lambda t: t[:2],
    lambda t: t.reshape(-1),
    lambda t: t.to_sparse(),
    lambda t: None,
    lambda t: t.tolist(),
    lambda t: t.bfloat16(),
]


def faults() -> list[tuple[str, dict[str, Any]]]:
    """Every argument spoilt alone, and every tensor in every way; what torch itself would accept is left out."""
    found = []
    for name, values in WRONG.items():
        found += [(f"{name} {value!r}", {**sound(), name: value}) for value in values]
    for k, spoil in enumerate(TENSORS):
        for name in ("params", "grads"):
            found.append((f"{name} {k}", {**sound(), name: spoil(sound()[name])}))
        for name in ADAM:
            states = sound()["states"]
            found.append((f"{name} {k}", {**sound(), "states": {**states, name: spoil(states[name])}}))
    for states in ({}, {"exp_avg": torch.zeros(4, 6)}, {**sound()["states"], "sum": torch.zeros(4, 6)}):
        found.append((f"states {sorted(states)}", {**sound(), "states": states}))
    return found


@pytest.mark.parametrize("way", ["plain", "mapped"])
def test_what_does_not_fit_is_one_clear_error(way: str) -> None:
    for name, given in faults():
        spoilt = dict(given)
        algorithm, params, grads = (spoilt.pop(each) for each in ("algorithm", "params", "grads"))
        states, step = spoilt.pop("states"), spoilt.pop("step")
        before = params.clone() if isinstance(params, Tensor) else None
        with pytest.raises((ValueError, TypeError)) as caught:
            if way == "plain":
                kernels.optimizer_step(algorithm, params, grads, states, step, **spoilt)
            else:
                vmap(lambda p, g, s: kernels.optimizer_step(algorithm, p, g, s, step, **spoilt))(params, grads, states)  # noqa: B023
        text = str(caught.value)
        assert text and ("\n" not in text or way == "mapped"), (name, text)
        assert before is None or torch.equal(params.to_dense(), before.to_dense()), name


def test_random_faults_together() -> None:
    """Two faults at once are one error too."""
    rng = np.random.default_rng(0)
    listed = faults()
    for a, b in rng.integers(len(listed), size=(150, 2)):
        given = sound()
        for _, spoilt in (listed[a], listed[b]):
            given.update({name: value for name, value in spoilt.items() if value is not sound().get(name)})
        given["states"] = listed[b][1]["states"]
        algorithm, params, grads = (given.pop(each) for each in ("algorithm", "params", "grads"))
        with pytest.raises((ValueError, TypeError)):
            kernels.optimizer_step(algorithm, params, grads, given.pop("states"), given.pop("step"), **given)


def test_order_of_a_pair_does_not_depend_on_who_is_mapped() -> None:
    p, g = torch.randn(2, 5), torch.randn(2, 5)
    zeros = dict.fromkeys(ADAM, torch.zeros(2, 5))

    def one(p: Tensor, g: Tensor, s: States, beta: Tensor) -> Any:
        return kernels.optimizer_step("adam", p, g, s, 3, hyperparameters={"betas": (beta, 0.99)})

    new, _ = vmap(one)(p, g, zeros, torch.tensor([0.5, 0.25]))
    adam = kernels.get_algorithm("adam").hyperparameters
    params = p.clone()
    records = [adam(betas=(0.5, 0.99)), adam(betas=(0.25, 0.99))]
    kernels.Population("adam", records, params, steps=torch.full((2,), 2)).step(g)
    compare([new], [params], "betas")
