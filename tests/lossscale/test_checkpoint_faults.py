"""`inspect` and `rescale` read one way: what is wrong with a file is one line for both, what is unusual both state."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lossscale.__main__ import main

Capture = pytest.CaptureFixture[str]
Change = Callable[[dict[str, Any]], Any]

ONES = torch.ones(3, 4)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def document() -> dict[str, Any]:
    """A model of two parameters and its Adam after a few steps."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def both(capsys: Capture, *arguments: str, optimizer: str = "adam") -> list[tuple[int, str, str]]:
    """Exit code, output and error of inspect and of rescale on in.pt."""
    found = []
    for command in (["inspect", "in.pt"], ["rescale", optimizer, "--scale", "8", "--from", "in.pt", "--out", "out.pt"]):
        code = main([*command, *arguments])
        captured = capsys.readouterr()
        found.append((code, " ".join(captured.out.split()), captured.err))
    assert Path("out.pt").exists() == (found[1][0] == 0) and not list(Path().glob(".*.tmp"))
    return found


def state(**values: Any) -> Change:
    """States of the first parameter; ... removes one."""
    return lambda d: _put(d["optimizer"]["state"][0], values)


def states(**values: Any) -> Change:
    """States of all parameters."""
    return lambda d: [_put(entry, values) for entry in d["optimizer"]["state"].values()]


def group(**values: Any) -> Change:
    """Values of the first group."""
    return lambda d: _put(d["optimizer"]["param_groups"][0], values)


def _put(there: dict[str, Any], values: dict[str, Any]) -> None:
    there.update(values)
    for name in [name for name, value in values.items() if value is ...]:
        del there[name]


def optimizer_of(**values: Any) -> Change:
    return lambda d: d["optimizer"].update(values)


STEP = "for parameter 0, which is no count of steps"
PRODUCT = "for parameter 0, which holds no product; save it dequantised, dense, as float32"
KEEPS = "for parameter 0, which Adam with these hyperparameters keeps"
NUMBER = "where a number belongs; give a file that torch wrote"

REFUSED: dict[str, tuple[Change, str]] = {
    "no step": (state(step=...), f"has no step {KEEPS}"),
    "step None": (state(step=None), f"has no step {KEEPS}"),
    "step -1": (state(step=-1), f"has a step of -1 {STEP}"),
    "step NaN": (state(step=torch.tensor(math.nan)), f"has a step of tensor(nan) {STEP}"),
    "step inf": (state(step=math.inf), f"has a step of inf {STEP}"),
    "step beyond floats": (state(step=10**400), "which is no count of steps"),
    "step True": (state(step=True), f"has a step of True {STEP}"),
    "step text": (state(step="3"), f"has a step of '3' {STEP}"),
    "steps": (state(step=torch.ones(2)), f"has a step of tensor([1., 1.]) {STEP}"),
    "step complex": (state(step=torch.tensor(1j)), STEP),
    "step meta": (state(step=torch.empty((), device="meta")), STEP),
    "step list": (state(step=[3]), f"has a step of [3] {STEP}"),
    "no v": (state(exp_avg_sq=...), f"has no exp_avg_sq {KEEPS}, so it is damaged or not Adam's"),
    "no moments": (state(exp_avg=None, exp_avg_sq=None), f"has no exp_avg, exp_avg_sq {KEEPS}"),
    "no maximum": (group(amsgrad=True), f"has no max_exp_avg_sq {KEEPS}"),
    "v is a number": (state(exp_avg_sq=1.0), f"has exp_avg_sq of type float {PRODUCT}"),
    "v is a list": (state(exp_avg_sq=[1.0]), f"has exp_avg_sq of type list {PRODUCT}"),
    "v int64": (state(exp_avg_sq=ONES.long()), f"has exp_avg_sq of torch.int64 {PRODUCT}"),
    "m bool": (state(exp_avg=ONES.bool()), f"has exp_avg of torch.bool {PRODUCT}"),
    "v float8": (state(exp_avg_sq=ONES.to(torch.float8_e4m3fn)), f"has exp_avg_sq of torch.float8_e4m3fn {PRODUCT}"),
    "v sparse": (state(exp_avg_sq=ONES.to_sparse()), f"has exp_avg_sq of torch.sparse_coo {PRODUCT}"),
    "m meta": (state(exp_avg=torch.empty(3, 4, device="meta")), f"has exp_avg of no data (meta) {PRODUCT}"),
    "master int": (state(master_param=ONES.int()), f"has master_param of torch.int32 {PRODUCT}"),
    "v of another shape": (
        state(exp_avg_sq=ONES.t()),
        "for parameter 0: exp_avg [3, 4], exp_avg_sq [4, 3]; give a file",
    ),
    "v of one element": (state(exp_avg_sq=torch.tensor(1.0)), "exp_avg [3, 4], exp_avg_sq []"),
    "m empty": (state(exp_avg=torch.ones(0, 4)), "exp_avg [0, 4], exp_avg_sq [3, 4]"),
    "master flat": (state(master_param=torch.ones(12)), "exp_avg_sq [3, 4], master_param [12]"),
    "lr None": (group(lr=None), f"its lr is None, {NUMBER}"),
    "lr text": (group(lr="1e-3"), f"its lr is '1e-3', {NUMBER}"),
    "lr several": (group(lr=torch.ones(2)), f"its lr is tensor([1., 1.]), {NUMBER}"),
    "lr complex": (group(lr=1j), f"its lr is 1j, {NUMBER}"),
    "lr meta": (group(lr=torch.empty((), device="meta")), NUMBER),
    "lr -1": (group(lr=-1.0), "Invalid learning rate: -1.0"),
    "lr NaN": (group(lr=math.nan), "its lr is nan, no finite number"),
    "eps inf": (group(eps=math.inf), "its eps is inf, no finite number"),
    "eps beyond floats": (group(eps=10**400), "its eps is inf, no finite number"),
    "decay True": (group(weight_decay=True), f"its weight_decay is True, {NUMBER}"),
    "one beta": (group(betas=(0.9,)), "its betas is (0.9,), where a list of 2 numbers belongs"),
    "three betas": (group(betas=(0.9, 0.9, 0.9)), "where a list of 2 numbers belongs"),
    "betas text": (group(betas="12"), "its betas is '12', where a list of 2 numbers belongs"),
    "beta2 1": (group(betas=(0.9, 1.0)), "Invalid beta parameter at index 1: 1.0"),
    "beta1 -.1": (group(betas=(-0.1, 0.9)), "Invalid beta parameter at index 0: -0.1"),
    "amsgrad text": (group(amsgrad="x"), "its amsgrad is 'x', where True or False belongs"),
    "initial_lr text": (group(initial_lr="x"), "its initial_lr is 'x', no finite number"),
    "initial_lr NaN": (group(initial_lr=math.nan), "its initial_lr is nan, no finite number"),
    "no params": (group(params=...), "has no params in group 0, no list of places"),
    "params 3": (group(params=3), "has params 3 in group 0, no list of places"),
    "params of tensors": (group(params=[ONES]), "in group 0, no list of places"),
    "a parameter twice": (group(params=[0, 0, 1]), "has parameter 0 twice, in group 0 and in group 0"),
    "a state of nobody": (lambda d: d["optimizer"]["state"].update({9: {}}), "of parameters that are in no group: 9"),
    "an entry that is none": (
        lambda d: d["optimizer"]["state"].update({0: 3}),
        "no dictionary of states per parameter",
    ),
    "no groups": (
        optimizer_of(param_groups=[]),
        "holds no optimizer's state_dict; its keys are model, optimizer; save one",
    ),
    "a group that is none": (
        optimizer_of(param_groups=[3]),
        "holds no optimizer's state_dict; its keys are model, optimizer; save one",
    ),
    "states that are none": (
        optimizer_of(state=[]),
        "holds no optimizer's state_dict; its keys are model, optimizer; save one",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_fault_is_one_line_for_both(capsys: Capture, name: str) -> None:
    change, words = REFUSED[name]
    saved = document()
    change(saved)
    torch.save(saved, "in.pt")
    errors = []
    for code, out, error in both(capsys, "--key", "optimizer"):
        assert code == 2 and out == "" and error.count("\n") == 1, error
        assert words in error, error
        errors.append(error.removeprefix("error: CHECKPOINT").removeprefix("error: --from"))
    assert errors[0] == errors[1]


READ: dict[str, tuple[Change, str, str]] = {
    "no states": (optimizer_of(state={}), "It holds no states", "It holds no states"),
    "no entry": (lambda d: d["optimizer"]["state"].pop(0), "1 parameters are left out: no state", ""),
    "an empty entry": (lambda d: d["optimizer"]["state"].update({0: {}}), "1 parameters are left out: no state", ""),
    "step 0": (state(step=0), "1 parameters are left out: no state, no step taken yet", ""),
    "step as int": (states(step=3), "step 3 steps that v has seen", ""),
    "step as int64": (states(step=torch.tensor(3)), "step 3 steps that v has seen", ""),
    "step bfloat16": (states(step=torch.ones(1, dtype=torch.bfloat16)), "step 1 steps that v has seen", ""),
    "step 1e30": (states(step=torch.tensor(1e30)), "step 1e+30 steps that v has seen", ""),
    "v bfloat16": (state(exp_avg_sq=ONES.bfloat16()), "rho", ""),
    "m float64": (state(exp_avg=ONES.double()), "1 parameters are left out", ""),
    "v complex": (state(exp_avg_sq=ONES.cfloat()), "1 parameters are left out", ""),
    "no elements": (state(exp_avg=torch.ones(0), exp_avg_sq=torch.ones(0)), "1 parameters are left out", ""),
    "no dimension": (state(exp_avg=torch.tensor(1.0), exp_avg_sq=torch.tensor(1.0)), "rho", ""),
    "a parameter for a state": (state(exp_avg_sq=torch.nn.Parameter(ONES)), "rho", ""),
    "an expanded v": (state(exp_avg_sq=torch.ones(1, 1).expand(3, 4)), "rho", ""),
    "v NaN": (
        state(exp_avg_sq=ONES * math.nan),
        "80.00% of the states are infinite or NaN",
        "12 elements of the state are infinite or NaN and stay so",
    ),
    "v below 0": (
        state(exp_avg_sq=-ONES),
        "80.00% of v are below 0 (most in weight: 100.0%), which no step of Adam makes, and have no root",
        "12 elements of averages of squares are below 0 and stay so: no step of Adam makes them",
    ),
    "all zero": (states(exp_avg=torch.zeros(3), exp_avg_sq=torch.zeros(3)), "v_zero_still 1", ""),
    "lr in a tensor": (group(lr=torch.tensor(1e-3)), "rho", ""),
    "betas in a tensor": (group(betas=torch.tensor([0.5, 0.75])), "rho", ""),
    "amsgrad 0": (group(amsgrad=0), "rho", ""),
    "a maximum that is not needed": (state(max_exp_avg_sq=ONES), "rho", ""),
    "no lr": (group(lr=...), "its defaults are taken: lr 0.001", "its defaults are taken: lr 0.001"),
    "no betas": (group(betas=...), "taken: betas (0.9, 0.999)", "taken: betas (0.9, 0.999)"),
    "fused of several": (group(fused=ONES), "rho", ""),
    "names that are none": (group(param_names=3), "by order and shape", ""),
    "names of other shapes": (
        lambda d: (group(param_names=["weight", "bias"])(d), d["model"].update(weight=ONES.t())),
        "parameters: those that its groups name have other shapes than the states.",
        "",
    ),
    "a model of other shapes": (lambda d: d["model"].update(weight=ONES.t()), "holds no parameters that fit", ""),
    "a model without data": (lambda d: d["model"].update(weight=torch.empty(3, 4, device="meta")), "rho", ""),
    "a sparse model": (lambda d: d["model"].update(weight=ONES.to_sparse()), "rho", ""),
    "a file inside itself": (lambda d: d.update(me=d), "was saved by Adam", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_a_run_can_hold_is_read_by_both(capsys: Capture, name: str) -> None:
    change, *words = READ[name]
    saved = document()
    change(saved)
    torch.save(saved, "in.pt")
    for (code, out, error), said in zip(both(capsys, "--key", "optimizer"), words, strict=True):
        assert code == 0 and error == "", error
        assert said in out, out
    assert torch.load("out.pt")["optimizer"]["param_groups"][0]["eps"] == 8e-8


def test_plain_sgd_keeps_no_states(capsys: Capture) -> None:
    for states in ({}, {0: {"momentum_buffer": None}}):
        saved = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1).state_dict()
        torch.save({**saved, "state": states}, "in.pt")
        for code, out, error in both(capsys, optimizer="sgd"):
            assert (
                code == 0
                and "It holds no states, as before the first step or under SGD without momentum." in out
                and error == ""
            )


def test_names_for_places_are_the_parameters_names(capsys: Capture) -> None:
    saved = document()
    saved["optimizer"]["state"] = dict(zip(("weight", "bias"), saved["optimizer"]["state"].values(), strict=True))
    saved["optimizer"]["param_groups"][0]["params"] = ["weight", "bias"]
    saved = {
        "teacher": {"weight": torch.ones(9), "bias": torch.ones(9)},
        **saved,
    }  # its names fit and its shapes do not
    torch.save(saved, "in.pt")
    for code, _, error in both(capsys, "--key", "optimizer"):
        assert code == 0 and error == ""
    assert main(["inspect", "in.pt", "--key", "optimizer", "--layers"]) == 0
    said = capsys.readouterr().out
    assert "parameters: by name." in said and "update_lost" in said and "weight" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no file that torch.save wrote, or a damaged one"),
        (b"PK\x03\x04", "is no file that torch.save wrote, or a damaged one"),
        (b"hello " * 100, "is no file that torch.save wrote, or a damaged one"),
        (0.5, "is no file that torch.save wrote, or a damaged one"),
        ({}, "holds no optimizer's state_dict; save one with torch.save"),
        (torch.ones(3), "holds no optimizer's state_dict; save one with torch.save"),
        (torch.optim.Adam([torch.nn.Parameter(torch.ones(1))]), "holds torch.optim.adam.Adam, which only running"),
        ("directory", "is a directory; give a file, or make one of it: python -m torch.distributed.checkpoint"),
        (None, "cannot be read (No such file or directory)"),
    ],
    ids=["empty", "cut head", "text", "half", "empty dict", "tensor", "optimizer", "directory", "absent"],
)  # fmt: skip
def test_files_that_are_none_are_one_line_for_both(capsys: Capture, content: Any, words: str) -> None:
    if content == "directory":
        Path("in.pt").mkdir()
    elif isinstance(content, bytes):
        Path("in.pt").write_bytes(content)
    elif isinstance(content, float):
        torch.save(document(), "in.pt")
        whole = Path("in.pt").read_bytes()
        Path("in.pt").write_bytes(whole[: int(len(whole) * content)])
    elif content is not None:
        torch.save(content, "in.pt")
    for code, out, error in both(capsys):
        assert code == 2 and out == "" and error.count("\n") == 1 and words in error, error


def test_of_two_outputs_none_is_written_where_one_cannot_be(capsys: Capture) -> None:
    torch.save(document(), "in.pt")
    torch.save({"base_lrs": (0.5,), "_last_lr": [0.5]}, "s.pt")
    Path("taken").write_text("a file where a folder would have to be")
    arguments = ["rescale", "adam", "--scale", "8", "--from", "in.pt", "--key", "optimizer", "--out", "out.pt"]
    assert main([*arguments, "--scheduler", "s.pt", "--scheduler-out", "taken/s.pt"]) == 2
    assert "--scheduler-out taken/s.pt: cannot be written" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["in.pt", "s.pt", "taken"]


def test_groups_of_another_optimizer_are_the_reason(capsys: Capture) -> None:
    saved = document()["optimizer"]
    saved["param_groups"].append({"lr": 0.1, "momentum": 0.9, "params": []})
    torch.save(saved, "in.pt")
    inspected, rescaled = both(capsys)
    assert inspected[0] == rescaled[0] == 2
    assert "its states fit Adam, and its param_groups have momentum, so no optimizer here saved it" in inspected[2]
    assert "has momentum in its param_groups, so it is not Adam's" in rescaled[2]
