"""From pairs to summary.csv: one line per cell, checkpoint and quantity, predicted beside measured.

A run is read one (network, optimizer, options, recipe, policy) at a time, so memory does not grow with the size of
the grid. Pairs with non-finite parameters are counted and left out of every number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from .answers import terminal_table
from .bootstrap import extreme_interval, median_interval, share_interval
from .sentences import closing_lines
from .studies import Cell, Prediction, Study
from .summary import COLUMNS, FAILS, HOLDS, NO_PREDICTION, failed_predictions, read_summary, summary_text

__all__ = [
    "QUANTITIES",
    "Quantity",
    "closing_lines",
    "failed_predictions",
    "read_summary",
    "summarize",
    "terminal_table",
    "write_summary",
]

Floats = npt.NDArray[np.float64]
Statistic = Literal["share", "median", "largest", "smallest"]

RESOLUTION: Final = 0.1
"""A pair whose own tolerance (relative) is wider than this resolves nothing and is not judged."""

_COORDINATES: Final = ("arm", "against", "scale", "step")


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One number of a cell: a statistic over its finite pairs of a pairs column."""

    name: str
    column: str
    statistic: Statistic


QUANTITIES: Final = (
    Quantity(name="identical_share", column="identical", statistic="share"),
    Quantity(name="median_rel_distance", column="rel_distance", statistic="median"),
    Quantity(name="median_differing_bits", column="differing_bits", statistic="median"),
    Quantity(name="max_ulp", column="max_ulp", statistic="largest"),
    Quantity(name="update_norm_ratio", column="update_norm_ratio", statistic="median"),
    Quantity(name="update_norm_ratio_error", column="update_norm_ratio_error", statistic="largest"),
    Quantity(name="moved", column="moved", statistic="median"),
    Quantity(name="state_identical_share", column="state_identical", statistic="share"),
    Quantity(name="max_state_subnormal", column="state_subnormal", statistic="largest"),
    *(
        Quantity(name=f"eps_over_r_{quantile}", column=f"eps_over_r_{quantile}", statistic="median")
        for quantile in ("q05", "q25", "q50", "q75", "q95")
    ),
    Quantity(name="v_zero_share", column="v_zero_share", statistic="median"),
    Quantity(name="loss_arm", column="loss_arm", statistic="median"),
    Quantity(name="loss_against", column="loss_against", statistic="median"),
    Quantity(name="smallest_grad", column="smallest_grad", statistic="smallest"),
)


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
        distances = self.columns["moved"][self.finite]
        return bool(len(distances)) and float(np.median(distances)) > 0.0

    @property
    def broken_pairs(self) -> int:
        """Non-finite pairs whose two models do not even agree in their bits."""
        return int((self.columns["identical"][self.finite_end : self.end] == 0).sum())


def write_summary(run: Path, study: Study) -> None:
    """Read the run's pairs and write its summary.csv, whole.

    Raises:
        InputError: for a damaged shard or an unwritable folder.
    """
    from .records import iter_cells
    from .support.files import write_text

    summary = summarize(iter_cells(run), study.name, study.predictions)
    write_text(run / "summary.csv", summary_text(summary))


def summarize(
    cells: Iterable[tuple[Any, pd.DataFrame]], study: str, predictions: Sequence[Prediction] = ()
) -> pd.DataFrame:
    """The summary in long form, columns `summary.COLUMNS`.

    Args:
        cells: (key with network, optimizer, options, recipe and policy, all pairs of that key), one key at a time.
        study: name for the first column.
        predictions: what to judge; the first that applies to a cell and quantity counts.
    """
    parts = [_summarize_key(key, pairs, study, predictions) for key, pairs in cells]
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat(parts, ignore_index=True)


def _summarize_key(key: Any, pairs: pd.DataFrame, study: str, predictions: Sequence[Prediction]) -> pd.DataFrame:
    groups = _groups(key, pairs)
    rows: list[dict[str, Any]] = []
    for quantity in QUANTITIES:
        if not groups or quantity.column not in groups[0].columns:
            continue
        for group, (count, measured, lo, hi) in zip(groups, _measure(groups, quantity), strict=True):
            prediction = _applicable(predictions, group.cell, quantity.name)
            # Without any value a line says nothing; but every cell keeps the one that counts its pairs.
            if count == 0 and prediction is None and quantity.name != "identical_share":
                continue
            predicted, tolerance, verdict = _judged(group, prediction, measured)
            rows.append(
                {
                    "study": study,
                    **vars(group.cell),
                    "pairs": count,
                    "nonfinite_pairs": group.nonfinite_pairs,
                    "quantity": quantity.name,
                    "predicted": predicted,
                    "measured": measured,
                    "lo": lo,
                    "hi": hi,
                    "tolerance": tolerance,
                    "verdict": verdict,
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _groups(key: Any, pairs: pd.DataFrame) -> list[_Group]:
    """One group per (arm, against, scale, step), in that order; within a group the finite pairs come first."""
    if pairs.empty:
        return []
    by_cell = pairs.groupby(list(_COORDINATES), observed=True, sort=True)
    code = by_cell.ngroup().to_numpy()
    nonfinite = (pairs["nonfinite"].to_numpy() > 0) | ~np.isfinite(pairs["rel_distance"].to_numpy(dtype=np.float64))
    order = np.lexsort((nonfinite, code))
    columns = {
        name: pairs[name].to_numpy(dtype=np.float64)[order]
        for name in pairs.columns
        if pd.api.types.is_numeric_dtype(pairs[name].dtype)
    }
    if "predicted_update_norm_ratio" in columns:
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = columns["update_norm_ratio"] / columns["predicted_update_norm_ratio"]
        columns["update_norm_ratio_error"] = np.abs(quotient - 1.0)
    sizes = np.bincount(code)
    finite_sizes = sizes - np.bincount(code, weights=nonfinite).astype(np.int64)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    common = {name: str(getattr(key, name)) for name in ("network", "optimizer", "options", "recipe", "policy")}
    first = pairs.iloc[order[starts]]
    groups = []
    for arm, against, scale, step, start, size, finite in zip(
        *(first[name] for name in _COORDINATES), starts, sizes, finite_sizes, strict=True
    ):
        cell = Cell(**common, arm=str(arm), against=str(against), scale=float(scale), step=int(step))
        bounds = {"first": int(start), "finite_end": int(start + finite), "end": int(start + size)}
        groups.append(_Group(cell=cell, columns=columns, **bounds))
    return groups


def _measure(groups: Sequence[_Group], quantity: Quantity) -> list[tuple[int, float, float, float]]:
    """(pairs, measured, lo, hi) for each group; groups of one size are computed together."""
    samples = []
    for group in groups:
        values = group.columns[quantity.column][group.finite]
        samples.append(values[np.isfinite(values)])
    results = [(0, float("nan"), float("nan"), float("nan"))] * len(groups)
    for size in sorted({len(sample) for sample in samples} - {0}):
        members = [index for index, sample in enumerate(samples) if len(sample) == size]
        ascending = np.sort(np.stack([samples[index] for index in members]), axis=1)
        measured, lo, hi = _STATISTICS[quantity.statistic](ascending)
        for place, index in enumerate(members):
            results[index] = (size, float(measured[place]), float(lo[place]), float(hi[place]))
    return results


def _share(values: Floats) -> tuple[Floats, Floats, Floats]:
    return share_interval(values.mean(axis=1), values.shape[1])


_STATISTICS: Final[Mapping[Statistic, Callable[[Floats], tuple[Floats, Floats, Floats]]]] = {
    "share": _share,
    "median": median_interval,
    "largest": lambda values: extreme_interval(values, largest=True),
    "smallest": lambda values: extreme_interval(values, largest=False),
}


def _applicable(predictions: Sequence[Prediction], cell: Cell, quantity: str) -> Prediction | None:
    return next((item for item in predictions if item.quantity == quantity and item.applies(cell)), None)


def _judged(group: _Group, prediction: Prediction | None, measured: float) -> tuple[float, float, str]:
    """(predicted, tolerance, verdict)."""
    if prediction is None:
        return float("nan"), float("nan"), NO_PREDICTION
    holds: bool | None
    if isinstance(prediction.predicted, str) or isinstance(prediction.tolerance, str):
        predicted, tolerance, holds = _judge_pairs(group, prediction)
    else:
        predicted, tolerance = prediction.predicted, prediction.tolerance
        allowed = tolerance * abs(predicted) if prediction.relative else tolerance
        holds = None if np.isnan(measured) else abs(measured - predicted) <= allowed
    # Models that stayed where they were agree for no reason; a difference is one all the same.
    if prediction.moved and not group.moved and holds:
        holds = None
    # An overflow in one model of a pair that was to be identical is a difference, though it enters no average.
    if prediction.quantity == "identical_share" and predicted == 1.0 and group.broken_pairs:
        holds = False
    return predicted, tolerance, NO_PREDICTION if holds is None else HOLDS if holds else FAILS


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
