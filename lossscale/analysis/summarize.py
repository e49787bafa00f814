"""From pairs to summary.csv: one line per cell, checkpoint and quantity, predicted beside measured.

A run is read one (network, optimizer, options, recipe, policy) at a time, and a large one of these checkpoint by
checkpoint, so memory does not grow with the size of the grid. Pairs with non-finite parameters are counted and left
out of every number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..design.measures import IDENTICAL, MEASURES, MOVED, NONFINITE, REL_DISTANCE, Measure, Statistic, summarized
from ..design.study import Cell, Prediction
from ..design.verdicts import COLUMNS, FAILS, HOLDS, NO_PREDICTION, NOT_JUDGED, SERIES
from .intervals import extreme, median_interval, share_interval, upper_quantile

Floats = npt.NDArray[np.float64]

RESOLUTION: Final = 0.1
"""A pair whose own tolerance (relative) is wider than this resolves nothing and is not judged."""

_OF_A_PAIR: Final = ("arm", "against", "scale")
_COORDINATES: Final = (*_OF_A_PAIR, "step")


@dataclass(frozen=True, kw_only=True)
class _Group:
    """The pairs of one cell at one checkpoint: rows `first` to `end` of every column, the finite ones first."""

    cell: Cell
    columns: Mapping[str, Floats]
    first: int
    finite_end: int
    end: int

    @property
    def finite(self) -> slice:
        """Where the finite pairs stand; the non-finite ones follow."""
        return slice(self.first, self.finite_end)

    @property
    def nonfinite_pairs(self) -> int:
        """Pairs left out of every number."""
        return self.end - self.finite_end

    @property
    def moved(self) -> bool:
        """Whether the median model left its initialisation."""
        distances = self.columns[MOVED.name][self.finite]
        return bool(len(distances)) and float(np.median(distances)) > 0.0

    @property
    def broken_pairs(self) -> int:
        """Non-finite pairs whose two models do not even agree in their bits."""
        return int((self.columns[IDENTICAL.name][self.finite_end : self.end] == 0).sum())


def summarize(
    cells: Iterable[tuple[Any, pd.DataFrame]], study: str, predictions: Sequence[Prediction] = ()
) -> pd.DataFrame:
    """The summary in long form, columns `COLUMNS` of `design.verdicts`.

    Args:
        cells: (key with network, optimizer, options, recipe and policy, all pairs of that key), one key at a time; its
            pairs may come in parts, each with all pairs of its checkpoints.
        study: name for the first column.
        predictions: what to judge; the first that applies to a cell and quantity counts.
    """
    parts: dict[Any, list[pd.DataFrame]] = {}
    for key, pairs in cells:
        parts.setdefault(key, []).append(_summarize_key(key, pairs, study, predictions))
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat([_joined(of_key) for of_key in parts.values()], ignore_index=True)


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """A key's lines in their order: quantity by quantity, and in each by coordinates."""
    if len(parts) == 1:
        return parts[0]
    lines = pd.concat(parts, ignore_index=True)
    quantities = [measure.quantity_name for measure in summarized(list(MEASURES))]
    # Every checkpoint has the same pairs of arms, in an order of its own.
    pairs = list(dict.fromkeys(parts[0][list(_OF_A_PAIR)].itertuples(index=False, name=None)))
    order = [
        (quantities.index(quantity), pairs.index(tuple(pair)), step)
        for quantity, step, *pair in lines[["quantity", "step", *_OF_A_PAIR]].itertuples(index=False, name=None)
    ]
    return lines.iloc[sorted(range(len(lines)), key=order.__getitem__)]


def _summarize_key(key: Any, pairs: pd.DataFrame, study: str, predictions: Sequence[Prediction]) -> pd.DataFrame:
    groups = _groups(key, pairs)
    rows: list[dict[str, Any]] = []
    for measure in summarized(list(groups[0].columns)) if groups else ():
        for group, (count, measured, lo, hi) in zip(groups, _measured(groups, measure), strict=True):
            prediction = _applicable(predictions, group.cell, measure.quantity_name)
            # Without any value a line says nothing; but every cell keeps the one that counts its pairs.
            if count == 0 and prediction is None and measure != IDENTICAL:
                continue
            predicted, tolerance, reason, verdict = _judged(group, prediction, measured)
            rows.append(
                {
                    "study": study,
                    **vars(group.cell),
                    "pairs": count,
                    "nonfinite_pairs": group.nonfinite_pairs,
                    "nonfinite_values": group.finite_end - group.first - count,
                    "quantity": measure.quantity_name,
                    "predicted": predicted,
                    "measured": measured,
                    "lo": lo,
                    "hi": hi,
                    "tolerance": tolerance,
                    "verdict": verdict,
                    "prediction": prediction.id if prediction else "",
                    "reason": reason,
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _groups(key: Any, pairs: pd.DataFrame) -> list[_Group]:
    """One group per (arm, against, scale, step), in that order; within a group the finite pairs come first."""
    if pairs.empty:
        return []
    by_cell = pairs.groupby(list(_COORDINATES), observed=True, sort=True)
    code = by_cell.ngroup().to_numpy()
    nonfinite = (pairs[NONFINITE.name].to_numpy() > 0) | ~np.isfinite(
        pairs[REL_DISTANCE.name].to_numpy(dtype=np.float64)
    )
    order = np.lexsort((nonfinite, code))
    columns = {
        name: pairs[name].to_numpy(dtype=np.float64)[order]
        for name in pairs.columns
        if pd.api.types.is_numeric_dtype(pairs[name].dtype)
    }
    for measure in summarized(list(columns)):
        if measure.derive is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                columns[measure.name] = measure.derive(*(columns[name] for name in measure.derived_from))
    sizes = np.bincount(code)
    finite_sizes = sizes - np.bincount(code, weights=nonfinite).astype(np.int64)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    common = {name: str(getattr(key, name)) for name in SERIES}
    first = pairs.iloc[order[starts]]
    groups = []
    for arm, against, scale, step, start, size, finite in zip(
        *(first[name] for name in _COORDINATES), starts, sizes, finite_sizes, strict=True
    ):
        cell = Cell(**common, arm=str(arm), against=str(against), scale=float(scale), step=int(step))
        bounds = {"first": int(start), "finite_end": int(start + finite), "end": int(start + size)}
        groups.append(_Group(cell=cell, columns=columns, **bounds))
    return groups


def _measured(groups: Sequence[_Group], measure: Measure) -> list[tuple[int, float, float, float]]:
    """(pairs, measured, lo, hi) for each group; groups of one size are computed together."""
    samples = []
    for group in groups:
        values = group.columns[measure.name][group.finite]
        samples.append(values[np.isfinite(values)])
    results = [(0, float("nan"), float("nan"), float("nan"))] * len(groups)
    for size in sorted({len(sample) for sample in samples} - {0}):
        members = [index for index, sample in enumerate(samples) if len(sample) == size]
        ascending = np.sort(np.stack([samples[index] for index in members]), axis=1)
        assert measure.statistic is not None, f"{measure.name} has no line in the summary"
        measured, lo, hi = _STATISTICS[measure.statistic](ascending)
        for place, index in enumerate(members):
            results[index] = (size, float(measured[place]), float(lo[place]), float(hi[place]))
    return results


def _share(values: Floats) -> tuple[Floats, Floats, Floats]:
    return share_interval(values.mean(axis=1), values.shape[1])


_STATISTICS: Final[Mapping[Statistic, Callable[[Floats], tuple[Floats, Floats, Floats]]]] = {
    Statistic.SHARE: _share,
    Statistic.MEDIAN: median_interval,
    Statistic.UPPER: upper_quantile,
    Statistic.LARGEST: lambda values: extreme(values, largest=True),
    Statistic.SMALLEST: lambda values: extreme(values, largest=False),
}


def _applicable(predictions: Sequence[Prediction], cell: Cell, quantity: str) -> Prediction | None:
    about = [item for item in predictions if item.quantity == quantity and item.applies(cell)]
    return next((item for item in about if item.judges(cell)), about[0] if about else None)


def _judged(group: _Group, prediction: Prediction | None, measured: float) -> tuple[float, float, str, str]:
    """(predicted, tolerance, why it is not judged, verdict)."""
    if prediction is None:
        return float("nan"), float("nan"), "", NO_PREDICTION
    elsewhere = prediction.unjudged(group.cell.policy)
    if elsewhere:
        return float("nan"), float("nan"), f"no prediction in {group.cell.policy} of {elsewhere}", NOT_JUDGED
    holds: bool | None
    reason = "no finite pair resolves what is predicted"
    if isinstance(prediction.predicted, str) or isinstance(prediction.tolerance, str):
        predicted, tolerance, holds = _judge_pairs(group, prediction)
    else:
        predicted, tolerance = prediction.predicted, prediction.tolerance
        allowed = tolerance * abs(predicted) if prediction.relative else tolerance
        holds = None if np.isnan(measured) else abs(measured - predicted) <= allowed
    # Models that stayed where they were agree for no reason; a difference is one all the same.
    if prediction.moved and not group.moved and holds:
        holds, reason = None, "the median model never left its initialisation"
    # An overflow in one model of a pair that was to be identical is a difference, though it enters no average.
    if prediction.quantity == IDENTICAL.quantity_name and predicted == 1.0 and group.broken_pairs:
        holds = False
    if holds is None:
        return predicted, tolerance, reason, NOT_JUDGED
    return predicted, tolerance, "", HOLDS if holds else FAILS


def _judge_pairs(group: _Group, prediction: Prediction) -> tuple[float, float, bool | None]:
    """(median prediction, widest tolerance, holds) when each pair has a prediction of its own.

    With a tolerance per pair, every pair that can resolve its prediction must lie within its own bound; with one
    number for all, the median deviation must.
    """
    wanted = (prediction.quantity, prediction.predicted, prediction.tolerance)
    if any(isinstance(name, str) and name not in group.columns for name in wanted):
        return float("nan"), float("nan"), None
    values, predicted, tolerance = (_column(group, source) for source in wanted)
    per_pair = isinstance(prediction.tolerance, str)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.abs(values - predicted) / (np.abs(predicted) if prediction.relative or per_pair else 1.0)
    usable = np.isfinite(deviation) & np.isfinite(tolerance)
    if per_pair:
        usable &= tolerance <= RESOLUTION
    if not usable.any():
        known = predicted[np.isfinite(predicted)]
        return float(np.median(known)) if len(known) else float("nan"), float("nan"), None
    center, widest = float(np.median(predicted[usable])), float(tolerance[usable].max())
    if per_pair:
        return center, widest, bool((deviation[usable] <= tolerance[usable]).all())
    return center, widest, bool(np.median(deviation[usable]) <= widest)


def _column(group: _Group, source: float | str) -> Floats:
    """[finite pairs] a column by its name, or one number for all."""
    if isinstance(source, str):
        return group.columns[source][group.finite]
    return np.full(group.finite_end - group.first, source, dtype=np.float64)
