"""Where eps sits: each convention divides as the other does at the place that was asked for."""

import json
import math
import subprocess
import sys

import pytest

import lossscale
from lossscale.__main__ import main


def divisor(convention: str, eps: float, r: float, correction: float) -> float:
    """What the bias-corrected first moment is divided by."""
    if convention == "inside":
        return math.sqrt(r * r + eps)
    return r + (eps / correction if convention == "hat" else eps)


@pytest.mark.parametrize("source", ["outside", "inside", "hat"])
@pytest.mark.parametrize("target", ["outside", "inside", "hat"])
@pytest.mark.parametrize(
    ("r", "step", "beta2"), [(0.0, 1, 0.999), (1e-4, 7, 0.95), (3.0, math.inf, 0.999), (1.0, 2, 0.0)]
)
def test_both_divide_alike(source: str, target: str, r: float, step: float, beta2: float) -> None:
    found = lossscale.convert_eps(1e-3, source, target, r=r, step=step, beta2=beta2)
    correction = math.sqrt(1 - beta2**step)
    expected = divisor(source, 1e-3, r, correction)
    assert divisor(target, found, r, correction) == pytest.approx(expected, rel=1e-12)
    assert lossscale.convert_eps(found, target, source, r=r, step=step, beta2=beta2) == pytest.approx(1e-3, rel=1e-9)


def test_the_values_that_are_known() -> None:
    assert lossscale.convert_eps(1e-8, "outside", "inside") == pytest.approx(1e-16)
    assert lossscale.convert_eps(1e-7, "hat", "outside", step=1) == pytest.approx(1e-7 / math.sqrt(1e-3))
    assert lossscale.convert_eps(0.0, "inside", "outside", r=1.0) == 0.0


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((-1.0, "outside", "inside"), {}, "eps -1.0: must be finite and at least 0"),
        ((1e-8, "beside", "inside"), {}, "source 'beside': unknown; give one of outside, inside, hat"),
        ((1e-8, "hat", "outside"), {}, "step None: eps-hat depends on the step"),
        ((1e-8, "hat", "outside"), {"step": 3, "beta2": 1.0}, "beta2 1.0: must be at least 0 and below 1"),
        ((1e-8, "outside", "inside"), {"r": math.nan}, "r nan: must be finite"),
    ],
)
def test_what_is_refused(arguments: tuple[float, str, str], options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        lossscale.convert_eps(*arguments, **options)  # type: ignore[arg-type]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert-eps", "1e-7", "--from", "hat", "--to", "outside", "--step", "10", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["eps"] == pytest.approx(lossscale.convert_eps(1e-7, "hat", "outside", step=10))
    assert [row["degree"] for row in document["rows"]] == [1, 1]
    assert main(["convert-eps", "1e-8", "--to", "inside", "--r", "1e-3"]) == 0
    said = capsys.readouterr().out
    assert "agree at r = 0.001" in said and "2e-11" in said
    for arguments, words in [
        (["--to", "hat"], "--step '': eps-hat depends on the step; give one from 1 on"),
        (["--from", "insid"], "did you mean inside?"),
        (["--r", "-1"], "--r -1.0: must be finite and at least 0"),
    ]:
        assert main(["convert-eps", "1e-8", *arguments]) == 2
        assert words in capsys.readouterr().err


def test_importing_lossscale_stays_cheap() -> None:
    code = (
        "import lossscale, sys; assert not {'torch', 'numpy', 'pandas', 'typer'} & set(sys.modules)\n"
        "assert all(hasattr(lossscale, name) for name in lossscale.__all__)\n"
        "try: lossscale.nothing\n"
        "except AttributeError as error: assert \"has no attribute 'nothing'\" in str(error)\n"
        "else: raise AssertionError\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_an_eps_that_overflows_is_no_answer() -> None:
    with pytest.raises(ValueError, match="beyond every number"):
        lossscale.convert_eps(1e200, "outside", "inside", r=1.0)
    assert main(["convert-eps", "1e200", "--to", "inside", "--r", "1"]) == 2
