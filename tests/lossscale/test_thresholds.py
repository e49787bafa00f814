"""Thresholds, attribution and classes on made-up pairs whose right answer is known."""

import numpy as np
import pytest

from lossscale.analysis import attribution, phases, thresholds
from lossscale.analysis.phases import Evidence, Phase
from lossscale.analysis.thresholds import ABOVE, BELOW

POWERS = np.array([-3, -2, -1, 1, 2, 3])


def _happens(*rows: str) -> np.ndarray:
    return np.array([[letter == "x" for letter in row] for row in rows])


def test_borders_are_the_power_nearest_to_one_on_either_side() -> None:
    happens = _happens("xx....", "xxxxxx", "......", "x.x..x")
    below, above = (thresholds.borders(happens, POWERS, side) for side in (BELOW, ABOVE))
    assert below.powers.tolist() == [-2.0, -1.0, -np.inf, -1.0] and below.nonmonotone == 1
    assert above.powers.tolist() == [np.inf, 1.0, np.inf, 3.0] and above.nonmonotone == 0


def test_rows_have_quartiles_and_say_where_there_is_no_border() -> None:
    happens = np.vstack([_happens("xxx...")] * 30 + [_happens("x.....")] * 50 + [_happens("......")] * 20)
    below, above = thresholds.border_rows("run", happens, POWERS, {"policy": "fp32"})
    assert (below["q25"], below["q50"], below["q75"], below["none"]) == (-3.0, -3.0, -1.0, 20)
    assert (below["q50_lo"], below["q50_hi"]) == (-3.0, -3.0)
    assert above["none"] == 100 and above["q50"] == np.inf and above["policy"] == "fp32"


@pytest.mark.parametrize("level", [0.25, 0.5, 0.99])
def test_intervals_of_quantiles_cover(level: float) -> None:
    drawn = np.random.default_rng(0).random((400, 500))
    found = np.array([thresholds.quantile(row, level) for row in drawn])
    known = ~np.isnan(found[:, 1])
    covered = ((found[:, 1] <= level) & (level <= found[:, 2]))[known]
    assert known.all() and 0.93 < covered.mean() < 1.0
    assert np.median(found[:, 0]) == pytest.approx(level, abs=0.01)


def test_a_quantile_of_few_values_has_no_interval() -> None:
    assert np.isnan(thresholds.quantile(np.arange(5.0), 0.5)[1:]).all()


def test_outcomes_are_different_equivalent_or_open_and_bracketed() -> None:
    noise = np.random.default_rng(1).normal(size=1024)
    noise -= noise.mean()
    shifts = {-3: 0.5, -2: 0.09, -1: 0.0, 1: 0.0, 2: np.nan, 3: np.inf}
    differences = np.stack([0.3 * noise + shifts[k] for k in POWERS.tolist()], 1)
    judged = thresholds.outcomes(differences, spread=1.0)["judged"].tolist()
    assert judged == ["different", "unresolved", "equivalent", "equivalent", "different", "different"]
    assert thresholds.outcome_bracket(judged, POWERS, BELOW) == (-1.0, -3.0)
    assert thresholds.outcome_bracket(judged, POWERS, ABOVE) == (1.0, 2.0)
    # 2.2 standard errors beyond the margin: different by itself, not among ten.
    one = 0.3 * noise + 0.1 + 2.2 * 0.3 * noise.std(ddof=1) / 32
    alone = thresholds.outcomes(one[:, None], spread=1.0)["judged"].tolist()
    among = thresholds.outcomes(np.stack([one, *[0.3 * noise] * 9], 1), spread=1.0)["judged"].tolist()
    assert alone == ["different"] and among == ["unresolved", *["equivalent"] * 9]


def test_windows_count_the_powers_between_borders_and_say_when_the_grid_ends_first() -> None:
    assert thresholds.window_binades(-2.0, 3.0, POWERS) == (4, False)
    assert thresholds.window_binades(-np.inf, 1.0, POWERS) == (4, True)


def _f(**values: float) -> np.ndarray:
    return np.array([[values[attribution.subset_name(subset) or "none"]] for subset in attribution.SUBSETS])


def test_shares_add_up_whatever_the_distances() -> None:
    distances = np.random.default_rng(2).lognormal(-3, 4, size=(8, 100))
    f = attribution.binades_above_floor(distances, 1e-4)
    deviating = f[:, f[0] > 0]
    split, unexplained = attribution.shares(deviating)
    assert np.allclose(split.sum(0) + unexplained, 1.0, atol=1e-12)
    assert (split < 0).any()  # a repair that makes it worse is shown as that


def test_two_causes_of_which_each_suffices_share_and_are_joint() -> None:
    f = _f(none=8, E=8, V=8, G=8, EV=0, EG=8, VG=8, EVG=0)
    split, unexplained = attribution.shares(f)
    assert split[:, 0] == pytest.approx([0.5, 0.5, 0.0]) and unexplained[0] == 0
    assert attribution.single_cause(f).tolist() == ["joint"]


def test_one_cause_has_all_of_it() -> None:
    f = _f(none=8, E=0, V=8, G=8, EV=0, EG=0, VG=8, EVG=0)
    split, _ = attribution.shares(f)
    assert split[:, 0] == pytest.approx([1.0, 0.0, 0.0])
    assert attribution.single_cause(f).tolist() == ["E"]
    assert attribution.single_cause(np.zeros((8, 1))).tolist() == [""]


def test_distances_are_clipped_and_a_floor_of_nothing_is_refused() -> None:
    f = attribution.binades_above_floor(np.array([np.nan, np.inf, 1e9, 0.25, 0.1]), 0.25)
    assert f.tolist() == [*[np.log2(4000.0)] * 3, 0.0, 0.0]
    with pytest.raises(ValueError, match="floor 0"):
        attribution.binades_above_floor(np.ones(1), 0.0)


def test_classes_are_the_first_that_applies() -> None:
    every = {
        "reference": True,
        "finite": True,
        "exact": True,
        "distance": 0.0,
        "range_events": True,
        "repaired_distance": 0.0,
        "rho": 1.0,
        "mapped": True,
    }
    steps = [
        ({"reference": False}, Phase.NO_REFERENCE),
        ({"finite": False}, Phase.NON_FINITE),
        ({}, Phase.EXACT),
        ({"exact": False}, Phase.ROUNDING),
        ({"exact": False, "distance": 1.0, "repaired_distance": 0.5}, Phase.RANGE),
        ({"exact": False, "distance": 1.0, "repaired_distance": 0.6}, Phase.SGD_LIKE),
        ({"exact": False, "distance": 1.0, "range_events": False}, Phase.SGD_LIKE),
        ({"exact": False, "distance": 1.0, "range_events": False, "rho": 0.4}, Phase.EPS_BIASED),
        (
            {"exact": False, "distance": 1.0, "range_events": False, "rho": np.nan, "mapped": False},
            Phase.UNEXPLAINED,
        ),
    ]
    columns = {name: np.array([{**every, **changed}[name] for changed, _ in steps]) for name in every}
    assert phases.classify(Evidence(**columns), floor=0.1).tolist() == [phase for _, phase in steps]


def test_majorities_have_their_votes_and_ties_go_to_the_first_class() -> None:
    phase, votes = phases.majority(np.array([[3, 3, 4, 8], [6, 4, 6, 4]], np.int8))
    assert phase.tolist() == [3, 4] and votes.tolist() == [2, 2]
