"""Verdicts on claims: what holds, fails, stays unresolved or is not judged, and that no claim is dropped."""

import math

import numpy as np
import pytest

from lossscale import studies
from lossscale.analysis.judging import Lines, judge
from lossscale.analysis.measured import Measured
from lossscale.design.claims import Claim, Relation
from lossscale.design.study import Study
from lossscale.design.verdicts import COLUMNS

HALF = Claim(id="S9.test.1", says="It is a half.", predicted=0.5, tolerance=0.1)
SMALL = Claim(id="S9.test.2", says="It is small.", predicted=1e-3, relation=Relation.AT_MOST)
MANY = Claim(id="S9.test.3", says="There are many.", predicted=0.9, relation=Relation.AT_LEAST)
OWN = Claim(id="S9.test.4", says="Every line has its own.", tolerance=None, relative=True)
STUDY = Study(name="test", title="", shows="", cost="", claims=(HALF, SMALL, MANY, OWN))


@pytest.mark.parametrize(
    ("claim", "value", "lo", "hi", "verdict"),
    [
        (HALF, 0.58, math.nan, math.nan, "holds"),
        (HALF, 0.61, math.nan, math.nan, "fails"),
        (HALF, 0.5, 0.45, 0.55, "holds"),
        (HALF, 0.5, 0.35, 0.55, "unresolved"),
        (HALF, 0.7, 0.65, 0.75, "fails"),
        (HALF, math.nan, math.nan, math.nan, "fails"),
        (SMALL, 0.0, math.nan, math.nan, "holds"),
        (SMALL, 1e-4, 0.0, 2e-3, "unresolved"),
        (MANY, 0.95, 0.91, 0.99, "holds"),
        (MANY, 0.8, 0.7, 0.85, "fails"),
        (MANY, math.inf, math.nan, math.nan, "fails"),
    ],
)
def test_an_interval_decides(claim: Claim, value: float, lo: float, hi: float, verdict: str) -> None:
    assert claim.predicted is not None and claim.tolerance is not None
    assert judge(claim, Measured(value=value, lo=lo, hi=hi), claim.predicted, claim.tolerance) == verdict


def test_exact_claims_are_judged_by_the_number_whatever_the_interval() -> None:
    every = Claim(id="S9.test.5", says="All do.", predicted=1.0)
    assert judge(every, Measured.share(1024, 1024), 1.0, 0.0) == "holds"
    assert judge(every, Measured.share(1023, 1024), 1.0, 0.0) == "fails"


def test_measured_numbers_have_exact_intervals() -> None:
    share = Measured.share(0, 1024)
    assert (share.value, share.lo, share.count) == (0.0, 0.0, 1024)
    assert 0.0035 < share.hi < 0.0037  # Clopper and Pearson: 1 - 0.025 ** (1 / 1024)
    median = Measured.median([3.0, 1.0, 2.0, math.inf, 5.0, 4.0, 6.0])
    assert (median.value, median.lo, median.hi, median.count) == (3.5, 1.0, 6.0, 6)
    assert math.isnan(Measured.median([]).value) and Measured.share(0, 0).count == 0


def test_p_values_belong_to_the_intervals() -> None:
    """What lies just beyond an end has 5 % or less, what lies just within it more."""
    sample = np.random.default_rng(3).normal(size=200)
    for found in (
        Measured.share(37, 200),
        Measured.share(0, 200),
        Measured.median(sample),
        Measured.quantile(sample, 0.9),
        Measured.border([*sample, math.inf, -math.inf], 0.25),
        Measured.mean(sample),
        Measured.mean(sample).over(2.0),
    ):
        for end, sign in ((found.lo, -1.0), (found.hi, 1.0)):
            if sign < 0 and found.lo == 0.0:
                continue
            beyond, within = end + sign * 1e-9, end - sign * 1e-9
            assert found.p_within(*sorted((beyond, sign * 9.0))) <= 0.05, (found, end)
            assert found.p_within(*sorted((within, sign * 9.0))) > 0.05, (found, end)
    assert Measured.median(sample).p_within(-math.inf, math.inf) == 1.0
    assert math.isnan(Measured(value=1.0, lo=0.0, hi=2.0).p_within(0.0, 1.0))


def test_a_difference_of_quantiles_reaches_from_end_to_end() -> None:
    values = np.arange(1000.0)
    found = Measured.difference(values + 100.0, 0.5, values, 0.5)
    # Ranks of the median at 97.5 %: 500 ∓ 36.
    assert (found.value, found.lo, found.hi, found.count) == (100.0, 29.0, 171.0, 1000)


@pytest.mark.parametrize(
    ("hits", "verdicts"),
    [
        # Against at most .5 of 100, p-values 2 · P(B ≥ 61) = .0352 and 2 · P(B ≥ 63) = .0120. Alone either fails; of
        # two, .0120 · 2 and .0352 · 1 do; of three with one that holds, .0120 · 3 does and .0352 · 2 does not; with two
        # that hold, .0120 · 4 still does.
        ([61], ["fails"]),
        ([61, 63], ["fails", "fails"]),
        ([61, 63, 20], ["unresolved", "fails", "holds"]),
        ([20, 63, 61, 20], ["holds", "fails", "unresolved", "holds"]),
        ([61, 20, 63, 20, 20], ["unresolved", "holds", "unresolved", "holds", "holds"]),
    ],
)
def test_a_cell_fails_by_holm_among_all_of_its_claims(hits: list[int], verdicts: list[str]) -> None:
    half = Claim(id="S9.test.6", says="At most a half.", predicted=0.5, relation=Relation.AT_MOST)
    lines = Lines(Study(name="test", title="", shows="", cost="", claims=(half, SMALL)))
    for count in hits:
        lines.add("share", Measured.share(count, 100), half)
    # What a number judges, and other claims, are no part of the family.
    lines.add("share", 0.0, half)
    lines.add("share", Measured.share(0, 10_000), SMALL)
    assert lines.frame()["verdict"].tolist() == [*verdicts, "holds", "holds"]


def test_no_claim_is_dropped_and_none_is_made_up() -> None:
    lines = Lines(STUDY)
    assert lines.add("share", 0.5, HALF, optimizer="adam", scale=2.0) == "holds"
    assert lines.add("share", 2e-3, SMALL, reason="nothing moved") == "not judged"
    assert lines.add("ratio", Measured(value=2.02), OWN, predicted=2.0, tolerance=0.02) == "holds"
    assert lines.add("ratio", 7.0) == "no prediction"
    with pytest.raises(ValueError, match=r"no line judges S9\.test\.3"):
        lines.frame()
    with pytest.raises(ValueError, match="give predicted and tolerance"):
        lines.add("ratio", 1.0, OWN)
    with pytest.raises(ValueError, match="not among the claims"):
        lines.add("share", 1.0, Claim(id="S9.test.9", says="", predicted=1.0))
    with pytest.raises(ValueError, match="colour: no column"):
        lines.add("share", 1.0, colour="red")
    lines.add("share", 0.99, MANY)
    frame = lines.frame()
    assert tuple(frame.columns) == COLUMNS and list(frame["prediction"][:2]) == [HALF.id, SMALL.id]
    assert frame["reason"][1] == "nothing moved" and frame["policy"][0] == "fp32" and frame["scale"][0] == 2.0


def test_every_prediction_of_every_study_has_an_id_of_its_own_kind() -> None:
    for study in studies.every():
        names = [item.id for item in (*study.predictions, *study.claims)]
        assert len(set(names)) == len(names), study.name
        assert all(name[0] == "S" and name.count(".") in (1, 2) for name in names), names
