"""The three answers, read off a summary: one wide row per network and optimizer, and one sentence per question.

Does loss × s change training? Is it the same as learning rate × s? Is the run with mapped hyperparameters identical?
Every word is computed from the numbers of the summary; nothing here knows what ought to come out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from ...design.measures import SYMMETRIC_DISTANCE
from ...design.scales import is_power_of_two
from ...design.verdicts import FAILS, HOLDS, SERIES
from ...report.labels import optimizer_label

CHAOS: Final = 10.0
"""Distances up to this many times the one-ulp control's count as rounding."""
LITTLE: Final = 0.01
"""Distances up to this share of the parameters' norm count as little."""

NO, ROUNDING, LITTLE_WORD, YES = "no", "as small as rounding", "little", "yes"
UNKNOWN: Final = "not measured"
WORDS: Final = (UNKNOWN, NO, ROUNDING, LITTLE_WORD, YES)
"""How much loss × s changed training, least first."""

LEGEND: Final = (
    "Distance: |a − b| / |b| over all weights at the last checkpoint, median over pairs, the largest over the "
    "scales s; between loss × s and lr × s (distance_to_lr) over the mean of the two sizes, beside what one ulp at the "
    f"start grows to at lr × s (one_ulp_at_lr). “{ROUNDING}”: at most {CHAOS:g} times the one-ulp control, which is "
    "what moving every initial "
    f"weight by one unit in the last place grows to; “{LITTLE_WORD}”: at most {LITTLE:.0%}. Counts such as 96/96: "
    "pairs at s = 2^k that agree in every bit at every checkpoint. Predictions at s = 1 count only where they fail."
)


_READ: Final = ("arm", "against", "scale", "step", "pairs", "nonfinite_pairs", "quantity", "measured", "verdict")
"""The columns of a summary that answers are read off, beside those of a series."""


@dataclass(frozen=True, kw_only=True)
class FromPairs:
    """What a summary does not say: single pairs, their largest distances at the last checkpoint, NaN where unknown.

    Attributes:
        up: loss × s to the unscaled run, s > 1.
        down: the same for s < 1.
        to_lr: loss × s to learning rate × s, symmetric.
        agree: by (arm, against, scale) the pairs that are finite and agree in every bit at every checkpoint; None if
            unknown.
    """

    up: float = float("nan")
    down: float = float("nan")
    to_lr: float = float("nan")
    agree: Mapping[tuple[str, str, float], int] | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one optimizer did on one network: the words and the numbers behind them."""

    network: str
    optimizer: str
    options: str
    recipe: str
    policy: str
    step: int
    up: str
    down: str
    up_from: float
    down_from: float
    distance_up: float
    distance_down: float
    same_pairs: int
    same_of: int
    elsewhere_pairs: int
    elsewhere_of: int
    distance_to_lr: float
    lr_floor: float
    mapped_pairs: int
    mapped_of: int
    nonfinite: int
    floor: float
    hold: int
    fail: int
    largest: FromPairs

    @property
    def label(self) -> str:
        """Optimizer with its options, for people."""
        return optimizer_label(self.optimizer, self.options)

    @property
    def same_as_lr(self) -> bool:
        """Whether loss × 2^k and lr × 2^k agreed in every bit of every pair."""
        return self.same_of > 0 and self.same_pairs == self.same_of

    @property
    def mapped_identical(self) -> bool:
        """Whether every mapped pair at s = 2^k agreed in every bit at every checkpoint."""
        return self.mapped_of > 0 and self.mapped_pairs == self.mapped_of


def wide_rows(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for a terminal, a page or JSON; recipe and policy appear where the run has several."""
    return rows_of(answers(summary))


def rows_of(found: Sequence[Answer]) -> list[dict[str, Any]]:
    """`wide_rows` of answers that are there."""
    several = [name for name in ("recipe", "policy") if len({getattr(answer, name) for answer in found}) > 1]
    return [_wide_row(answer, several) for answer in found]


def _wide_row(answer: Answer, several: Sequence[str]) -> dict[str, Any]:
    return {
        "network": answer.network,
        "optimizer": answer.label,
        **{name: getattr(answer, name) for name in several},
        "changes_training": answer.up if answer.up == answer.down else f"s>1 {answer.up}, s<1 {answer.down}",
        "distance_s>1": _rounded(answer.distance_up),
        "distance_s<1": _rounded(answer.distance_down),
        "same_as_lr": _share_word(answer.same_pairs, answer.same_of),
        "distance_to_lr": _rounded(answer.distance_to_lr),
        "one_ulp_at_lr": _rounded(answer.lr_floor),
        "mapped_identical": _share_word(answer.mapped_pairs, answer.mapped_of),
        "one_ulp_control": _rounded(answer.floor),
        "nonfinite": answer.nonfinite,
        "hold": answer.hold,
        "fail": answer.fail,
    }


def _share_word(same: int, of: int) -> str:
    """``yes 10/10``, ``no 3/10`` or that there was nothing to compare."""
    return f"{'yes' if same == of else 'no'} {same}/{of}" if of else UNKNOWN


def _rounded(value: float) -> float:
    """Three significant digits: what a table shows is what JSON carries."""
    return float(f"{value:.3g}")


def answers(summary: pd.DataFrame, largest: Mapping[tuple[Any, ...], FromPairs] | None = None) -> list[Answer]:
    """One answer per (network, optimizer, options, recipe, policy), in the summary's order.

    Args:
        summary: of a run.
        largest: of the same run's pairs, by those five; the summary has medians only.
    """
    pairs = largest or {}
    by_series = summary[[*SERIES, *_READ]].groupby(list(SERIES), sort=False)
    return [_answer(key, lines[list(_READ)], pairs.get(key, FromPairs())) for key, lines in by_series]


def _answer(key: tuple[Any, ...], lines: pd.DataFrame, largest: FromPairs) -> Answer:
    step = int(lines["step"].max())
    final = lines[lines["step"] == step]
    floor = _largest(_line(final, "ulp", "base", "median_rel_distance"))
    loss = _line(final, "loss", "base", "median_rel_distance")
    same = _identical(lines, "loss", "lr", largest)
    elsewhere = _identical(lines, "loss", "lr", largest, powers_of_two=False)
    mapped = _identical(lines, "mapped", "base", largest)
    share = _line(final, "loss", "base", "identical_share")
    up, down = (loss[loss["scale"] > 1], loss[loss["scale"] < 1])
    return Answer(
        **dict(zip(SERIES, key, strict=True)),
        step=step,
        up=_word(up, share[share["scale"] > 1], floor),
        down=_word(down, share[share["scale"] < 1], floor),
        up_from=_nearest(up, share, floor, min),
        down_from=_nearest(down, share, floor, max),
        distance_up=_largest(up),
        distance_down=_largest(down),
        same_pairs=same[0],
        same_of=same[1],
        elsewhere_pairs=elsewhere[0],
        elsewhere_of=elsewhere[1],
        distance_to_lr=_largest(_changed(_line(final, "loss", "lr", SYMMETRIC_DISTANCE.quantity_name))),
        lr_floor=_largest(_changed(_line(final, "lr-ulp", "lr", SYMMETRIC_DISTANCE.quantity_name))),
        mapped_pairs=mapped[0],
        mapped_of=mapped[1],
        nonfinite=int(final[final["quantity"] == "identical_share"]["nonfinite_pairs"].sum()),
        floor=floor,
        # A run at s = 1 is the same computation: that it agrees is no evidence, that it does not would be.
        hold=int((_changed(lines)["verdict"] == HOLDS).sum()),
        fail=int((lines["verdict"] == FAILS).sum()),
        largest=largest,
    )


def _line(lines: pd.DataFrame, arm: str, against: str, quantity: str) -> pd.DataFrame:
    return lines[(lines["arm"] == arm) & (lines["against"] == against) & (lines["quantity"] == quantity)]


def _changed(lines: pd.DataFrame) -> pd.DataFrame:
    return lines[lines["scale"] != 1.0]


def _identical(
    lines: pd.DataFrame, arm: str, against: str, single: FromPairs, *, powers_of_two: bool = True
) -> tuple[int, int]:
    """Pairs with identical bits at every checkpoint, and pairs, over the scales 2^k other than 1, or all others.

    Agreement does not count at checkpoints where the median model had not left its initialisation. The summary counts
    checkpoint by checkpoint: where the pairs are not known, theirs is an upper bound, for pairs come together again.
    """
    shares = _changed(_line(lines, arm, against, "identical_share"))
    shares = shares[(shares["scale"].map(is_power_of_two) == powers_of_two) & (shares["pairs"] > 0)]
    distance = _line(lines, arm, against, "moved").set_index(["scale", "step"])["measured"]
    moved = [distance.get(place, 0.0) > 0.0 for place in zip(shares["scale"], shares["step"], strict=True)]
    shares = shares[np.array(moved, dtype=bool) | (shares["measured"] < 1.0).to_numpy()]
    same = (shares["measured"] * shares["pairs"]).round()
    worst = pd.DataFrame({"scale": shares["scale"], "same": same, "pairs": shares["pairs"]}).groupby("scale").min()
    if single.agree is not None:
        known = [single.agree.get((arm, against, float(scale)), 0) for scale in worst.index]
        worst["same"] = np.minimum(worst["same"], known)
    return int(worst["same"].sum()), int(worst["pairs"].sum())


def _word(distances: pd.DataFrame, shares: pd.DataFrame, floor: float) -> str:
    largest = _largest(distances)
    if math.isnan(largest):
        return UNKNOWN
    if bool((shares["measured"] == 1.0).all()):
        return NO
    if largest <= CHAOS * floor:
        return ROUNDING
    return LITTLE_WORD if largest <= LITTLE else YES


def _nearest(
    distances: pd.DataFrame, shares: pd.DataFrame, floor: float, nearest: Callable[[list[float]], float]
) -> float:
    """The scale nearest to 1 from which on the side's word holds."""
    word = _word(distances, shares[shares["scale"].isin(distances["scale"])], floor)
    one_by_one = [
        (scale, _word(distances[distances["scale"] == scale], shares[shares["scale"] == scale], floor))
        for scale in distances["scale"]
    ]
    return nearest([scale for scale, its in one_by_one if its == word] or [float("nan")])


def _largest(lines: pd.DataFrame) -> float:
    return float(lines["measured"].max()) if len(lines) else float("nan")
