import json
import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from bench.__main__ import main
from bench.conformance import claims
from bench.conformance.cases import Case
from bench.conformance.compare import run_case
from bench.conformance.drift import measurable, run_drift
from bench.conformance.option_sets import option_sets
from bench.conformance.report import document as report
from bench.conformance.report.junit import junit_xml
from bench.conformance.report.page import conformance_page
from bench.conformance.rows import Outcome, Row
from bench.conformance.testing import OptimizerConformance
from bench.optimizers import registered
from bench.providers import Ours, TorchOptim
from bench.providers.foreign import Foreign
from bench.providers.rule_lines import rule_line
from bench.providers.user import OneClass, UserClass
from tests.bench.example_optimizers import Replacing, RightSGD, WrongSGD

CPU = torch.device("cpu")
FOREACH = TorchOptim(implementation="foreach")
EXAMPLES = "tests.bench.example_optimizers"

if os.environ.get("TRITON_INTERPRET") == "1":
    # The suite starts interpreting and compiling workers as its providers need them, from a process that compiles.
    pytest.skip("starts its own workers", allow_module_level=True)


class TestRightSGD(OptimizerConformance):
    """The pytest class, as a user writes it."""

    optimizer_class, optimizer = RightSGD, "SGD"
    against = "reference-foreach"
    # On a CPU torch's low-precision sums round in their own way.
    dtypes = ("fp32",)


class TestTorchAdamNearFloat64(OptimizerConformance):
    optimizer_class, optimizer = torch.optim.Adam, "Adam"
    against, ulp, dtypes = "float64", 32, ("fp32",)


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
    outcomes = {row["outcome"] for row in document["rows"] if row["against"] == "reference-foreach"}
    assert outcomes == {"identical", "unsupported"}
    assert {"identical to reference-foreach"} <= {cell["claim"] for cell in document["claims"]}
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
    assert "failed: " in text and "weight_decay=0.03" in text and "reference-foreach has 0x" in text
    html = page.read_text()
    assert "First mismatches" in html and "0x" in html and "http" not in html.replace("http://www.w3.org", "")
    assert int(ElementTree.parse(junit).getroot()[0].get("failures") or 0) > 0


def test_a_claim_of_a_distance(capsys: pytest.CaptureFixture[str]) -> None:
    one = ("--provider", "torch-foreach", "--optimizer", "Adam", "--dtype", "fp32")
    assert conform(*one, "--ulp", "64") == 0
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
        (("--minutes", "0"), "--minutes"),
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


# -- distances, claims, reports --------------------------------------------------------------------


def test_drift_counts_ulp_of_one_step() -> None:
    case = Case(optimizer="Adam", options={"lr": 0.01}, layout="edges", steps=10)
    row = run_drift(case, FOREACH, CPU)
    assert row.outcome == "close" and 0 < row.max_ulp < 8 and row.against == "float64"
    assert sum(row.histogram.values()) == 10 * 5327
    assert run_drift(case, FOREACH, CPU, allowed=0).outcome == "mismatch"
    assert run_drift(replace(case, optimizer="SGD", options={"lr": 0.01}), FOREACH, CPU).max_ulp <= 1
    wrong = run_drift(
        replace(case, optimizer="SGD", options={"lr": 0.1, "weight_decay": 0.1}), OneClass(made=WrongSGD), CPU
    )
    assert wrong.max_ulp > 1000


def test_what_has_no_float64_counterpart_is_not_measured() -> None:
    plain = Case(optimizer="Adam", options={"lr": 0.01})
    assert measurable(plain)
    for change in ({"values": "special"}, {"power": 3}, {"grad_scale": 2.0}, {"idle": True}, {"keep_gradients": True}):
        assert not measurable(replace(plain, **change))  # type: ignore[arg-type]


def test_replaced_parameters_are_a_failure() -> None:
    row = run_case(Case(optimizer="SGD", options={"lr": 0.1}), OneClass(made=Replacing), FOREACH, CPU)
    assert row.outcome == "error" and "replaced parameters" in row.detail


def test_options_that_a_class_lacks_are_unsupported() -> None:
    case = Case(optimizer="SGD", options={"lr": 0.1, "nesterov": True, "momentum": 0.9})
    row = run_case(case, OneClass(made=RightSGD), FOREACH, CPU)
    assert row.outcome == "unsupported" and "nesterov" in row.detail


def row_of(**fields: object) -> Row:
    values = {
        **{"provider": "mine", "against": "torch-foreach", "optimizer": "Adam", "options": "lr=1", "recipe": "foreach"},
        **{
            "dtype": "fp32",
            "shape": "one",
            "values": "normal",
            "steps": 1,
            "outcome": "identical",
            "option_set": "lr=1",
        },
    }
    given = {**values, **fields}
    return Row(**{**given, "outcome": Outcome(given["outcome"])})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "claim", "scaling"),
    [
        ([{}, {}], "identical to torch-foreach", ""),
        (
            [{}, {"outcome": "mismatch"}, {"against": "float64", "outcome": "close", "max_ulp": 3}],
            "3 ulp from float64 per step",
            "",
        ),
        (
            [{"outcome": "mismatch"}, {"against": "float64", "outcome": "close", "max_ulp": 10**9}],
            "none: 1.0e+09 ulp",
            "",
        ),
        ([{"outcome": "mismatch"}], "none: 1 of 1 cases differ", ""),
        ([{}, {"outcome": "error", "detail": "Trace\nValueError: no"}], "fails: ValueError: no", ""),
        ([{"outcome": "unsupported", "detail": "no amsgrad"}], "not offered: no amsgrad", ""),
        ([{"against": "mine", "outcome": "identical"}, {}], "identical to torch-foreach", "holds"),
        ([{"against": "mine", "outcome": "mismatch"}, {}], "identical to torch-foreach", "fails"),
    ],
)
def test_the_strongest_claim(rows: list[dict[str, object]], claim: str, scaling: str) -> None:
    cells = claims.strongest([row_of(**fields) for fields in rows])
    assert [(cell["claim"], cell["scaling"]) for cell in cells] == [(claim, scaling)]


def test_the_weakest_option_decides_the_summary() -> None:
    rows = [row_of(), row_of(option_set="lr=2", outcome="mismatch"), row_of(option_set="lr=3", outcome="unsupported")]
    (line,) = claims.summary(claims.strongest(rows))
    assert (line["claim"], line["options"]) == ("none: 1 of 1 cases differ", "2 of 3")


def test_reports_escape_what_others_write() -> None:
    nasty = row_of(outcome="error", detail="<script>\x00 & more", provider="a<b")
    document = report.document([nasty], [nasty], "cpu", 0)
    assert "<script>" not in conformance_page([nasty], document)
    assert ElementTree.fromstring(junit_xml([nasty], [nasty])) is not None


def test_the_line_of_a_rule() -> None:
    found = rule_line("Adam", "foreach", "exp_avg_sq")
    assert found is not None and found["where"].startswith("algorithms/adam.py:") and found["text"].startswith("v = ")
    assert (rule_line("SGD", "foreach", "param") or {})["text"].startswith("return ops.add_scaled(p, g, minus_lr")
    assert rule_line("Adam", "foreach", "step") is None


def test_a_package_that_is_not_there_says_so() -> None:
    absent = Foreign(label="absent", module="no_such_package_at_all", classes={"Adam": "Adam"})
    assert absent.missing(CPU).startswith("not installed")
    assert absent.traits.recipe == "foreach" and absent.offers("Adam") and not absent.offers("SGD")
    assert UserClass(target=f"{EXAMPLES}:RightSGD").missing(CPU) == ""
