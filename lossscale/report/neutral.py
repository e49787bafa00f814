"""How a study shows itself that says nothing about it: its predictions and their verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..design.measures import IDENTICAL, MEASURES, REL_DISTANCE
from ..design.study import Cell, Prediction, Presentation, Study
from ..design.verdicts import CELL, FAILS, HOLDS, NO_PREDICTION, SERIES
from ..runs.summary import read_summary
from ..support.errors import InputError


def presentation_of(study: Study) -> Presentation:
    """The study's own presentation, or the neutral one."""
    return Neutral(study) if study.presentation is None else study.presentation(study)


class Neutral:
    """A table of predictions and verdicts. A study's own presentation is a subclass that replaces what it has.

    Args:
        study: whose runs are shown.
    """

    def __init__(self, study: Study) -> None:
        self.study = study

    def table(self, run: Path) -> Sequence[dict[str, Any]]:
        """One row per prediction; without predictions one per series and arm, as they ended."""
        summary = read_summary(run)
        rows = [{name: row[name] for name in row if name != "why"} for row in prediction_rows(self.study, summary)]
        return rows or last_rows(summary, self._measured())

    def _measured(self) -> tuple[str, ...]:
        """Quantities that the study records beyond the standard ones."""
        names = self.study.grid.measures if self.study.grid is not None else ()
        return tuple(MEASURES[name].quantity_name for name in names)

    def sentences(self, run: Path) -> Sequence[str]:
        """How many judged predictions hold."""
        verdicts = read_summary(run)["verdict"]
        hold, fail = int((verdicts == HOLDS).sum()), int((verdicts == FAILS).sum())
        if not hold + fail:
            return ["Do the predictions hold? This study has none that could be judged."]
        return [f"Do the predictions hold? {hold} of {hold + fail} judged cells do{f', {fail} fail' if fail else ''}."]

    def legend(self, run: Path) -> Sequence[str]:
        """What each row of the table predicts."""
        summary = read_summary(run)
        rows = prediction_rows(self.study, summary)
        return [*(f"{row['prediction']}: {row['why']}" for row in rows if row["why"]), *unjudged(self.study, summary)]

    def sections(self, run: Path) -> Iterable[tuple[str, str, str]]:
        """How the models of every series ended."""
        from ..support.html import table

        rows = last_rows(read_summary(run), self._measured())
        if rows:
            caption = "After the last step, over all scales: pairs that agree in every bit, and median distances."
            yield "Where it ended", "ended", table(rows, caption=caption)

    def picture(self, run: Path, out: Path) -> None:
        """There is none."""
        del out
        raise InputError("RUN", run, f"the study {self.study.name} has no picture; give a run of a study that has one")


def unjudged(study: Study, summary: pd.DataFrame) -> list[str]:
    """One sentence for every reason why predictions are not judged in policies of the run."""
    policies: dict[str, dict[str, None]] = {}
    for prediction in study.predictions:
        for policy in dict.fromkeys(summary["policy"]):
            reason = prediction.unjudged(policy)
            if reason:
                policies.setdefault(reason, {})[policy] = None
    return [f"No prediction in {', '.join(names)} of {reason}." for reason, names in policies.items()]


def prediction_rows(study: Study, summary: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per prediction of the study; per judged quantity where the study (a script) judges for itself."""
    judged = summary[summary["predicted"].notna()]
    if study.predictions:
        owned = _owned(judged, study.predictions)
        return [
            _row(item.quantity, place, item.why, lines)
            for place, (item, lines) in enumerate(zip(study.predictions, owned, strict=True), 1)
        ]
    grouped = judged.groupby("quantity", sort=False)
    return [_row(str(quantity), place, "", lines) for place, (quantity, lines) in enumerate(grouped, 1)]


def _row(quantity: str, place: int, why: str, lines: pd.DataFrame) -> dict[str, Any]:
    held, failed = int((lines["verdict"] == HOLDS).sum()), int((lines["verdict"] == FAILS).sum())
    return {
        "prediction": place,
        "quantity": quantity,
        "why": why,
        "cells that hold": held,
        "cells that fail": failed,
        "not judged": len(lines) - held - failed,
        "verdict": FAILS if failed else HOLDS if held else NO_PREDICTION,
    }


def _owned(judged: pd.DataFrame, predictions: Sequence[Prediction]) -> list[pd.DataFrame]:
    """The lines that each prediction is about: the first that applies to a cell and quantity has it."""
    mine: list[list[Any]] = [[] for _ in predictions]
    for values in judged[[*CELL, "quantity"]].itertuples():
        index, *fields, quantity = values
        cell = Cell(**dict(zip(CELL, fields, strict=True)))
        for place, item in enumerate(predictions):
            if item.quantity == quantity and item.judges(cell):
                mine[place].append(index)
                break
    return [judged.loc[lines] for lines in mine]


def last_rows(summary: pd.DataFrame, more: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row per series, arm and what it is compared with: pairs and distances after the last step."""
    rows = []
    for key, lines in summary.groupby([*SERIES, "arm", "against"], sort=False):
        final = lines[lines["step"] == lines["step"].max()]
        same = final[final["quantity"] == IDENTICAL.quantity_name]
        apart = final[final["quantity"] == REL_DISTANCE.quantity_name]["measured"]
        if same.empty:
            continue
        own: dict[str, Any] = {
            f"largest_{name}": float(final[final["quantity"] == name]["measured"].max()) for name in more
        }
        rows.append(
            {
                **dict(zip((*SERIES, "arm", "against"), key, strict=True)),
                "step": int(final["step"].max()),
                "pairs": int(same["pairs"].sum()),
                "nonfinite_pairs": int(same["nonfinite_pairs"].sum()),
                "identical_pairs": round(float((same["measured"] * same["pairs"]).sum())),
                "smallest_distance": float(apart.min()),
                "largest_distance": float(apart.max()),
                **own,
            }
        )
    return rows
