"""Whole training runs: every backend against `Population` steps fed with the reference network's gradients."""

from typing import Any

import numpy as np
import pytest
import torch

import kernels
from kernels import bits
from kernels.population import launches, network_reference

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
    options = OPTIONS[name][min(1, len(OPTIONS[name]) - 1)]
    compare(name, "foreach", OPTIONS[name][0], policy, "simd", LONG)
    if "fused" in kernels.get_algorithm(name).recipes:
        compare(name, "fused", options, policy, "simd", LONG)


def train(models: int, families: int, steps: int, **changes: Any) -> kernels.Trainer:
    """An Adam run of as many arms as models per family, with vector code unless told otherwise."""
    params, data = problem(models, families, steps, "fp32")
    arms = models // families
    given: dict[str, Any] = {"loss_scale": [2.0**k for k in range(arms)], "backend": "simd", **changes}
    split = given.pop("split", 1)
    trainer = kernels.Trainer("adam", given.pop("records", None) or records("adam", {}, arms), params, **given)
    for part in range(split):
        trainer.run(data[steps * part // split : steps * (part + 1) // split])
    return trainer


def bits_of(trainer: kernels.Trainer) -> list[torch.Tensor]:
    return [trainer.params, *trainer.state.values()]


def test_a_run_in_parts_is_the_run() -> None:
    assert_equal(bits_of(train(60, 20, 12, split=3)), bits_of(train(60, 20, 12)))


def test_long_runs_are_split_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bits_of(train(60, 20, 12))
    monkeypatch.setattr("kernels.population.launches.CHUNK", 5000)
    assert len(list(launches.chunks(12, 1500))) == 4
    assert_equal(bits_of(train(60, 20, 12)), expected)


def test_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bits_of(train(320, 80, 4))
    monkeypatch.setattr("kernels.population.launches_simd._THREADED", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert_equal(bits_of(train(320, 80, 4)), expected)


@pytest.mark.parametrize("backend", ["simd", "reference"])
def test_neighbours_and_order_do_not_matter(backend: str) -> None:
    """Every model alone, and all in reverse, in numbers that fill no vector."""
    params, data = problem(37, 37, 5, "fp32")
    hypers = records("adam", {}, 37)
    scales = torch.linspace(0.5, 900.0, 37)

    def run(chosen: list[int]) -> list[torch.Tensor]:
        start = params[chosen].clone()
        trainer = kernels.Trainer(
            "adam", [hypers[k] for k in chosen], start, loss_scale=scales[chosen], backend=backend
        )
        trainer.run(data[:, chosen].contiguous())
        return bits_of(trainer)

    together = run(list(range(37)))
    assert_equal([x.flip(0) for x in run(list(range(36, -1, -1)))], together)
    for k in (0, 17, 36):
        assert_equal(run([k]), [x[k : k + 1] for x in together])


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 3e38])
def test_a_broken_model_disturbs_nobody(poison: float) -> None:
    params, data = problem(MODELS, FAMILIES, 4, "fp32")
    runs = []
    for broken in (False, True):
        start = params.clone()
        if broken:
            start[5] = poison
        trainer = kernels.Trainer("adam", records("adam", {}), start, loss_scale=SCALES, backend="simd")
        trainer.run(data)
        runs.append(bits_of(trainer))
    others = [k for k in range(MODELS) if k != 5]
    assert_equal([x[others] for x in runs[1]], [x[others] for x in runs[0]])
    assert not runs[1][0][5].isfinite().all()


@pytest.mark.parametrize(("name", "recipe", "options"), CASES)
def test_vector_runs_with_hyperparameters_per_model(name: str, recipe: str, options: dict[str, Any]) -> None:
    """Rates that all differ, eps or decay that do, and the first step's scalars among the others."""
    params, data = problem(40, 40, 6, "fp32")
    hypers = records(name, options, 40)
    results = []
    for backend in ("simd", "reference"):
        start = params.clone()
        trainer = kernels.Trainer(name, hypers, start, recipe=recipe, backend=backend, loss_scale=SCALES)
        assert not trainer._placed.shared or backend == "reference"
        trainer.run(data[:4])
        trainer.run(data[4:])
        results.append(bits_of(trainer))
    assert_equal(*results)


def test_records_per_arm_are_records_per_model() -> None:
    arms = records("adam", {}, 3)
    assert_equal(bits_of(train(60, 20, 5, records=arms * 20)), bits_of(train(60, 20, 5, records=arms)))


def test_scaling_by_a_power_of_two_is_mapped_away() -> None:
    """The loss times 2^13 with the mapped record: parameters agree, moments are scaled."""
    plain = kernels.get_algorithm("adam").hyperparameters(lr=0.01)
    mapped = kernels.get_algorithm("adam").rescale(plain, 8192.0)
    one, other = (train(20, 20, 20, records=[r], loss_scale=s) for r, s in ((plain, 1.0), (mapped, 8192.0)))
    assert_equal([other.params, other.state["exp_avg"] / 8192], [one.params, one.state["exp_avg"]])


DEEPER = kernels.Network(name="mlp-3-4-5-1", widths=(3, 4, 5, 1), head=NETWORK.head)


def deeper_run(backend: str, policy: str) -> list[torch.Tensor]:
    """A network with two hidden layers, inputs as they are, whose rows have another padding."""
    rng = np.random.default_rng(1)
    params = torch.from_numpy(rng.uniform(-1, 1, (20, DEEPER.parameters)).astype(np.float32))
    data = torch.from_numpy(rng.random((4, 5, DEEPER.features)).astype(np.float32))
    given: dict[str, Any] = {"network": DEEPER, "policy": policy, "backend": backend, "loss_scale": SCALES}
    trainer = kernels.Trainer("adam", records("adam", {}), params, **given)
    grads = trainer.run(data, keep_gradients=True)
    assert grads is not None
    assert bool((grads != 0).flatten(0, 1).any(0).all()), "every parameter has a gradient somewhere"
    return [*bits_of(trainer), grads]


@pytest.mark.parametrize("policy", ["fp32", "bf16-mixed"])
def test_a_deeper_network(policy: str) -> None:
    assert_equal(deeper_run("simd", policy), deeper_run("reference", policy))


@pytest.mark.interpreter
def test_a_deeper_network_interpreted() -> None:
    assert_equal(deeper_run("interpreter", "bf16-mixed"), deeper_run("reference", "bf16-mixed"))


def test_the_reference_computes_what_autograd_does() -> None:
    """To float32's precision, for either network: the oracle itself against torch."""
    for network in (NETWORK, DEEPER):
        rng = np.random.default_rng(2)
        params = torch.from_numpy(rng.uniform(-1, 1, (9, network.parameters)))
        sample = torch.from_numpy(rng.random((9, network.features)))
        scale = torch.linspace(0.5, 4.0, 9, dtype=torch.float64)
        p = params.clone().requires_grad_()
        h = sample[:, : network.widths[0]]
        h = h * h if network.squares_input else h
        for layer, start in enumerate(network.starts):
            inputs, outputs = network.widths[layer : layer + 2]
            weight = p[:, start : start + inputs * outputs].reshape(-1, outputs, inputs)
            h = (weight @ h.unsqueeze(2)).squeeze(2) + p[:, start + inputs * outputs : start + (inputs + 1) * outputs]
            h = h.relu() if layer + 1 < len(network.starts) else h
        losses = (sample[:, network.widths[0] :] - torch.sigmoid(h).exp()).squeeze(1)
        (scale * losses).sum().backward()
        arguments = (network, params.float(), sample.float())
        got = network_reference.gradients(*arguments, scale.float(), torch.float32)
        assert p.grad is not None
        torch.testing.assert_close(got.double(), p.grad, rtol=2e-5, atol=2e-6)
        found = network_reference.losses(*arguments, torch.float32)
        torch.testing.assert_close(found.double(), losses.detach(), rtol=1e-5, atol=1e-6)
