"""Every public argument of Trainer, Population and optimizer_step given every odd value: refused in one line, or taken.

What is taken stands in a table. Whatever else is given is a TypeError or ValueError of one line, and nothing has
changed.
"""

import dataclasses
import decimal
import fractions
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import kernels
from kernels.population import checks

SHAPE = (4, 49)


class Weird:
    def __repr__(self) -> str:
        return "<weird\nthing>"


def ones(**options: Any) -> torch.Tensor:
    return torch.ones(SHAPE, **options)


ODD: dict[str, Any] = {
    **{"None": None, "True": True, "False": False, "0": 0, "-1": -1, "2**70": 2**70, "10**400": 10**400, "0.5": 0.5},
    **{"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "-0.0": -0.0, "1j": 1j},
    **{"text": "x", "no text": "", "lines": "a\nb", "bytes": b"x", "object": Weird(), "type": float, "function": len},
    **{"[]": [], "[None]": [None], "[True]": [True], "['a']": ["a"], "[nan]": [math.nan], "[1,2,3]": [1, 2, 3]},
    **{"nested": [[1.0], [2.0]], "()": (), "(.9,)": (0.9,), "(True,.9)": (True, 0.9), "('a',.9)": ("a", 0.9)},
    **{"{}": {}, "{1:2}": {1: 2}, "{lr:True}": {"lr": True}, "{lr:x}": {"lr": "x"}, "set": {1.0}, "range": range(3)},
    **{"Fraction": fractions.Fraction(1, 3), "Decimal": decimal.Decimal("0.1"), "np.float64": np.float64(0.1)},
    **{"np.bool": np.True_, "np.int": np.int64(3), "np.0": np.array(0.1), "np.2": np.array([0.1, 0.2])},
    **{"np.object": np.array([None]), "np.text": np.array(["a"]), "np.bools": np.array([True, False])},
    **{"np.empty": np.array([]), "np.complex": np.complex64(1)},
    **{"t0": torch.tensor(0.1), "t bool": torch.tensor(True), "t bools": torch.tensor([True, False])},
    **{"t int": torch.tensor(3), "t complex": torch.tensor(1j), "t1": torch.tensor([0.1]), "t": ones()},
    **{"t cube": torch.ones(2, 2, 2), "t empty": torch.empty(0), "t meta": ones(device="meta")},
    **{"t meta 0": torch.empty((), device="meta"), "t sparse": ones().to_sparse(), "t f64": ones(dtype=torch.float64)},
    **{"t grad": ones(requires_grad=True) * 2, "t leaf": ones(requires_grad=True), "t int32": ones(dtype=torch.int32)},
    **{"t half": ones().half(), "t turned": torch.ones(49, 4).t(), "t expanded": torch.ones(1, 49).expand(SHAPE)},
    **{"t negated": torch._neg_view(ones()), "t nan": ones() * math.nan, "t f8": ones().to(torch.float8_e4m3fn)},
}
"""By what they are called in a failure."""

ADAM: Any = kernels.get_algorithm("adam").hyperparameters
DATA = torch.rand(3, 2, 7)


def trainer(**changed: Any) -> kernels.Trainer:
    given: dict[str, Any] = {"algorithm": "adam", "hyperparameters": [ADAM()], "params": torch.rand(SHAPE), **changed}
    return kernels.Trainer(given.pop("algorithm"), given.pop("hyperparameters"), given.pop("params"),
                           **{"backend": "reference", **given})  # fmt: skip


def population(**changed: Any) -> kernels.Population:
    given: dict[str, Any] = {"algorithm": "adam", "hyperparameters": [ADAM()], "params": torch.rand(SHAPE), **changed}
    return kernels.Population(given.pop("algorithm"), given.pop("hyperparameters"), given.pop("params"),
                              **{"backend": "reference", **given})  # fmt: skip


def operator(**changed: Any) -> Any:
    states = {"exp_avg": torch.zeros(SHAPE), "exp_avg_sq": torch.zeros(SHAPE)}
    given: dict[str, Any] = {"algorithm": "adam", "params": ones(), "grads": ones(), "states": states, "step": 1}
    given |= changed
    first = [given.pop(name) for name in ("algorithm", "params", "grads", "states", "step")]
    return kernels.optimizer_step(*first, **{"backend": "reference", **given})


def begun(make: Callable[[], Any], act: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """Acts on something that has taken a step, and sees that a refusal changes nothing of it."""

    def call(value: Any) -> None:
        made = make()
        made.run(DATA[:1]) if isinstance(made, kernels.Trainer) else made.step(ones())
        before = [made.params.clone(), *(state.clone() for state in made.state.values())]
        taken = made.step_count
        try:
            act(made, value)
        except Exception:
            now = [made.params, *made.state.values()]
            assert taken == made.step_count and all(map(torch.equal, before, now)), "a refusal changed something"
            raise

    return call


NUMBER = {"0", "-0.0", "0.5", "2**70", "Fraction", "np.float64", "np.int", "t0", "t int", "t1"}
SCALE = NUMBER - {"0", "-0.0"}
LIKE = {"t", "t grad", "t leaf", "t nan"}
VIEW = {*LIKE, "t turned", "t expanded"}
FLAG = {"None", "True", "False", "0", "-0.0", "0.5", "2**70", "np.bool", "t bool"}
NAME = {"None", "no text"}

SITES: dict[str, tuple[Callable[[Any], Any], set[str]]] = {
    "Trainer algorithm": (lambda v: trainer(algorithm=v), set()),
    "Trainer hyperparameters": (lambda v: trainer(hyperparameters=v), set()),
    "Trainer lr": (lambda v: trainer(hyperparameters=[{}, {"lr": v}]), NUMBER),
    "Trainer betas": (lambda v: trainer(hyperparameters=[{}, {"betas": v}]), set()),
    "Trainer amsgrad": (lambda v: trainer(hyperparameters=[{}, {"amsgrad": v}]), {"False", "0", "-0.0"}),
    "Trainer params": (lambda v: trainer(params=v), LIKE),
    "Trainer network": (lambda v: trainer(network=v), set()),
    "Trainer policy": (lambda v: trainer(policy=v), set()),
    "Trainer recipe": (lambda v: trainer(recipe=v), NAME),
    "Trainer backend": (lambda v: trainer(backend=v), set()),
    "Trainer loss_scale": (lambda v: trainer(loss_scale=v), {*SCALE, "(.9,)", "Decimal", "np.0", "np.2"}),
    "Trainer.run data": (begun(trainer, lambda it, v: it.run(v)), set()),
    "Trainer.run steps": (begun(trainer, lambda it, v: it.run(DATA, v)), {"None", "0", "np.int"}),
    "Trainer.run keep_gradients": (
        begun(trainer, lambda it, v: it.run(DATA[:1], keep_gradients=v)),
        {"True", "False", "np.bool"},
    ),
    "Trainer.walk data": (begun(trainer, lambda it, v: list(it.walk(v))), set()),
    "Trainer.restart params": (begun(trainer, lambda it, v: it.restart(v)), VIEW),
    "Trainer.losses data": (begun(trainer, lambda it, v: it.losses(v)), set()),
    "Population hyperparameters": (lambda v: population(hyperparameters=v), set()),
    "Population lr": (lambda v: population(hyperparameters=[{}, {"lr": v}]), {*NUMBER, "inf"}),
    "Population params": (lambda v: population(params=v), {*LIKE, "t half"}),
    "Population recipe": (lambda v: population(recipe=v), NAME),
    "Population state_dtype": (lambda v: population(state_dtype=v), {"None"}),
    "Population state": (lambda v: population(state=v), {"None"}),
    "Population steps": (lambda v: population(steps=v), {"None", "0", "-0.0", "np.int", "t int"}),
    "Population.restart params": (begun(population, lambda it, v: it.restart(v)), VIEW),
    "Population.step grads": (begun(population, lambda it, v: it.step(v)), LIKE),
    "Population.step grad_scale": (
        begun(population, lambda it, v: it.step(ones(), grad_scale=v)),
        {*SCALE, "None", "(.9,)", "Decimal", "np.0", "np.2"},
    ),
    "Population.step found_inf": (
        begun(population, lambda it, v: it.step(ones(), found_inf=v)),
        {*FLAG, *NUMBER, "[True]", "(.9,)", "(True,.9)", "Decimal", "np.0", "np.2", "np.bools", "t bools"},
    ),
    "optimizer_step algorithm": (lambda v: operator(algorithm=v), set()),
    "optimizer_step params": (lambda v: operator(params=v), {*VIEW, "t negated"}),
    "optimizer_step grads": (lambda v: operator(grads=v), {*VIEW, "t negated"}),
    "optimizer_step states": (lambda v: operator(states=v), set()),
    "optimizer_step step": (lambda v: operator(step=v), {"np.int", "t int"}),
    "optimizer_step hyperparameters": (lambda v: operator(hyperparameters=v), {"None", "{}"}),
    "optimizer_step lr": (lambda v: operator(hyperparameters={"lr": v}), {*NUMBER, "inf"}),
    "optimizer_step betas": (lambda v: operator(hyperparameters={"betas": v}), set()),
    "optimizer_step maximize": (
        lambda v: operator(hyperparameters={"maximize": v}),
        {"True", "False", "0", "-0.0", "np.bool", "t bool"},
    ),
    "optimizer_step recipe": (lambda v: operator(recipe=v), NAME),
    "optimizer_step backend": (lambda v: operator(backend=v), set()),
    "optimizer_step grad_scale": (lambda v: operator(grad_scale=v), {*SCALE, "None"}),
    "optimizer_step found_inf": (lambda v: operator(found_inf=v), {*FLAG, *NUMBER}),
}
"""What is given a value, and by which names of `ODD` it takes it."""


@pytest.mark.parametrize("site", SITES)
def test_odd_values_are_refused_in_one_line_or_taken(site: str) -> None:
    call, taken = SITES[site]
    found = set()
    for name, value in ODD.items():
        try:
            call(value)
            found.add(name)
        except (TypeError, ValueError) as error:
            said = str(error)
            assert "\n" not in said and len(said) < 420, (name, said)
            argument = site.split()[-1].removesuffix("s")
            names = (argument, "optimizer", "hyperparameters") if argument == "algorithm" else (argument, "hyperparam")
            names += ("params", "grads", "exp_avg") if "params" in site or "grads" in site else ()
            assert any(word in said for word in names), (name, said)
    assert found == taken


def test_gradients_that_memory_does_not_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = kernels.Trainer("sgd", [{}], torch.zeros(1000, 49), backend="reference")
    monkeypatch.setattr(checks, "free_bytes", lambda device: 30 * 196_000)
    with pytest.raises(ValueError, match=r"keep_gradients: .* 10,000 steps take 2\.0 GB, .* at most 30 steps"):
        trainer.run(torch.rand(1, 1, 7).expand(10_000, 1, 7), keep_gradients=True)
    assert trainer.step_count == 0


def test_new_states_that_do_not_fit_are_refused_with_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    models = 1000
    each = 2 * 49 * 4
    monkeypatch.setattr(checks, "_LOOKED_AT", 0)
    monkeypatch.setattr(checks, "free_bytes", lambda device: 250 * each)
    for make in (trainer, population):
        with pytest.raises(ValueError, match=r"params of 1,000 models: .* give at most 250 models at a time"):
            make(params=torch.zeros(models, 49))
    make(params=torch.zeros(250, 49))


def test_what_is_free_is_known_on_this_machine() -> None:
    free = checks.free_bytes(torch.device("cpu"))
    assert free is not None and free > 1 << 20


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_flag_that_is_none_names_its_model(value: float) -> None:
    with pytest.raises(ValueError, match=r"found_inf of model 2 is .*; give 1 for a model that is to skip"):
        population().step(ones(), found_inf=[0.0, 1.0, value, 0.0])
    with pytest.raises(ValueError, match="grad_scale of model 1 is"):
        population().step(ones(), grad_scale=[1.0, 0.0 * value, 2.0, 2.0])


@pytest.mark.parametrize("widths", [(), (6,), [6, 6, 1], (6, 0, 1), (6, -1), (6.0, 1), (True, 1), ("6", "1"), None, 6])
def test_a_network_has_whole_widths(widths: Any) -> None:
    like = kernels.NETWORKS["mlp-6-6-1"]
    with pytest.raises(ValueError, match=r"widths: .*; give a tuple of two or more whole numbers from 1 on"):
        dataclasses.replace(like, widths=widths)
    with pytest.raises(TypeError, match=r"head: None; give a Head"):
        kernels.Network(name="mine", widths=(6, 1), head=None)  # type: ignore[arg-type]
