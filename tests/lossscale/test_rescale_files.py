"""``rescale --from``: files as frameworks write them, states of every kind, and the learning rates of schedulers."""

import collections
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

import kernels
from lossscale.__main__ import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rescale(document: Any, *arguments: str, optimizer: str = "adamw", scale: str = "8") -> int:
    torch.save(document, "in.pt")
    return main(["rescale", optimizer, "--scale", scale, "--from", "in.pt", "--out", "out.pt", *arguments])


def state_dict() -> dict[str, Any]:
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([p])
    p.grad = torch.ones(4)
    optimizer.step()
    return optimizer.state_dict()


def adam_file(**state: Any) -> dict[str, Any]:
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "params": [0]}
    return {"state": {0: {"step": torch.tensor(5.0), **state}}, "param_groups": [group]}


def test_numpy_numbers_and_default_dicts_are_read() -> None:
    document = state_dict()
    document["param_groups"][0].update(lr=np.linspace(1e-3, 1e-4, 10)[3], betas=(np.float32(0.5), 0.75))
    document["state"] = collections.defaultdict(dict, document["state"])
    assert rescale(document) == 0
    written = torch.load("out.pt", weights_only=True)  # plain values: it reads without a list of exceptions
    (group,) = written["param_groups"]
    assert (group["lr"], group["betas"], group["eps"]) == (float(document["param_groups"][0]["lr"]), (0.5, 0.75), 8e-8)
    assert torch.equal(written["state"][0]["exp_avg"], 8 * document["state"][0]["exp_avg"])


@pytest.mark.parametrize(
    ("value", "name"), [(np.ones(2), "numpy.ndarray"), (collections.UserList([0.9, 0.99]), "collections.UserList")]
)
def test_a_refused_type_is_named(capsys: Capture, value: Any, name: str) -> None:
    document = state_dict()
    document["param_groups"][0]["betas"] = value
    assert rescale(document) == 2
    assert f"{name}, which only running foreign code could read" in _error(capsys)


@pytest.mark.parametrize(
    ("wrap", "key"),
    [
        (lambda inner: {"model": {}, "optimizer": inner}, "optimizer"),
        (lambda inner: {"state_dict": {}, "optimizer_states": [inner]}, "optimizer_states.0"),
    ],
    ids=["nested", "lightning"],
)
def test_a_nested_state_is_read_by_its_key(capsys: Capture, wrap: Callable[[Any], Any], key: str) -> None:
    document = wrap(state_dict())
    assert rescale(document) == 2
    assert f"add --key {key}" in _error(capsys)
    assert rescale(document, "--key", "elsewhere") == 2
    assert f"there is one at {key}" in _error(capsys)
    assert rescale(document, "--key", key) == 0
    written = torch.load("out.pt", weights_only=True)
    assert list(written) == list(document)
    place: Any = written
    for part in key.split("."):
        place = place[int(part) if part.isdigit() else part]
    assert place["param_groups"][0]["eps"] == 8e-8


def test_the_keys_of_another_file_are_named(capsys: Capture) -> None:
    assert rescale({"weight": torch.ones(2), "bias": torch.ones(1)}) == 2
    assert "its keys are weight, bias" in _error(capsys)


def test_absent_hyperparameters_have_defaults(capsys: Capture) -> None:
    document = state_dict()
    kept = ("lr", "betas", "weight_decay", "params")
    group = {name: value for name, value in document["param_groups"][0].items() if name in kept}
    assert rescale({**document, "param_groups": [{**group, "correct_bias": True, "clip_factor": 2.0}]}) == 0
    said = capsys.readouterr().out
    assert "its defaults are taken: eps 1e-08, amsgrad False" in said
    assert "hold clip_factor, left as they are" in said
    assert torch.load("out.pt")["param_groups"][0]["eps"] == 8e-8


def test_a_complex_state_is_scaled_as_complex() -> None:
    p = torch.nn.Parameter(torch.tensor([1 + 2j, 3 - 1j]))
    optimizer = torch.optim.Adam([p])
    p.grad = torch.tensor([0.5 + 1j, 1 - 2j])
    optimizer.step()
    assert rescale(optimizer.state_dict(), optimizer="adam") == 0
    written, before = torch.load("out.pt")["state"][0], optimizer.state[p]
    assert torch.equal(written["exp_avg"], 8 * before["exp_avg"])
    assert torch.equal(written["exp_avg_sq"], 64 * before["exp_avg_sq"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_a_state_that_holds_no_product_is_refused(capsys: Capture, dtype: torch.dtype) -> None:
    state = torch.ones(2).to(dtype)
    assert rescale(adam_file(exp_avg=state, exp_avg_sq=state), optimizer="adam") == 2
    assert f"exp_avg of {dtype} for parameter 0, which holds no product" in _error(capsys)


def test_an_unknown_state_needs_its_degree(capsys: Capture) -> None:
    document = adam_file(exp_avg=torch.ones(2), exp_avg_var=torch.ones(2))
    assert rescale(document, optimizer="adam") == 2
    assert "--degree exp_avg_var=D" in _error(capsys)
    assert rescale(document, "--degree", "exp_avg_var=2", optimizer="adam") == 0
    written = torch.load("out.pt")["state"][0]
    assert written["exp_avg"].tolist() == [8, 8] and written["exp_avg_var"].tolist() == [64, 64]
    assert "exp_avg_var by 64" in capsys.readouterr().out
    Path("out.pt").unlink()
    for given, words in [("nu=2", "no such state"), ("exp_avg=2", "degree of its own"), ("x", "is no NAME=D")]:
        assert rescale(document, "--degree", given, "--degree", "exp_avg_var=2", optimizer="adam") == 2
        assert words in _error(capsys)


def test_a_state_that_lacks_a_moment_is_refused(capsys: Capture) -> None:
    assert rescale(adam_file(exp_avg=torch.ones(2)), optimizer="adam") == 2
    assert "has no exp_avg_sq for parameter 0" in _error(capsys)


def test_lost_bits_of_a_state_are_told(capsys: Capture) -> None:
    document = adam_file(exp_avg=torch.full((2,), 1.1), exp_avg_sq=torch.full((2,), 1.1 * 2.0**-100))
    assert rescale(document, optimizer="adam", scale="2^-15") == 0
    said = capsys.readouterr().out
    assert "2 elements of the state lost bits" in said and "bit for bit" not in said


def test_it_says_under_which_loss_the_file_was_trained(capsys: Capture) -> None:
    assert rescale(state_dict(), "max_grad_norm=16", scale="1/16") == 0
    said = capsys.readouterr().out
    assert "in.pt counts as trained before the loss was multiplied by 1/16" in said and "max_grad_norm" in said
    assert torch.load("out.pt")["param_groups"][0]["eps"] == 1e-8 / 16


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=20, cycle_momentum=False),
    "swa": lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=4),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda k: 1 - k / 20),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, step_size_up=4, cycle_momentum=False),
    "cosine": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, eta_min=0.01),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, total_iters=2), lr_scheduler.LambdaLR(o, lambda k: 1 - k / 20)], [4]
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("together", [False, True], ids=["own file", "one file"])
def test_a_run_under_a_scheduler_goes_on(name: str, together: bool) -> None:
    schedule = SCHEDULES[name]
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(6, generator=generator) for _ in range(9)]
    p = torch.nn.Parameter(torch.ones(6))
    optimizer = kernels.SGD([p], lr=0.1, momentum=0.9)
    scheduler = schedule(optimizer)
    _train(p, optimizer, scheduler, grads[:3], 1.0)
    if together:
        document = {"optimizer": optimizer.state_dict(), "lr_schedulers": [scheduler.state_dict()]}
        assert rescale(document, "--key", "optimizer", optimizer="sgd") == 0
        read = torch.load("out.pt")
        states = read["optimizer"], read["lr_schedulers"][0]
    else:
        torch.save(scheduler.state_dict(), "scheduler.pt")
        own = ("--scheduler", "scheduler.pt", "--scheduler-out", "new.pt")
        assert rescale(optimizer.state_dict(), *own, optimizer="sgd") == 0
        states = torch.load("out.pt"), torch.load("new.pt")
    q = torch.nn.Parameter(p.detach().clone())
    other = kernels.SGD([q], lr=0.1, momentum=0.9)
    resumed = schedule(other)
    resumed.load_state_dict(copy.deepcopy(states[1]))
    other.load_state_dict(states[0])
    for grad in grads[3:]:
        _train(p, optimizer, scheduler, [grad], 1.0)
        _train(q, other, resumed, [grad], 8.0)
        assert optimizer.param_groups[0]["lr"] == 8 * other.param_groups[0]["lr"]
    assert torch.equal(p, q)


def _train(p: torch.Tensor, optimizer: Any, scheduler: Any, grads: list[torch.Tensor], scale: float) -> None:
    for grad in grads:
        p.grad = scale * grad
        optimizer.step()
        scheduler.step()


def test_a_scheduler_that_a_file_names_twice_is_scaled_once() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.5)
    scheduler = {"base_lrs": [0.5], "_last_lr": [0.5]}
    document = {"optimizer": optimizer.state_dict(), "a": scheduler, "b": [scheduler]}
    assert rescale(document, "--key", "optimizer", optimizer="sgd") == 0
    written = torch.load("out.pt")
    assert written["a"] == {"base_lrs": [0.0625], "_last_lr": [0.0625]} and written["b"][0] == written["a"]


def test_schedulers_beside_several_optimizers_are_left_and_named(capsys: Capture) -> None:
    document = {"optimizer_states": [state_dict(), state_dict()], "lr_schedulers": [{"base_lrs": [0.5]}]}
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.5).state_dict()
    document["optimizer_states"][1] = sgd
    assert rescale(document, "--key", "optimizer_states.1", optimizer="sgd") == 0
    said = capsys.readouterr().out
    assert "other optimizers too, left as they are: optimizer_states.0" in said and "give --scheduler FILE" in said
    written = torch.load("out.pt")
    assert written["lr_schedulers"] == [{"base_lrs": [0.5]}]
    assert [state["param_groups"][0]["lr"] for state in written["optimizer_states"]] == [1e-3, 0.0625]


def test_a_state_that_is_a_parameter_is_written_as_plain_data() -> None:
    moments = {name: torch.nn.Parameter(torch.ones(2)) for name in ("exp_avg", "exp_avg_sq")}
    assert rescale(adam_file(**moments), optimizer="adam") == 0
    written = torch.load("out.pt", weights_only=True)["state"][0]
    assert written["exp_avg"].tolist() == [8, 8] and not written["exp_avg"].requires_grad


def test_the_two_outputs_are_two_files(capsys: Capture) -> None:
    torch.save({"base_lrs": [0.5]}, "s.pt")
    assert rescale(state_dict(), "--scheduler", "s.pt", "--scheduler-out", "out.pt") == 2
    assert "--scheduler-out out.pt" in _error(capsys)


def test_a_schedulers_rates_are_rows_or_named(capsys: Capture) -> None:
    assert main(["rescale", "sgd", "--scale", "8"]) == 0
    assert "base_lrs" in capsys.readouterr().out
    torch.save({"base_lrs": [0.5], "_last_lr": [0.25], "last_epoch": 2}, "scheduler.pt")
    assert main(["rescale", "sgd", "--scale", "8", "--scheduler", "scheduler.pt", "--json"]) == 0
    found = {row["hyperparameter"]: row["set_to"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert (found["base_lrs"], found["_last_lr"]) == ("0.0625", "0.03125")


def test_clipping_follows_the_loss_up_to_rounding() -> None:
    base = _clipped(1.0, 1e-8, 1.0)
    assert float((base - _clipped(8.0, 8e-8, 1.0)).abs().max()) > 1e-3
    assert float((base - _clipped(8.0, 8e-8, 8.0)).abs().max()) < 1e-5


def _clipped(scale: float, eps: float, threshold: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(8, generator=generator).requires_grad_()
    optimizer = kernels.AdamW([weights], lr=1e-2, eps=eps)
    for _ in range(60):
        x = torch.randn(16, 8, generator=generator)
        optimizer.zero_grad()
        (scale * (torch.tanh(x @ weights) - x.sum(1)).square().mean()).backward()
        torch.nn.utils.clip_grad_norm_([weights], threshold)
        optimizer.step()
    return weights.detach()


def _error(capsys: Capture) -> str:
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert captured.out == "" and not Path("out.pt").exists()
    return captured.err


def test_a_state_that_had_broken_before_is_told(capsys: Capture) -> None:
    moments = {"exp_avg": torch.tensor([1.0, torch.nan, torch.inf]), "exp_avg_sq": torch.ones(3)}
    assert rescale(adam_file(**moments), optimizer="adam") == 0
    assert "2 elements of the state are infinite or NaN and stay so" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", [["rescale", "adam", "--scale", "8", "--from", "in.pt"], ["inspect", "in.pt"]])
def test_an_optimizer_with_adams_states_is_not_taken_for_adam(command: list[str], capsys: Capture) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.RAdam([p], lr=1e-3)
    p.grad = torch.ones(3)
    optimizer.step()
    torch.save(optimizer.state_dict(), "in.pt")
    assert main(command) == 2
    capsys.readouterr()
