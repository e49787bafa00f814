"""The default study's words and counts, from made-up pairs whose answers are known."""

import json
import math
from typing import Any

import pandas as pd

from lossscale.analysis.summarize import summarize
from lossscale.design.verdicts import COLUMNS
from lossscale.report.neutral import verdict_sentence
from lossscale.studies.loss_vs_lr import STUDY
from lossscale.studies.loss_vs_lr.answers import FromPairs, answers, wide_rows
from lossscale.studies.loss_vs_lr.pairs import of_pairs
from lossscale.studies.loss_vs_lr.sentences import sentences
from tests.lossscale.summaries import PairMaker, line_of, summary_of


def _study_like(make_pairs: PairMaker, cell_key: Any, *, mapped_identical: bool = True) -> pd.DataFrame:
    """A little of the default study: SGD, where loss × s is lr × s, and Adam, where it hardly matters."""
    parts = []
    for optimizer, loss, apart in (("sgd", 0.5, False), ("adam", 0.002, True)):
        frames = [make_pairs("null", "base", 1.0), make_pairs("ulp", "base", 1.0, identical=False, rel_distance=1e-7)]
        for scale in (0.5, 2.0):
            frames += [
                make_pairs("loss", "base", scale, identical=False, rel_distance=loss if scale < 1 else loss / 1e5),
                make_pairs("lr", "base", scale, identical=False, rel_distance=0.5),
                make_pairs("loss", "lr", scale, identical=not apart, rel_distance=0.5 * apart, size_ratio=3.0),
                make_pairs("lr-ulp", "lr", scale, identical=False, rel_distance=1e-6),
                make_pairs(
                    "mapped", "base", scale, identical=mapped_identical, rel_distance=0.0 if mapped_identical else 1e-7
                ),
            ]
        parts.append((cell_key(optimizer=optimizer), pd.concat(frames, ignore_index=True)))
    return summarize(parts, "loss-vs-lr", STUDY.predictions)


def test_wide_rows_answer_the_three_questions(make_pairs: PairMaker, cell_key: Any) -> None:
    sgd, adam = wide_rows(_study_like(make_pairs, cell_key))
    assert (sgd["optimizer"], sgd["same_as_lr"], sgd["mapped_identical"]) == ("SGD", "yes 16/16", "yes 16/16")
    assert sgd["changes_training"] == "s>1 little, s<1 yes"
    assert (adam["changes_training"], adam["same_as_lr"]) == ("s>1 as small as rounding, s<1 little", "no 0/16")
    assert (adam["distance_s<1"], adam["one_ulp_control"]) == (0.002, 1e-07)
    assert (sgd["hold"], sgd["fail"], adam["fail"]) == (4, 0, 0)  # none at s = 1
    assert json.loads(json.dumps([sgd, adam], allow_nan=False))


def test_sentences_follow_the_numbers(make_pairs: PairMaker, cell_key: Any) -> None:
    changes, same, mapped = sentences(answers(_study_like(make_pairs, cell_key)))
    assert "Little for s > 1 but yes for s < 1 under SGD (s ≥ 2: 5e-06, s ≤ 0.5: 0.5)" in changes
    assert "largest median over s." in changes
    assert "Yes under SGD: 16 of 16" in same and "no under Adam: 0 of 16" in same
    assert "Yes: all 32 pairs" in mapped and "6 of 6 judged predictions hold" in mapped


def test_sentences_have_the_largest_pair_beside_the_median(make_pairs: PairMaker, cell_key: Any) -> None:
    summary = _study_like(make_pairs, cell_key)
    key = ("mlp-6-6-1", "adam", "", "foreach", "fp32")
    largest = {key: FromPairs(up=0.25, down=0.75, to_lr=1.5)}
    changes, same, _ = sentences(answers(summary, largest))
    assert "under Adam (s ≥ 2: 2e-08 to 0.25, s ≤ 0.5: 0.002 to 0.75)" in changes and "largest single pair" in changes
    assert (
        "0.25 of their mean size apart in the median, a single pair up to 1.5 (an ulp at the start of lr × s: 1e-06)"
        in same
    )


def test_the_largest_pair_is_a_finite_one_at_the_last_checkpoint(make_pairs: PairMaker) -> None:
    pairs = pd.concat(
        [
            make_pairs("loss", "base", 2.0, step=1, rel_distance=9.0),
            make_pairs(
                "loss", "base", 2.0, step=50, rel_distance=[0.1, 0.2, 8.0] + [0.0] * 5, nonfinite=[0, 0, 1] + [0] * 5
            ),
            make_pairs("loss", "lr", 2.0, step=50, rel_distance=0.5, size_ratio=3.0),
            make_pairs("lr", "base", 2.0, step=50, rel_distance=7.0),
        ]
    )
    found = of_pairs(pairs)
    assert (found.up, found.to_lr) == (0.2, 0.25) and math.isnan(found.down)


def test_pairs_that_come_together_again_do_not_agree(make_pairs: PairMaker, cell_key: Any) -> None:
    frames = [
        make_pairs(*arms, scale, step=step, identical=identical, nonfinite=[0] * 7 + [int(step == 2)])
        for arms in (("loss", "lr"), ("mapped", "base"))
        for scale in (0.5, 0.1)
        for step, identical in (
            (1, [True, True, True] + [False] * 4 + [True]),
            (2, [True, False, True, True] + [False] * 3 + [True]),
        )
    ]
    found = of_pairs(pd.concat(frames))
    key, summary = ("mlp-6-6-1", "adam", "", "foreach", "fp32"), summary_of(cell_key(), *frames)
    (answer,) = answers(summary, {key: found})
    assert found.agree is not None and set(found.agree.values()) == {2} and len(found.agree) == 4
    counts = (answer.same_pairs, answer.same_of, answer.elsewhere_pairs, answer.elsewhere_of)
    assert counts == (2, 7, 2, 7) and (answer.mapped_pairs, answer.mapped_of) == (2, 7)
    _, same, mapped = sentences([answer])
    assert "no under Adam: 2 of 7 agree" in same.lower().replace("adam", "Adam") and "Not always: 2 of 7" in mapped
    _, same, mapped = sentences(answers(summary))
    assert "at most 3 of 7 agree" in same and "Not always: at most 3 of 7" in mapped


def test_a_yes_to_the_last_bit_says_what_holds_at_other_scales(make_pairs: PairMaker, cell_key: Any) -> None:
    frames = [
        make_pairs("loss", "lr", 2.0),
        make_pairs("loss", "lr", 0.1, identical=[True] + [False] * 7, rel_distance=1e-7),
    ]
    (sgd,) = answers(summary_of(cell_key(optimizer="sgd"), *frames))
    assert (sgd.same_pairs, sgd.same_of, sgd.elsewhere_pairs, sgd.elsewhere_of) == (8, 8, 1, 8)
    assert (
        "8 of 8 pairs at s = 2^k" in sentences([sgd])[1]
        and "where products round, at most 1 of 8" in sentences([sgd])[1]
    )


def test_a_failure_at_scale_1_counts(make_pairs: PairMaker, cell_key: Any) -> None:
    summary = summarize(
        [(cell_key(), make_pairs("null", "base", 1.0, identical=False, rel_distance=1e-7))], "x", STUDY.predictions
    )
    (answer,) = answers(summary)
    assert (answer.hold, answer.fail) == (0, 1)


def test_sentences_say_so_when_a_prediction_fails(make_pairs: PairMaker, cell_key: Any) -> None:
    mapped = sentences(answers(_study_like(make_pairs, cell_key, mapped_identical=False)))[2]
    assert "Not always: 0 of 32" in mapped and "4 fail" in mapped and "differences under SGD and Adam" in mapped


def test_mapped_pairs_that_never_moved_are_not_counted_as_identical(make_pairs: PairMaker, cell_key: Any) -> None:
    (still,) = wide_rows(summary_of(cell_key(), make_pairs("mapped", "base", 2.0, moved=0.0)))
    assert still["mapped_identical"] == "not measured"
    frames = [
        make_pairs("mapped", "base", 2.0, moved=0.0),
        make_pairs("mapped", "base", 2.0, step=50, identical=[True] * 7 + [False]),
    ]
    (later,) = wide_rows(summary_of(cell_key(), *frames))
    assert later["mapped_identical"] == "no 7/8"


def test_an_arm_that_stood_still_while_base_trained_fails(make_pairs: PairMaker, cell_key: Any) -> None:
    summary = summary_of(cell_key(), make_pairs("mapped", "base", 2.0, moved=0.0, identical=False, rel_distance=0.1))
    assert line_of(summary, "identical_share")["verdict"] == "fails"
    assert wide_rows(summary)[0]["mapped_identical"] == "no 0/8"


def test_sentences_leave_out_what_was_not_measured(make_pairs: PairMaker, cell_key: Any) -> None:
    above = summary_of(cell_key(), make_pairs("loss", "base", 2.0, identical=False, rel_distance=0.5))
    assert "Yes for s > 1 under Adam (s ≥ 2: 0.5)." in sentences(answers(above))[0]
    neither = sentences(answers(summary_of(cell_key(), make_pairs("null", "base", 1.0))))
    assert "? Not measured under Adam." in neither[0] and "nan" not in " ".join(neither)
    # As where eps = 0: there are pairs, and none is finite.
    lost = sentences(answers(summary_of(cell_key(), make_pairs("loss", "lr", 2.0, nonfinite=9))))
    assert "No pairs of the two are finite" in lost[1] and "No such pairs are finite" in lost[2]


def test_one_cell_and_several_have_their_verbs() -> None:
    def said(*verdicts: str) -> str:
        return verdict_sentence(pd.DataFrame({"verdict": verdicts}))

    assert "1 of 3 judged cells do, 1 fails, 1 is unresolved." in said("holds", "fails", "unresolved")
    assert "0 of 4 judged cells do, 2 fail, 2 are unresolved." in said(*2 * ("fails", "unresolved"))


def test_nothing_to_say_without_pairs() -> None:
    empty = summarize([], "loss-vs-lr")
    assert list(empty.columns) == list(COLUMNS) and wide_rows(empty) == [] and sentences([]) == []


def test_optimizers_of_one_answer_share_their_numbers(make_pairs: PairMaker, cell_key: Any) -> None:
    """From the least median to the largest, from an s on at which it holds for all."""
    parts = []
    for name, options, apart, scales in (
        ("adam", "", 0.3, (2.0, 4.0)),
        ("adam", "eps=0.001", 0.5, (4.0,)),
        ("rmsprop", "", 0.2, (2.0,)),
    ):
        frames = [make_pairs("loss", "base", scale, identical=False, rel_distance=apart) for scale in scales]
        key = cell_key(optimizer=name, options=options)
        parts.append(summary_of(key, make_pairs("ulp", "base", 1.0, identical=False, rel_distance=1e-7), *frames))
    said = sentences(answers(pd.concat(parts, ignore_index=True)))[0]
    assert "Yes for s > 1 under Adam and RMSprop (s ≥ 4: 0.2 to 0.5)." in said
    assert "the largest median over s (the least of several optimizers’)." in said
