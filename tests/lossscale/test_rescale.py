"""``rescale``: its table, and a checkpoint that goes on under another loss to the same bits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lossscale.__main__ import COMMANDS, main


def test_every_command_is_there() -> None:
    for command in COMMANDS:
        assert callable(command.load()), command.name


@pytest.mark.parametrize(
    ("arguments", "expected", "multiply"),
    [
        (("sgd", "--scale", "8", "lr=0.4", "weight_decay=.5"), {"lr": 0.05, "weight_decay": 4.0}, {}),
        (("sgd", "--scale", "2^3", "momentum=0.9"), {"momentum": 0.9}, {"momentum_buffer": 8.0}),
        (
            ("adam", "--scale", "8", "weight_decay=0.5"),
            {"eps": 8e-8, "weight_decay": 4.0, "lr": 1e-3},
            {"exp_avg": 8.0},
        ),
        (("adamw", "--scale", "8"), {"eps": 8e-8, "weight_decay": 0.01}, {"exp_avg_sq": 64.0}),
        (("adam_atan2", "--scale", "8"), {"lr": 1e-3}, {"exp_avg_sq": 64.0}),
        (("adam", "--scale", "1/16", "betas=0.5,0.75"), {"eps": 1e-8 / 16, "betas": "0.5, 0.75"}, {"exp_avg": 0.0625}),
    ],
)
def test_what_to_set(
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    expected: dict[str, float | str],
    multiply: dict[str, float],
) -> None:
    assert main(["rescale", *arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = {row["hyperparameter"]: row["set_to"] for row in document["rows"]}
    assert {name: found[name] for name in expected} == expected
    states = {row["state"]: row["multiply_by"] for row in document["states"]}
    assert {name: states[name] for name in multiply} == multiply
    assert document["exact"] is True


def test_the_sentence_says_what_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rescale", "adam", "--scale", "8"]) == 0
    exact = capsys.readouterr().out
    assert "set eps as above" in exact and "bit for bit" in exact and "exp_avg by 8, exp_avg_sq by 64" in exact
    for named in ("clipping thresholds", "gradient noise", "hooks", "1e-6"):
        assert named in exact
    assert main(["rescale", "adam", "--scale", "8", "max_grad_norm=1.0"]) == 0
    clipped = capsys.readouterr().out
    assert "set eps and max_grad_norm as above" in clipped and "bit for bit" not in clipped and "1e-6" in clipped
    assert main(["rescale", "adam", "--scale", "2^-120"]) == 0
    subnormal = capsys.readouterr().out
    assert "eps is below float32's normal numbers" in subnormal and "bit for bit" not in subnormal
    assert main(["rescale", "adam", "--scale", "10"]) == 0
    rounded = capsys.readouterr().out
    assert "no power of two" in rounded and "bit for bit" not in rounded


Optimizer = Callable[[list[torch.Tensor]], torch.optim.Optimizer]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1)),
        ("adam", lambda p: torch.optim.Adam(p, lr=torch.tensor(0.125), amsgrad=True, eps=1e-3, foreach=False)),
        ("adamw", lambda p: torch.optim.AdamW([{"params": p, "eps": 1e-2}])),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.5)),
        ("adagrad", lambda p: torch.optim.Adagrad(p, initial_accumulator_value=0.25)),
    ],
)
def test_a_checkpoint_goes_on_to_the_same_bits(tmp_path: Path, name: str, make: Optimizer) -> None:
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(50, generator=generator) for _ in range(6)]
    kept = torch.randn(50, generator=generator).requires_grad_()
    optimizer = make([kept])
    _steps(optimizer, kept, grads[:3], 1.0)
    torch.save(optimizer.state_dict(), tmp_path / "old.pt")
    moved = kept.detach().clone().requires_grad_()
    arguments = [
        "rescale",
        name,
        "--scale",
        "2^10",
        "--from",
        str(tmp_path / "old.pt"),
        "--out",
        str(tmp_path / "new.pt"),
    ]
    assert main(arguments) == 0
    other = make([moved])
    other.load_state_dict(torch.load(tmp_path / "new.pt", weights_only=True))
    _steps(optimizer, kept, grads[3:], 1.0)
    _steps(other, moved, grads[3:], 1024.0)
    assert torch.equal(kept, moved)


def _steps(optimizer: torch.optim.Optimizer, p: torch.Tensor, grads: list[torch.Tensor], scale: float) -> None:
    for grad in grads:
        p.grad = grad * scale
        optimizer.step()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("adm", "--scale", "8"), "did you mean adam?"),
        (("adam", "--scale", "0"), "--scale 0"),
        (("adam", "--scale", "8", "eps=inf"), "NAME=VALUE eps=inf"),
        (("adam", "--scale", "8", "betas=0.9"), "more than one number; give 2"),
        (("adam", "--scale", "8", "betas=0.9,x"), "is no number"),
        (("adam", "--scale", "8", "betas=0.9,1.5"), "below 1 for a beta"),
        (("adam", "--scale", "8", "max_grad_norm=-1"), "above 0"),
        (("adam", "--scale", "8", "max_grad_norm=1", "max_grad_norm=2"), "given twice"),
        (("adam", "--scale", "8", "epsilon=1"), "eps, lr, max_grad_norm"),
        (("adam", "--scale", "2^127", "max_grad_norm=1000"), "makes max_grad_norm"),
        (("adam", "--scale", "1/0"), "--scale 1/0"),
        (("adam", "--scale", "8", "--key", "optimizer"), "--from FILE"),
        (("adam", "--scale", "8", "--degree", "x=2"), "--from FILE"),
        (("sgd", "--scale", "8", "--scheduler-out", "x.pt"), "--scheduler FILE"),
        (("sgd", "--scale", "8", "--scheduler", "sgd.pt"), "no scheduler's state_dict"),
        (("adam", "--scale", "2^127", "eps=1000"), "--scale 2^127: makes eps"),
        (("adam", "--scale", "8", "--out", "x.pt"), "--from FILE"),
        (("adam", "--scale", "8", "--from", "missing.pt"), "--from missing.pt"),
        (("adam", "--scale", "8", "--from", "text.pt"), "state_dict"),
        (("adam", "--scale", "8", "--from", "sgd.pt"), "not Adam's"),
        (("adam", "--scale", "8", "--from", "sgd.pt", "eps=1"), "leave them"),
        (("sgd", "--scale", "2^100", "--from", "sgd.pt", "--out", "x.pt"), "overflows"),
        (
            ("adam", "--scale", "2^100", "--from", "adam.pt", "--out", "x.pt"),
            "--scale 1.26765e+30: exp_avg_sq, multiplied by its square, overflows",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.pt").write_text("words")
    p = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=0.1, momentum=0.9)
    _steps(optimizer, p, [torch.full((2,), 1e20)], 1.0)
    torch.save(optimizer.state_dict(), "sgd.pt")
    adam = torch.optim.Adam([p])
    _steps(adam, p, [torch.ones(2)], 1.0)
    torch.save(adam.state_dict(), "adam.pt")
    assert main(["rescale", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and words in captured.err
    assert captured.out == "" and not Path("x.pt").exists()
