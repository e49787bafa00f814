"""Verdicts, counts and words, from made-up pairs whose answers are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lossscale.design.study import Prediction
from lossscale.design.verdicts import COLUMNS
from lossscale.runs.summary import failed_predictions, read_summary, summary_text
from tests.lossscale.summaries import PairMaker, line_of, summary_of


def test_columns_and_names_of_the_summary(make_pairs: PairMaker, cell_key: Any) -> None:
    summary = summary_of(cell_key(options="eps=0.001"), make_pairs("mapped", "base", 2.0))
    assert tuple(summary.columns) == COLUMNS
    assert set(summary["quantity"]) >= {
        *("identical_share", "median_rel_distance", "median_differing_bits", "max_ulp", "update_norm_ratio", "moved"),
        *("state_identical_share", "eps_over_r_q05", "eps_over_r_q50", "eps_over_r_q95", "v_zero_share"),
        *("loss_arm", "loss_against", "smallest_grad"),
    }
    first = summary.iloc[0]
    assert (first["study"], first["network"], first["optimizer"], first["options"]) == (
        "loss-vs-lr",
        "mlp-6-6-1",
        "adam",
        "eps=0.001",
    )


def test_a_mapped_share_of_one_holds_and_one_differing_pair_fails(make_pairs: PairMaker, cell_key: Any) -> None:
    good = make_pairs("mapped", "base", 4.0)
    bad = make_pairs("mapped", "base", 2.0, identical=[True] * 7 + [False], rel_distance=[0.0] * 7 + [1e-7])
    summary = summary_of(cell_key(), good, bad)
    held, failed = line_of(summary, "identical_share", scale=4.0), line_of(summary, "identical_share", scale=2.0)
    assert (held["measured"], held["predicted"], held["verdict"]) == (1.0, 1.0, "holds")
    assert (failed["measured"], failed["verdict"]) == (0.875, "fails")
    assert (failed["lo"], failed["hi"]) == pytest.approx((0.473490, 0.996840), abs=1e-6)  # 7 of 8, exact


def test_no_bits_are_predicted_for_other_scales_or_other_arms(make_pairs: PairMaker, cell_key: Any) -> None:
    summary = summary_of(
        cell_key(), make_pairs("mapped", "base", 10.0, identical=False), make_pairs("ulp", "base", 1.0, identical=False)
    )
    assert set(summary["verdict"]) == {"no prediction"}
    assert summary["predicted"].isna().all()


@pytest.mark.parametrize(
    ("optimizer", "options", "scale", "verdict"),
    [
        ("sgd", "", 2.0, "fails"),
        ("sgd", "momentum=0.9", 0.25, "fails"),
        ("sgd", "", 10.0, "no prediction"),
        ("sgd", "weight_decay=0.1", 2.0, "no prediction"),
        ("adam", "", 2.0, "no prediction"),
    ],
)
def test_loss_against_lr_is_predicted_for_sgd_without_decay(
    make_pairs: PairMaker, cell_key: Any, optimizer: str, options: str, scale: float, verdict: str
) -> None:
    summary = summary_of(
        cell_key(optimizer=optimizer, options=options), make_pairs("loss", "lr", scale, identical=False)
    )
    assert line_of(summary, "identical_share")["verdict"] == verdict


def test_a_null_pair_that_never_moved_proves_nothing(make_pairs: PairMaker, cell_key: Any) -> None:
    still = summary_of(cell_key(), make_pairs("null", "base", 1.0, moved=[0.0] * 5 + [0.1] * 3))
    assert line_of(still, "identical_share")["verdict"] == "not judged"
    assert line_of(still, "identical_share")["predicted"] == 1.0
    moved = summary_of(cell_key(), make_pairs("null", "base", 1.0, moved=[0.0] * 3 + [0.1] * 5))
    assert line_of(moved, "identical_share")["verdict"] == "holds"


def test_non_finite_pairs_are_counted_and_enter_no_number(make_pairs: PairMaker, cell_key: Any) -> None:
    pairs = make_pairs(
        "loss",
        "base",
        10.0,
        identical=False,
        nonfinite=[0] * 6 + [49, 3],
        rel_distance=[0.5] * 6 + [np.nan, np.inf],
        loss_arm=[1.0] * 6 + [np.nan, np.inf],
        update_norm_ratio=[1.0] * 6 + [1e30, np.nan],
    )
    summary = summary_of(cell_key(), pairs)
    assert set(summary["nonfinite_pairs"]) == {2}
    assert set(summary["pairs"]) == {6}
    for quantity, expected in (
        ("median_rel_distance", 0.5),
        ("loss_arm", 1.0),
        ("update_norm_ratio", 1.0),
        ("identical_share", 0.0),
    ):
        assert line_of(summary, quantity)["measured"] == expected


def test_an_overflow_in_one_of_two_mapped_runs_fails_though_it_is_not_averaged(
    make_pairs: PairMaker, cell_key: Any
) -> None:
    alike = make_pairs("mapped", "base", 2.0, nonfinite=[0] * 7 + [49])
    unlike = make_pairs("mapped", "base", 4.0, nonfinite=[0] * 7 + [49], identical=[True] * 7 + [False])
    summary = summary_of(cell_key(), alike, unlike)
    assert line_of(summary, "identical_share", scale=2.0)["verdict"] == "holds"
    failed = line_of(summary, "identical_share", scale=4.0)
    assert (failed["measured"], failed["verdict"]) == (1.0, "fails")


def test_a_cell_without_a_finite_pair_stays_in_the_summary(make_pairs: PairMaker, cell_key: Any) -> None:
    summary = summary_of(cell_key(), make_pairs("loss", "base", 10.0, nonfinite=1, identical=False))
    line = line_of(summary, "identical_share")
    assert (line["pairs"], line["nonfinite_pairs"], line["verdict"]) == (0, 8, "no prediction")
    assert np.isnan(line["measured"])


@pytest.mark.parametrize(
    ("off", "tolerance", "verdict"),
    [
        (1e-6, 1e-5, "holds"),
        (1e-4, 1e-5, "fails"),
        (1e-4, 0.5, "not judged"),  # resolves nothing
        (1e-4, np.nan, "not judged"),
    ],
)
def test_each_pair_must_meet_the_closed_form_within_its_own_bound(
    make_pairs: PairMaker, cell_key: Any, off: float, tolerance: float, verdict: str
) -> None:
    predicted = np.linspace(0.5, 1.5, 8)
    measured = predicted.copy()
    measured[3] *= 1 + off  # one pair of eight: no median would show it
    pairs = make_pairs(
        "loss",
        "base",
        10.0,
        identical=False,
        update_norm_ratio=measured,
        predicted_update_norm_ratio=predicted,
        update_norm_ratio_tolerance=tolerance,
    )
    summary = summary_of(cell_key(), pairs)
    line = line_of(summary, "update_norm_ratio")
    assert line["verdict"] == verdict
    assert line["predicted"] == pytest.approx(1.0)
    assert line_of(summary, "update_norm_ratio_error")["measured"] == pytest.approx(off, rel=1e-3)


def test_only_the_first_step_has_a_predicted_update_norm(make_pairs: PairMaker, cell_key: Any) -> None:
    columns = {"predicted_update_norm_ratio": 2.0, "update_norm_ratio_tolerance": 1e-6}
    summary = summary_of(
        cell_key(), make_pairs("loss", "base", 10.0, **columns), make_pairs("loss", "base", 10.0, step=50, **columns)
    )
    verdicts = summary[summary["quantity"] == "update_norm_ratio"].set_index("step")["verdict"]
    assert verdicts.to_dict() == {1: "fails", 50: "no prediction"}


def test_a_single_tolerance_judges_the_median(make_pairs: PairMaker, cell_key: Any) -> None:
    predictions = (
        Prediction(
            id="T.1",
            quantity="loss_arm",
            predicted=0.5,
            tolerance=0.1,
            relative=True,
            applies=lambda cell: True,
            why="",
        ),
        Prediction(
            id="T.2",
            quantity="loss_arm",
            predicted=9.0,
            tolerance=0.0,
            applies=lambda cell: True,
            why="never reached: the first counts",
        ),
        Prediction(
            id="T.2",
            quantity="update_norm_ratio",
            predicted="v_zero_share",
            tolerance=0.8,
            applies=lambda cell: True,
            why="",
        ),
    )
    summary = summary_of(
        cell_key(), make_pairs("loss", "base", 2.0, loss_arm=[0.54] * 5 + [9.0] * 3), predictions=predictions
    )
    assert line_of(summary, "loss_arm")["verdict"] == "holds"
    assert line_of(summary, "update_norm_ratio")["verdict"] == "holds"  # |1 - 0.25| <= 0.8, absolute
    worse = summary_of(cell_key(), make_pairs("loss", "base", 2.0, loss_arm=0.56), predictions=predictions)
    assert line_of(worse, "loss_arm")["verdict"] == "fails"


def test_summary_survives_the_file_and_counts_failures(make_pairs: PairMaker, cell_key: Any, tmp_path: Path) -> None:
    summary = summary_of(
        cell_key(),
        make_pairs("mapped", "base", 2.0**-20),
        make_pairs("mapped", "base", 0.5, identical=False, rel_distance=1e-7),
    )
    (tmp_path / "summary.csv").write_text(summary_text(summary))
    found = read_summary(tmp_path)
    assert list(found.columns) == list(COLUMNS)
    assert set(found["scale"]) == {2.0**-20, 0.5}
    assert (found["options"] == "").all()
    np.testing.assert_allclose(found["measured"], summary["measured"], rtol=1e-8)
    assert failed_predictions(tmp_path) == ["S2.map.1"]


def test_order_of_the_pairs_does_not_matter(make_pairs: PairMaker, cell_key: Any) -> None:
    generator = np.random.default_rng(0)
    pairs = pd.concat(
        [
            make_pairs("loss", "base", scale, step=step, rel_distance=generator.random(8))
            for scale in (0.1, 10.0)
            for step in (1, 50)
        ],
        ignore_index=True,
    )
    shuffled = pairs.sample(frac=1.0, random_state=1).reset_index(drop=True)
    assert summary_text(summary_of(cell_key(), pairs)) == summary_text(summary_of(cell_key(), shuffled))
