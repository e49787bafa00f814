"""What a trainer is given, and what happens to its tensors between runs and steps: taken over, or refused by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_trainer import assert_equal, records, train

import kernels

ADAM: Any = kernels.get_algorithm("adam").hyperparameters
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"params": torch.zeros(4, 48)}, ValueError, r"params of shape \(4, 48\): give a contiguous tensor \[models, 49\]"),
    ({"params": torch.zeros(4, 49, dtype=torch.float64)}, ValueError, "keeps them in fp32"),
    ({"policy": "bf16-true"}, ValueError, "keeps them in bf16"),
    ({"policy": "fp8"}, ValueError, "no such policy; choose one of fp32"),
    ({"network": "mlp"}, ValueError, "no such network; choose one of mlp-6-6-1"),
    ({"records": records("adam", {}, 3)}, ValueError, "3 records for 4 models"),
    ({"records": []}, ValueError, "0 records for 4 models"),
    ({"records": [{"lr": 0.1}, {"lr": -1.0}]}, ValueError, "hyperparameters of model 1: Invalid learning rate: -1"),
    ({"records": [{"lr": 0.1}, {"lr": 1e39}]}, ValueError, "hyperparameters of model 1: lr is 1e\\+39"),
    ({"records": [{"rate": 0.1}]}, ValueError, "hyperparameters of model 0: .*rate"),
    ({"records": records("sgd", {}, 1)}, TypeError, "model 0: a SGDHyperparameters; adam takes AdamHyperparameters"),
    ({"records": [{}, {"amsgrad": True}]}, ValueError, "options that select code differ"),
    ({"loss_scale": [1.0, 2.0, 3.0]}, ValueError, r"loss_scale of shape \(3,\) for 4 models"),
    ({"loss_scale": "x"}, TypeError, "^loss_scale: 'x' is no number; give a number"),
    ({"loss_scale": float("nan")}, ValueError, "^loss_scale of model 0 is nan; give a positive finite float32 number$"),
    ({"loss_scale": [1.0, float("inf")]}, ValueError, "^loss_scale of model 1 is inf; give a positive"),
    ({"loss_scale": 0}, ValueError, "^loss_scale of model 0 is 0; give a positive"),
    ({"loss_scale": torch.tensor([1.0, 1, 1, -1])}, ValueError, "^loss_scale of model 3 is -1; give a positive"),
    ({"loss_scale": 1e39}, ValueError, "^loss_scale of model 0 is 1e\\+39; give a positive"),
    ({"network": None}, TypeError, "^network: None is no name; choose one of mlp-6-6-1, or give a Network$"),
    ({"network": 3}, TypeError, "^network: 3 is no name; choose"),
    ({"policy": []}, TypeError, "^policy: \\[\\] is no name; choose one of fp32"),
    ({"algorithm": None}, TypeError, "^algorithm: None is no name; choose one of .*adam"),
    ({"algorithm": ["adam"]}, TypeError, "^algorithm: \\['adam'\\] is no name; choose one of .*adam"),
    (
        {"records": [{"lrr": 1}]},
        ValueError,
        "^hyperparameters of model 0: no hyperparameter 'lrr'; choose among lr, betas,",
    ),
    (
        {"records": [{}, {"betas": (0.9,)}]},
        ValueError,
        "^hyperparameters of model 1: betas is \\(0.9,\\); give 2 numbers$",
    ),
    (
        {"records": [{"betas": (0.9, 0.99, 0.999)}]},
        ValueError,
        "^hyperparameters of model 0: betas is .*; give 2 numbers$",
    ),
    ({"records": [{"betas": 0.9}]}, TypeError, "^hyperparameters of model 0: betas is 0.9; give 2 numbers$"),
    ({"records": [{"betas": (0.9, None)}]}, TypeError, "betas is \\(0.9, None\\); give 2 numbers$"),
    (
        {"records": [ADAM(betas=(0.9,))]},
        ValueError,
        "^hyperparameters of model 0: betas is \\(0.9,\\); give 2 numbers$",
    ),
    ({"records": [{"lr": "0.1"}]}, TypeError, "^hyperparameters of model 0: lr is '0.1'; give a number$"),
    ({"records": [{"lr": None}]}, TypeError, "^hyperparameters of model 0: lr is None; give a number$"),
    ({"records": [{"lr": 1j}]}, TypeError, "^hyperparameters of model 0: lr is 1j; give a number$"),
    (
        {"records": [{"lr": torch.ones(2)}]},
        TypeError,
        "lr is a tensor of shape \\(2,\\) and torch.float32; give a number$",
    ),
    (
        {"records": [{"lr": 10**400}]},
        ValueError,
        "^hyperparameters of model 0: lr is 10+\\.\\.\\.0+; give a finite float32 number$",
    ),
    ({"records": [ADAM(betas=[0.9, 0.99, 0.5])]}, ValueError, "betas is \\[0.9, 0.99, 0.5\\]; give 2 numbers$"),
    ({"records": [{"amsgrad": "yes"}]}, TypeError, "amsgrad is 'yes'; give True or False$"),
    ({"recipe": "fast"}, ValueError, "recipe 'fast'"),
    ({"backend": "gpu"}, ValueError, "backend 'gpu'"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), BAD, ids=[message[:30] for _, _, message in BAD])
def test_what_does_not_fit_is_refused(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"backend": "reference", **changes}
    params = given.pop("params", torch.zeros(4, 49))
    hypers = given.pop("records", records("adam", {}, 1))
    with pytest.raises(kind, match=message) as caught:
        kernels.Trainer(given.pop("algorithm", "adam"), hypers, params, **given)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("data", "steps", "message"),
    [
        (torch.zeros(3, 4, 6), None, r"float32 \[steps, families, 7\]"),
        (torch.zeros(3, 4, 7, dtype=torch.float64), None, "float64"),
        (torch.zeros(3, 3, 7), None, "3 families for 4 models"),
        (torch.zeros(3, 4, 7), 4, "steps: 4 of 3"),
    ],
)
def test_data_that_does_not_fit_is_refused(data: torch.Tensor, steps: int | None, message: str) -> None:
    params = torch.zeros(4, 49)
    trainer = kernels.Trainer("adam", records("adam", {}, 1), params, backend="reference")
    with pytest.raises(ValueError, match=message):
        trainer.run(data, steps)
    assert trainer.step_count == 0


@pytest.mark.parametrize("steps", [2.5, "3", True])
def test_a_number_of_steps_that_is_no_integer_is_refused(steps: Any) -> None:
    trainer = kernels.Trainer("adam", records("adam", {}, 1), torch.zeros(4, 49), backend="reference")
    with pytest.raises(TypeError, match=f"^steps is {steps!r}; give a whole number, or None for all of the data$"):
        trainer.run(torch.zeros(3, 4, 7), steps)
    assert trainer.step_count == 0


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (torch.zeros(4, 6), ValueError, r"^data of shape \(4, 6\), .*: give float32 \[families, 7\] on cpu$"),
        (torch.zeros(1, 4, 7), ValueError, r"^data of shape \(1, 4, 7\), .*: give float32 \[families, 7\]"),
        (torch.zeros(0, 7), ValueError, "^data of 0 families for 4 models: "),
        (torch.zeros(3, 7), ValueError, "^data of 3 families for 4 models: "),
        ([[0.0] * 7], TypeError, r"^data: a list, no tensor; give float32 \[families, 7\]$"),
        (None, TypeError, "^data: a NoneType, no tensor; give"),
    ],
)
def test_losses_refuse_samples_that_do_not_fit(data: Any, kind: type[Exception], message: str) -> None:
    trainer = kernels.Trainer("adam", records("adam", {}, 1), torch.zeros(4, 49), backend="reference")
    assert trainer.losses(torch.zeros(2, 7)).shape == (4,)
    with pytest.raises(kind, match=message):
        trainer.losses(data)


@pytest.mark.parametrize("params", [torch.ones(49), torch.ones(1, 49), torch.ones(4, 1), torch.ones(4, 49).double()])
def test_parameters_to_begin_again_from_are_as_at_first(params: torch.Tensor) -> None:
    kept = torch.zeros(4, 49)
    trainer = kernels.Trainer("adam", records("adam", {}, 1), kept, backend="reference")
    with pytest.raises(ValueError, match=r"^params of shape .*: give \(4, 49\) and torch.float32, as at first$"):
        trainer.restart(params)
    assert not kept.any()


def test_lists_of_numbers_are_tuples() -> None:
    listed = [{"betas": [0.5, 0.25]}], [ADAM(betas=[0.5, 0.25])]
    for given in listed:
        population = kernels.Population("adam", given, torch.zeros(2, 3))
        assert population.records == [ADAM(betas=(0.5, 0.25))]


def test_what_a_record_holds_besides_numbers_is_its_own_affair() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Noted(ADAM):  # type: ignore[misc]
        note: str = "first"

    given = Noted(note="second")
    assert kernels.Population("adam", [given], torch.zeros(2, 3)).records == [given]


def test_gradients_and_params_in_two_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="gradients in bf16 for parameters in fp32"):
        kernels.Policy(grads="bf16")


def test_no_models_and_no_steps() -> None:
    trainer = kernels.Trainer("adam", records("adam", {}, 1), torch.zeros(0, 49), backend="reference")
    trainer.run(torch.zeros(3, 1, 7))
    assert train(4, 4, 0).step_count == 0


@pytest.mark.parametrize("backend", ["reference", "simd", pytest.param("interpreter", marks=pytest.mark.interpreter)])
def test_autograd_sees_that_a_run_has_written(backend: str) -> None:
    params = torch.ones(2, 49)
    trainer = kernels.Trainer("adam", records("adam", {}, 1), params, backend=backend)
    written = [params, *trainer.state.values()]
    before = [tensor._version for tensor in written]
    trainer.run(torch.ones(1, 1, 7))
    assert all(tensor._version > version for tensor, version in zip(written, before, strict=True))


@pytest.mark.parametrize("backend", ["reference", "simd", pytest.param("interpreter", marks=pytest.mark.interpreter)])
@pytest.mark.parametrize(
    "replaced",
    [
        lambda state: torch.zeros(8, 98)[:, ::2],
        lambda state: state.double(),
        lambda state: state.bfloat16(),
        lambda state: state[:5].clone(),
        lambda state: torch.zeros(8, 49, device="meta"),
        lambda state: [0.0],
        None,
    ],
    ids=["strided", "float64", "bfloat16", "fewer models", "meta", "no tensor", "taken away"],
)
def test_states_that_were_replaced_by_what_does_not_fit_are_refused(backend: str, replaced: Any) -> None:
    trainer = kernels.Trainer("adam", records("adam", {}, 1), torch.ones(8, 49), backend=backend)
    state = trainer.state.pop("exp_avg")
    if replaced is not None:
        trainer.state["exp_avg"] = replaced(state)
    for go in (trainer.run, lambda data: next(trainer.walk(data))):
        with pytest.raises((TypeError, ValueError), match=r"state 'exp_avg'|state: exp_avg_sq given"):
            go(torch.ones(1, 1, 7))
    assert trainer.step_count == 0


def test_parameters_are_changed_in_place_alone() -> None:
    trainer = kernels.Trainer("adam", records("adam", {}, 1), torch.ones(8, 49), backend="reference")
    with pytest.raises(AttributeError, match="params"):
        trainer.params = torch.ones(4, 49)  # type: ignore[misc]


BACKENDS = ["reference", "simd", pytest.param("interpreter", marks=pytest.mark.interpreter)]


def _new_state(trainer: kernels.Trainer) -> None:
    trainer.state["exp_avg"] = torch.zeros(8, 49)


def _freed(trainer: kernels.Trainer) -> None:
    trainer.params.untyped_storage().resize_(0)


CHANGES: dict[str, Callable[[kernels.Trainer], Any]] = {
    "params": lambda trainer: trainer.params.add_(1.0),
    "other memory": lambda trainer: setattr(trainer.params, "data", torch.ones(8, 49)),
    "resized": lambda trainer: setattr(trainer.params, "data", torch.ones(4, 49)),
    "freed": _freed,
    "state": lambda trainer: trainer.state["exp_avg_sq"].zero_(),
    "another state": _new_state,
    "no state": lambda trainer: trainer.state.clear(),
    "run": lambda trainer: trainer.run(torch.ones(1, 1, 7)),
    "restart": lambda trainer: trainer.restart(torch.ones(8, 49)),
}


@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_changed_while_a_walk_stops_is_refused(backend: str, change: str, goes_on: bool) -> None:
    trainer = kernels.Trainer("adam", records("adam", {}, 1), torch.ones(8, 49), backend=backend)
    walk = trainer.walk(torch.ones(3, 1, 7))
    assert next(walk) == 1
    CHANGES[change](trainer)
    with pytest.raises(ValueError, match=r"walk: .* changed while it stopped"):
        if goes_on:
            next(walk)
        else:
            walk.close()  # type: ignore[attr-defined]
    assert list(walk) == []


def _narrowed(tensor: torch.Tensor) -> None:
    tensor.resize_(8, 48)


def _emptied(tensor: torch.Tensor) -> None:
    tensor.untyped_storage().resize_(0)


def _given(data: torch.Tensor) -> Any:
    def change(tensor: torch.Tensor) -> None:
        tensor.data = data

    return change


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_narrowed, r"of shape \(8, 48\)"),
        (_emptied, "its storage was freed"),
        (_given(torch.ones(4, 49)), r"of shape \(4, 49\)"),
        (_given(torch.ones(8, 49).bfloat16()), "torch.bfloat16"),
        (_given(torch.ones(49, 8).T), r"params of shape \(8, 49\) .*, strides \(1, 8\): |contiguous"),
    ],
    ids=["resized", "freed", "fewer models", "bfloat16", "transposed"],
)
@pytest.mark.parametrize("place", ["params", "exp_avg_sq"])
def test_tensors_that_were_changed_between_runs_are_refused(
    backend: str, change: Any, message: str, place: str
) -> None:
    trainer = kernels.Trainer("adam", records("adam", {}, 1), torch.ones(8, 49), backend=backend)
    data = torch.ones(1, 1, 7)
    trainer.run(data)
    change(trainer.params if place == "params" else trainer.state[place])
    for go in (trainer.run, lambda data: next(trainer.walk(data)), lambda data: trainer.restart(torch.ones(8, 49))):
        with pytest.raises((TypeError, ValueError), match=f"^(params|state 'exp_avg_sq').*({message})") as caught:
            go(data)
        assert len(str(caught.value).splitlines()) == 1
    assert trainer.step_count == 1
    if place == "params":
        with pytest.raises((TypeError, ValueError), match=r"^params.*"):
            trainer.losses(data[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_goes_on_from_what_lies_in_other_memory(backend: str) -> None:
    data = torch.rand(3, 1, 7, generator=torch.Generator().manual_seed(3))
    found = []
    for other in (False, True):
        trainer = kernels.Trainer("adam", records("adam", {}, 1), torch.ones(8, 49), backend=backend)
        trainer.run(data, 2)
        if other:
            before = [trainer.params.data, *trainer.state.values()]
            trainer.params.data = before[0].clone()
            trainer.state.update({name: state.clone() for name, state in reversed(trainer.state.items())})
            for tensor in before:
                tensor.fill_(7.0)
        trainer.run(data[2:])
        found.append([trainer.params, trainer.state["exp_avg"], trainer.state["exp_avg_sq"]])
    assert_equal(*found)


_SHARED = torch.zeros(9, 49)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (_SHARED[:8], _SHARED[:8], "^state 'exp_avg' and state 'exp_avg_sq' share memory; give each one of its own"),
        (_SHARED[1:], _SHARED[:8], "^state 'exp_avg' and state 'exp_avg_sq' share memory; give each one of its own"),
        (torch.zeros(8, 49), None, "^params and state 'exp_avg_sq' share memory; give each one of its own"),
    ],
    ids=["one tensor", "overlapping", "the parameters"],
)
def test_tensors_that_share_memory_are_refused(backend: str, first: torch.Tensor, second: Any, message: str) -> None:
    trainer = kernels.Trainer("adam", records("adam", {}, 1), torch.ones(8, 49), backend=backend)
    trainer.state["exp_avg"] = first
    trainer.state["exp_avg_sq"] = trainer.params if second is None else second
    population = kernels.Population("adam", records("adam", {}, 1), trainer.params, backend=backend)
    population.state.update(trainer.state)
    for go in (lambda: trainer.run(torch.ones(1, 1, 7)), lambda: population.step(torch.ones(8, 49))):
        with pytest.raises(ValueError, match=message):
            go()
    with pytest.raises(ValueError, match=message):
        kernels.Population("adam", records("adam", {}, 1), trainer.params, backend=backend, state=trainer.state)
    assert trainer.step_count == population.step_count == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_read_may_not_be_what_is_trained(backend: str) -> None:
    """Models would see each other's new parameters, as far as they happen to be trained one after another."""
    trainer = kernels.Trainer("adam", records("adam", {}, 1), torch.rand(14, 49), backend=backend)
    for name, tensor in (("params", trainer.params), ("state 'exp_avg'", trainer.state["exp_avg"])):
        data = tensor.view(98, 1, 7)[3:8]
        for go in (lambda data=data: trainer.run(data), lambda data=data: next(trainer.walk(data))):
            with pytest.raises(ValueError, match=f"^data and {name} share memory; give each one of its own"):
                go()
    assert trainer.step_count == 0
    population = kernels.Population("adam", records("adam", {}, 1), trainer.params, backend=backend)
    with pytest.raises(ValueError, match=r"^grads and params share memory"):
        population.step(trainer.params)
    with pytest.raises(ValueError, match=r"^grads and state 'exp_avg_sq' share memory"):
        population.step(population.state["exp_avg_sq"])
    # Parts of one buffer that lie apart are no matter.
    buffer = torch.rand(14 * 49 + 35)
    apart = kernels.Trainer("adam", records("adam", {}, 1), buffer[: 14 * 49].view(14, 49), backend=backend)
    apart.run(buffer[14 * 49 :].view(5, 1, 7))
    assert apart.step_count == 5
