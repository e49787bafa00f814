"""The scripts in examples/ run, and show what they say."""

from pathlib import Path

import pytest
import torch

from tests.example_files import EXAMPLES, load


@pytest.mark.parametrize("options", [[], ["--schedule"], ["--amp"], ["--resume"]], ids=" ".join)
def test_digits_reach_torchs_loss(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    theirs, ours = load("digits").main([*options, "--epochs", "4"])
    assert ours < 0.35
    # Not the same bits: torch's root on the CPU is not correctly rounded, and float16 forward passes magnify it.
    assert ours == pytest.approx(theirs, rel=2e-2 if "--amp" in options else 1e-3)
    assert f"kernels.AdamW      loss {ours:.6f}" in capsys.readouterr().out


def test_checkpoint_of_torch_is_needed_for_the_same_loss(tmp_path: Path) -> None:
    """Resumed moments matter: without them the loss is another."""
    digits = load("digits")
    digits.train(torch.optim.AdamW, epochs=2, save=tmp_path / "checkpoint.pt")
    whole = torch.load(tmp_path / "checkpoint.pt")
    whole["optimizer"]["state"] = {}
    torch.save(whole, tmp_path / "without.pt")
    losses = [
        digits.train(digits.kernels.AdamW, epochs=1, resume=tmp_path / f"{n}.pt") for n in ("checkpoint", "without")
    ]
    assert abs(losses[0] - losses[1]) > 1e-3 * losses[0]


def test_gradient_release_gives_the_same_bits_with_one_gradient_alive() -> None:
    assert load("gradient_release").main(steps=5) == (True, 1)


def test_two_lines_differ_from_a_torch_script() -> None:
    text = (EXAMPLES / "digits.py").read_text()
    assert text.count("# <- line") == 2
