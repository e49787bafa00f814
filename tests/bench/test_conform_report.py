"""What `bench conform` says of its rows: distances, claims, sentences, counts, pages."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from bench.conformance import claims
from bench.conformance.cases import LAYOUT_NOTES, LAYOUTS, VALUE_NOTES, VALUES, Case
from bench.conformance.compare import run_case
from bench.conformance.drift import measurable, run_drift
from bench.conformance.execution import Comparing
from bench.conformance.option_sets import option_sets
from bench.conformance.report import document as report
from bench.conformance.report.junit import junit_xml
from bench.conformance.report.page import conformance_page
from bench.conformance.rows import Outcome, Row
from bench.conformance.selection import conform_cases
from bench.conformance.suite import entrant, measured
from bench.providers import TorchOptim
from bench.providers.foreign import Foreign
from bench.providers.rule_lines import rule_line
from bench.providers.user import OneClass, UserClass
from lossscale.support.output import Output
from tests.bench.example_optimizers import Replacing, RightSGD, SlightlyOff, WrongSGD

CPU = torch.device("cpu")
FOREACH = TorchOptim(implementation="foreach")
EXAMPLES = "tests.bench.example_optimizers"


def test_drift_counts_ulp_of_one_step() -> None:
    case = Case(optimizer="Adam", options={"lr": 0.01}, layout="edges", steps=10)
    row = run_drift(case, FOREACH, CPU)
    assert row.outcome == "close" and 0 < row.max_ulp <= 4 and row.against == "float64"
    assert sum(row.histogram.values()) == 10 * 5327
    assert run_drift(case, FOREACH, CPU, allowed=0).outcome == "mismatch"
    assert run_drift(replace(case, optimizer="SGD", options={"lr": 0.01}), FOREACH, CPU).max_ulp <= 1
    wrong = run_drift(
        replace(case, optimizer="SGD", options={"lr": 0.1, "weight_decay": 0.1}), OneClass(made=WrongSGD), CPU
    )
    assert wrong.max_ulp > 1000


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_torch_itself_is_within_four_ulp(optimizer: str) -> None:
    provider = TorchOptim(implementation="for-loop")
    cases = [
        case
        for dtype in ("fp32", "bf16")
        for case in measured(conform_cases(optimizer, "foreach", quick=True, dtypes=(dtype,)))
    ]
    assert len({case.option_set() for case in cases}) == len(option_sets(optimizer))
    assert max(run_drift(case, provider, CPU).max_ulp for case in cases) <= 4


def test_a_unit_is_what_half_an_ulp_of_the_inputs_does() -> None:
    # Decay and gradient cancel, so that a rounding of their sum is all that is left of it: nobody can be near.
    options = {"lr": 0.3, "betas": (0.8, 0.9), "eps": 1e-5, "weight_decay": 0.2}
    case = Case(optimizer="Adam", options=options, layout="edges", steps=3)
    assert run_drift(case, TorchOptim(implementation="for-loop"), CPU).max_ulp <= 4
    # A factor that is off by 2^-12 is no rounding.
    assert run_drift(case, OneClass(made=SlightlyOff), CPU).max_ulp > 100


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


def test_a_class_is_held_against_torch_itself() -> None:
    user = UserClass(target="torch.optim:AdamW")
    assert user.against(CPU) == "torch-for-loop" and user.against(torch.device("cuda")) == "torch-foreach"
    one = entrant(user, CPU, against=None, allowed=None, chosen=False)
    assert (one.claims_identity, one.reference("AdamW").name) == (True, "torch-for-loop")
    assert one.reference("AdamAtan2").name == "reference-foreach"
    for case in conform_cases("AdamW", "foreach", quick=True):
        if not case.power:
            assert run_case(case, user, one.reference("AdamW"), CPU).outcome == "identical", case


def test_a_failing_line_names_groups_the_largest_difference_and_torchs_own() -> None:
    case = Case(optimizer="SGD", options={"lr": 0.1, "weight_decay": 0.1}, layout="offset", groups=3, steps=1)
    work = Comparing(provider=OneClass(made=WrongSGD), against=FOREACH, device="cpu", claimed=True)
    row = work(case)
    first = row.first_mismatch
    assert first is not None
    text = report.sentence(row)
    assert (
        "(group 1: lr=0.05 weight_decay=0.01; group 2: lr=0.03333333333333333 weight_decay=0.02) [offset/normal" in text
    )
    assert f"largest difference at param[{first.largest['index']}]" in text and first.largest["ulp"] == row.max_ulp
    assert text.endswith(f"{row.max_ulp} ulp of fp32 off; torch-for-loop is identical there")
    assert row.as_dict()["first_mismatch"]["largest"]["quantity"] == "param"
    assert report.sentence(replace(row, max_ulp=2**63 - 1)).count("NaN or infinite on one side") == 1
    far = Comparing(provider=OneClass(made=WrongSGD), against=None, device="cpu", allowed=4, claimed=True)(case)
    assert re.search(r"ulp of fp32 off; torch-for-loop .*[0-4] ulp of fp32 off there$", report.sentence(far))


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


def test_an_option_that_could_not_be_held_against_the_reference_weakens_nothing() -> None:
    far = row_of(option_set="lr=2", against="float64", outcome="close", max_ulp=2)
    rows = [row_of(), row_of(option_set="lr=2", outcome="unsupported"), far]
    (line,) = claims.summary(claims.strongest(rows))
    assert (line["claim"], line["options"]) == ("identical to torch-foreach", "1 of 2")
    (alone,) = claims.summary(claims.strongest(rows[1:]))
    assert alone["claim"] == "2 ulp from float64 per step"


def test_reports_escape_what_others_write() -> None:
    nasty = row_of(outcome="error", detail="<script>\x00 & more", provider="a<b")
    document = report.document([nasty], [nasty], "cpu", 0)
    assert "<script>" not in conformance_page([nasty], document)
    assert ElementTree.fromstring(junit_xml([nasty], [nasty])) is not None


def test_counts_say_what_was_compared_and_why_the_rest_was_not(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        *(row_of(), row_of(outcome="mismatch"), row_of(outcome="timeout", detail="hung")),
        *(row_of(outcome="unsupported", detail="no option amsgrad") for _ in range(3)),
        row_of(outcome="no reference", detail="Trace\nValueError: no"),
    ]
    document = report.document(rows, [], "cpu", 5)
    assert document["coverage"] == {
        **{"compared": 2, "broke": 1, "unsupported": 3, "no_reference": 1, "missing": 0, "not_run": 5},
        "reasons": {"mine": {"no option amsgrad": 3, "ValueError: no": 1}},
    }
    counts = "2 compared, 3 unsupported, 5 not run, 1 raised or hung, 1 without a reference"
    with Output(as_json=False) as output:
        report.show(output, document, rows, [])
    text = capsys.readouterr().out
    assert f"7 comparisons: {counts}" in text and "mine: no option amsgrad (3), ValueError: no (1)" in text
    assert "not tested" in text and "3 of 7" in text
    html = conformance_page(rows, document)
    assert counts in html and "no option amsgrad" in html and "2^k not tested" in html and "–" not in html


def test_every_layout_and_value_is_explained() -> None:
    assert set(LAYOUT_NOTES) == set(LAYOUTS) and set(VALUE_NOTES) == set(VALUES)


def test_the_line_of_a_rule() -> None:
    found = rule_line("Adam", "foreach", "exp_avg_sq")
    assert found is not None and found["where"].startswith("algorithms/adam.py:") and found["text"].startswith("v = ")
    assert (rule_line("SGD", "foreach", "param") or {})["text"].startswith("return ops.add_scaled(p, g, minus_lr")
    assert rule_line("Adam", "foreach", "step") is None


def test_what_a_package_says_when_it_loads_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = "import os, sys, warnings\nprint('a')\nsys.stderr.write('b')\nos.write(2, b'c')\nos.write(1, b'd')\n"
    (tmp_path / "noisy_optimizers.py").write_text(words + "warnings.warn('no GPU')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Foreign(label="noisy", module="noisy_optimizers", classes={}).missing(CPU) == ""
    assert capfd.readouterr() == ("", "")
    print("after")
    assert capfd.readouterr() == ("after\n", "")


def test_a_package_that_is_not_there_says_so() -> None:
    absent = Foreign(label="absent", module="no_such_package_at_all", classes={"Adam": "Adam"})
    assert absent.missing(CPU).startswith("not installed")
    assert absent.traits.recipe == "foreach" and absent.offers("Adam") and not absent.offers("SGD")
    assert UserClass(target=f"{EXAMPLES}:RightSGD").missing(CPU) == ""
