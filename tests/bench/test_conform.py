import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from bench.__main__ import main
from bench.conformance.cases import Case
from bench.conformance.compare import run_case
from bench.conformance.option_sets import option_sets
from bench.conformance.testing import OptimizerConformance
from bench.optimizers import registered
from bench.providers import Ours, TorchOptim
from bench.providers.user import OneClass
from tests.bench.example_optimizers import RightSGD

CPU = torch.device("cpu")
FOREACH = TorchOptim(implementation="foreach")
EXAMPLES = "tests.bench.example_optimizers"

if os.environ.get("TRITON_INTERPRET") == "1":
    # The suite starts interpreting and compiling workers as its providers need them, from a process that compiles.
    pytest.skip("starts its own workers", allow_module_level=True)


class TestRightSGD(OptimizerConformance):
    """The pytest class, as a user writes it."""

    optimizer_class, optimizer = RightSGD, "SGD"


class TestTorchAdamNearFloat64(OptimizerConformance):
    optimizer_class, optimizer = torch.optim.Adam, "Adam"
    against, ulp, dtypes = "float64", 4, ("fp32", "bf16")


def conform(*arguments: str) -> int:
    return main(["conform", "--quick", *arguments])


# -- the command -----------------------------------------------------------------------------------


def test_a_right_class_passes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    junit, out = tmp_path / "rows.xml", tmp_path / "rows.json"
    target = f"{EXAMPLES}:RightSGD"
    assert (
        conform(
            "--provider",
            target,
            "--optimizer",
            "SGD",
            "--dtype",
            "fp32",
            "--json",
            "--junit",
            str(junit),
            "--out",
            str(out),
        )
        == 0
    )
    document = json.loads(capsys.readouterr().out)
    assert list(document["rows"][0]) == [
        *("provider", "against", "optimizer", "options", "dtype", "shape", "steps"),
        *("mismatching_bits", "max_ulp", "first_mismatch", "outcome"),
    ]
    outcomes = {row["outcome"] for row in document["rows"] if row["against"] == "torch-for-loop"}
    assert outcomes == {"identical", "unsupported"}
    assert {"identical to torch-for-loop"} <= {cell["claim"] for cell in document["claims"]}
    assert document["references"] == ["torch-for-loop"] and document["date"].endswith("UTC")
    covered = document["coverage"]
    assert covered["compared"] + covered["unsupported"] == document["comparisons"] and covered["not_run"] == 0
    assert covered["reasons"][target]["no option nesterov"] > 0
    assert document["broken_claims"] == document["not_run"] == 0
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.get("name"), suite.get("failures"), suite.get("errors")) == (target, "0", "0")
    assert json.loads(out.read_text())["rows"] == document["rows"]


def test_a_wrong_class_fails_and_the_page_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    junit = tmp_path / "rows.xml"
    target = f"{EXAMPLES}:WrongSGD"
    code = conform(
        "--provider", target, "--optimizer", "SGD", "--dtype", "fp32", "--out", str(page), "--junit", str(junit)
    )
    assert code == 1
    text = capsys.readouterr().out
    assert "failed: " in text and "weight_decay=0.03" in text and "torch-for-loop has 0x" in text
    assert " ulp of fp32 off; torch-foreach is identical there" in text and "(group 1: lr=0.025 " in text
    assert "no option nesterov (" in text and " unsupported, 0 not run" in text
    html = page.read_text()
    assert f"python -m bench conform --quick --provider {target}" in html and "compared with torch-for-loop" in html
    assert all(f"<td>{word}</td>" in html for word in ("wide", "offset", "strides")) and "no option nesterov" in html
    assert "First mismatches" in html and "0x" in html and "http" not in html.replace("http://www.w3.org", "")
    assert int(ElementTree.parse(junit).getroot()[0].get("failures") or 0) > 0


def test_a_claim_of_a_distance(capsys: pytest.CaptureFixture[str]) -> None:
    one = ("--provider", "torch-foreach", "--optimizer", "Adam", "--dtype", "fp32")
    assert conform(*one, "--ulp", "4") == 0
    assert conform(*one, "--ulp", "0") == 1
    assert "float64 has 0x" in capsys.readouterr().out
    assert conform(*one, "--against", "reference-foreach") == 1


def test_ours_claim_their_recipes() -> None:
    chosen = ("--provider", "kernels-for-loop[interpreter]", "--provider", "kernels-for-loop")
    assert conform(*chosen, "--optimizer", "Adagrad", "--dtype", "bf16") == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--provider", "tests.no_such:Thing", "--optimizer", "SGD"), "cannot be imported"),
        (("--provider", f"{EXAMPLES}:Missing", "--optimizer", "SGD"), "has no Missing"),
        (("--provider", f"{EXAMPLES}:NOT_AN_OPTIMIZER", "--optimizer", "SGD"), "not a subclass"),
        (("--provider", f"{EXAMPLES}:RightSGD"), "--optimizer"),
        (("--provider", "torch-foreech"), "did you mean torch-foreach?"),
        (("--provider", "kernels-fused[triton]"), "needs CUDA"),
        (("--provider", "apex"), "cuda"),
        (("--against", "reference-nothing"), "--against"),
        (("--optimizer", "ADAMM"), "did you mean Adam?"),
        (("--dtype", "fp64"), "--dtype"),
        (("--ulp", "-1"), "--ulp"),
        *((("--minutes", value), "--minutes") for value in ("0", "nan", "inf")),
        *(
            (("--provider", name, "--optimizer", "SGD"), "give module:Class, a module's full name")
            for name in (":", "a:", ":b", "../a:B", ".a:B", "a:b:c", "a..b:C")
        ),
        (("--out", "/proc/nowhere.json"), "cannot be written"),
        (("--junit", "/proc/nowhere.xml"), "cannot be written"),
        (("--out", "page.pdf"), ".json or .html"),
        (("--junit", "rows.json"), ".xml"),
        (("--provider", "torch-fused", "--optimizer", "RMSprop"), "nothing could be compared"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert conform(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert complaint in captured.err


def test_list_names_every_provider_and_why_one_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    rows = {row["provider"]: row["here"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["torch-foreach"] == rows["kernels-fused[interpreter]"] == "yes"
    assert "CUDA" in rows["kernels-fused[triton]"] and "cuda" in rows["apex"]
    assert {"optimi", "bitsandbytes", "torchao", "flag_gems", "torch-compiled"} <= set(rows)


# -- cases -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["foreach", "for-loop", "fused"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_scale_equivariance_of_ours(optimizer: str, recipe: str) -> None:
    if recipe not in registered(optimizer).recipes:
        return
    ours = Ours(recipe=recipe)
    for options in option_sets(optimizer)[:6]:
        for power in (6, -5):
            case = Case(optimizer=optimizer, recipe=recipe, options=options, layout="one", steps=3, power=power)
            assert run_case(case, ours, ours, CPU).outcome == "identical", case


def test_an_unmapped_eps_is_not_equivariant() -> None:
    class FixedEps(torch.optim.Adam):
        def __init__(self, params, **options):  # type: ignore[no-untyped-def]
            super().__init__(params, **{**options, "eps": 1e-3})

    provider = OneClass(made=FixedEps)
    case = Case(optimizer="Adam", options={"lr": 0.01}, layout="one", steps=2, power=6)
    assert run_case(case, provider, provider, CPU).outcome == "mismatch"
