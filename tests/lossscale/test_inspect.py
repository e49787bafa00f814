"""``inspect``: a checkpoint's optimizer is recognised, and its numbers are those of the states."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import kernels
from lossscale.__main__ import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trained(optimizer: torch.optim.Optimizer, steps: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()
    return optimizer.state_dict()


def parameters(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in ((8, 4), (4,))]


def inspect(capsys: Capture, document: Any, *arguments: str) -> dict[str, Any]:
    torch.save(document, "in.pt")
    assert main(["inspect", "in.pt", "--json", *arguments]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def numbers(document: dict[str, Any]) -> dict[str, float]:
    return {row["number"]: row["value"] for row in document["rows"]}


@pytest.mark.parametrize(
    ("made", "title"),
    [
        (lambda p: torch.optim.Adam(p), "Adam"),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), "AdamW"),
        (lambda p: torch.optim.RMSprop(p, centered=True), "RMSprop"),
        (lambda p: torch.optim.RMSprop(p, momentum=0.9), "RMSprop"),
        (lambda p: torch.optim.Adagrad(p), "Adagrad"),
        (lambda p: torch.optim.SGD(p, momentum=0.9), "SGD"),
        (lambda p: kernels.AdamW(p), "AdamW"),
        (lambda p: kernels.AdamAtan2(p), "AdamAtan2"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_optimizer_is_recognised(capsys: Capture, made: Any, title: str, dtype: torch.dtype) -> None:
    found = inspect(capsys, trained(made(parameters(dtype))))
    assert found["optimizer"] == title and found["left_out"] == 0
    assert numbers(found)["nonfinite_state"] == 0.0
    assert ("rho" in numbers(found)) == (title not in ("SGD", "AdamAtan2"))


def test_the_numbers_are_those_of_the_states(capsys: Capture) -> None:
    p = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0, 2.0**20]))
    optimizer = torch.optim.Adam([p], lr=1e-3, eps=0.5, betas=(0.5, 0.75))
    for _ in range(5):
        p.grad = torch.tensor([0.5, -2.0, 0.0, 2.0**-16])
        optimizer.step()
    saved = {"model": {"weight": p.detach()}, "optimizer": optimizer.state_dict()}
    document = inspect(capsys, saved, "--key", "optimizer")
    found, sizes = numbers(document), [0.5, 2.0, 2.0**-16]
    whole = sum(g / (g + 0.5) for g in sizes)
    rho = sum(g / (g + 0.5) * 0.5 / (g + 0.5) for g in sizes) / whole
    assert found["step"] == 5 and found["rho"] == pytest.approx(rho, rel=1e-5)
    assert found["eps_over_r_q50"] == pytest.approx(1.0, rel=1e-5)
    assert found["update_lost"] == pytest.approx(1 / 3)
    assert found["v_zero_still"] == 0.25
    # v of the smallest gradient is about 2^-32: 94 binades above 2^-126, and the loss's square moves it.
    assert found["v_above_subnormal"] == pytest.approx(94, abs=1)
    assert found["loss_down"] == found["v_above_subnormal"] / 2
    # With eps 2^x times as large, by which the loss may shrink too, half of the update is eps's.
    eps = 0.5 * 2 ** found["eps_below_half"]
    weights = [g / (g + eps) for g in sizes]
    assert sum(w * eps / (g + eps) for w, g in zip(weights, sizes, strict=True)) / sum(weights) == pytest.approx(0.5)
    words = {row["number"]: row["is"] for row in document["rows"]}
    assert words["v_above_subnormal"].endswith("1% quantile of v > 0") and "5% quantile" in words["eps_over_r_q05"]


def test_a_moment_that_will_stall_is_seen_without_history(capsys: Capture) -> None:
    shares = {}
    for beta2 in (0.999, 0.99, 0.95):
        # v over one binade, where half an ulp is 2^-8 to 2^-9 of v: 4(d)'s probabilities at E g² = v.
        state = {"step": torch.tensor(5000.0), "exp_avg": torch.ones(64, dtype=torch.bfloat16)}
        state["exp_avg_sq"] = torch.linspace(1, 2, 64).to(torch.bfloat16)
        group = {**torch.optim.Adam(parameters()).state_dict()["param_groups"][0], "betas": (0.9, beta2), "params": [0]}
        document = inspect(capsys, {"state": {0: state}, "param_groups": [group]})
        shares[beta2] = numbers(document)["v_stall"]
        assert [w["kind"] for w in document["warnings"]] == (["ratchet"] if beta2 == 0.999 else [])
    assert 0.914 < shares[0.999] < 0.973 and 0.095 < shares[0.99] < 0.197 and 0.019 < shares[0.95] < 0.038


def test_parameters_are_found_by_name_and_by_shape(capsys: Capture) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).bfloat16()
    for given, how in ((model.named_parameters(), "by name"), (model.parameters(), "by order and shape")):
        optimizer = torch.optim.AdamW(given, lr=1e-6)
        torch.save({"net": model.state_dict(), "opt": trained(optimizer)}, "in.pt")
        assert main(["inspect", "in.pt", "--key", "opt", "--layers"]) == 0
        said = capsys.readouterr().out
        assert f"parameters: {how}." in said and "1.weight" in said and "update_lost" in said
        assert "are below half an ulp of their parameter" in said and "lr · weight_decay" in said
    torch.save({"net": {"other": torch.ones(2)}, "opt": trained(optimizer)}, "in.pt")
    assert main(["inspect", "in.pt", "--key", "opt"]) == 0
    said = capsys.readouterr().out
    assert "the file holds no parameters that fit" in said and "update_lost" not in said


def test_masters_are_the_parameters(capsys: Capture) -> None:
    found = numbers(inspect(capsys, trained(kernels.AdamW(parameters(torch.bfloat16), lr=1e-4, master_weights=True))))
    assert found["update_lost"] == 0.0


def test_it_says_what_it_had_to_assume(capsys: Capture) -> None:
    document = trained(torch.optim.Adagrad(parameters()))
    torch.save(document, "in.pt")
    assert main(["inspect", "in.pt"]) == 0
    assert "updates are those of gradients as large as r" in capsys.readouterr().out
    document = trained(torch.optim.AdamW(parameters()))
    del document["param_groups"][0]["decoupled_weight_decay"]
    torch.save(document, "in.pt")
    assert main(["inspect", "in.pt"]) == 0
    said = capsys.readouterr().out
    assert "saved by Adam or AdamW" in said and "fewer steps than it remembers" in said
    document["state"][1]["exp_avg"] = document["state"][1]["exp_avg"].double()
    assert inspect(capsys, document, "--optimizer", "adamw")["left_out"] == 1


def test_nan_is_an_outcome_and_so_is_eps_0(capsys: Capture) -> None:
    document = trained(torch.optim.AdamW(parameters(), eps=0.0))
    document["state"][0]["exp_avg_sq"][0, 0] = math.nan
    document["state"][0]["exp_avg_sq"][0, 1] = 0.0
    found = inspect(capsys, document)
    assert numbers(found)["nonfinite_state"] == pytest.approx(1 / 36)
    assert numbers(found)["nonfinite_update"] == pytest.approx(2 / 36) and numbers(found)["rho"] == 0.0
    assert [w["kind"] for w in found["warnings"]] == ["nonfinite-state"]


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        (lambda d: d["state"][0].pop("exp_avg_sq"), (), "has no exp_avg_sq for parameter 0, which Adam"),
        (lambda d: d["state"][0].pop("exp_avg_sq"), ("--optimizer", "adam"), "has no exp_avg_sq for parameter 0"),
        (lambda d: d["state"][0].pop("step"), ("--optimizer", "adam"), "has no step for parameter 0"),
        (lambda d: d["state"][0].update(mu_product=torch.ones(1)), (), "which no optimizer here keeps"),
        (lambda d: d["state"].update({0: 3}), (), "keeps no dictionary of states per parameter"),
        (
            lambda d: d["param_groups"][0].update(momentum=0.5),
            (),
            "its states fit Adam, and its param_groups have momentum",
        ),
        (lambda d: None, ("--optimizer", "sgd"), "it is not SGD's"),
        (lambda d: None, ("--optimizer", "adm"), "did you mean adam?"),
        (lambda d: None, ("--key", "x"), "no optimizer's state_dict is there"),
    ],
)
def test_bad_input_is_one_line(capsys: Capture, change: Any, arguments: tuple[str, ...], words: str) -> None:
    document = trained(torch.optim.Adam(parameters()))
    change(document)
    torch.save(document, "in.pt")
    assert main(["inspect", "in.pt", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error, error


def test_files_that_are_none(capsys: Capture) -> None:
    Path("text").write_text("hello")
    for name in ("text", "absent"):
        assert main(["inspect", name]) == 2
        assert f"CHECKPOINT {name}: " in capsys.readouterr().err
