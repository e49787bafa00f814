"""How a study shows itself that says nothing about it: its predictions and their verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..design.measures import IDENTICAL, MEASURES, REL_DISTANCE
from ..design.study import Presentation, Study
from ..design.verdicts import FAILS, HOLDS, NOT_JUDGED, SERIES, UNRESOLVED, VERDICTS
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

    question = ""
    """What the study asks, where its title does not; ends with a question mark."""
    limits: Sequence[str] = ()

    def __init__(self, study: Study) -> None:
        self.study = study

    def table(self, run: Path) -> Sequence[dict[str, Any]]:
        """One row per prediction; without predictions one per series and arm, as they ended."""
        summary = read_summary(run)
        rows = [
            {name: row[name] for name in row if name not in ("says", "reasons")}
            for row in prediction_rows(self.study, summary)
        ]
        return rows or last_rows(summary, self._measured())

    def _measured(self) -> tuple[str, ...]:
        """Quantities that the study records beyond the standard ones."""
        names = self.study.grid.measures if self.study.grid is not None else ()
        return tuple(MEASURES[name].quantity_name for name in names)

    def sentences(self, run: Path) -> Sequence[str]:
        """How many judged predictions hold."""
        return [verdict_sentence(read_summary(run))]

    def headline(self, run: Path) -> str:
        """Nothing: the sentences are the whole answer."""
        del run
        return ""

    def legend(self, run: Path) -> Sequence[str]:
        """What each row of the table predicts."""
        summary = read_summary(run)
        rows = prediction_rows(self.study, summary)
        return [
            *(f"{row['prediction']}: {row['says']}" for row in rows),
            *(f"{row['prediction']} is not judged everywhere: {row['reasons']}." for row in rows if row["reasons"]),
        ]

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

    def keep(self, run: Path, folder: Path) -> Iterable[Path]:
        """Nothing but what `verdicts` has of it."""
        del folder
        remedy = f"the study {self.study.name} has nothing to keep but its verdicts; use python -m lossscale verdicts"
        raise InputError("RUN", run, remedy)


def verdict_sentence(summary: pd.DataFrame) -> str:
    """How many judged lines of a summary hold, fail or stay unresolved."""
    verdicts = summary["verdict"]
    hold, fail, open_ = (int((verdicts == verdict).sum()) for verdict in (HOLDS, FAILS, UNRESOLVED))
    if not hold + fail + open_:
        return "Do the predictions hold? This study has none that could be judged."
    words = ((fail, "fails" if fail == 1 else "fail"), (open_, "is unresolved" if open_ == 1 else "are unresolved"))
    others = [f"{count} {word}" for count, word in words if count]
    counts = ", ".join((f"{hold} of {hold + fail + open_} judged cells do", *others))
    return f"Do the predictions hold? {counts}."


def unjudged(study: Study, summary: pd.DataFrame) -> list[str]:
    """One sentence for every reason why predictions are not judged in policies of the run."""
    policies: dict[str, dict[str, None]] = {}
    for prediction in study.predictions:
        for policy in summary["policy"].unique():
            reason = prediction.unjudged(policy)
            if reason:
                policies.setdefault(reason, {})[policy] = None
    return [f"No prediction in {', '.join(names)} of {reason}." for reason, names in policies.items()]


def prediction_rows(study: Study, summary: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per prediction of the study, in its order: what was predicted and measured, and the verdicts.

    A number is that of the one line that judges it, with its interval, or runs from the smallest to the largest of the
    lines. A prediction without a line in this run (other optimizers were asked for, say) is not judged.
    """
    return [_row(name, says, summary[summary["prediction"] == name]) for name, says in study.statements.items()]


def _row(name: str, says: str, lines: pd.DataFrame) -> dict[str, Any]:
    counts = {verdict: int((lines["verdict"] == verdict).sum()) for verdict in VERDICTS}
    judged = lines[lines["verdict"].isin((HOLDS, FAILS, UNRESOLVED))]
    shown = judged if len(judged) else lines
    return {
        "prediction": name,
        "quantity": ", ".join(dict.fromkeys(lines["quantity"])),
        "says": says,
        "predicted": _spread(shown["predicted"]),
        "measured": _spread(shown["measured"], shown),
        "tolerance": _spread(shown["tolerance"]),
        "hold": counts[HOLDS],
        "fail": counts[FAILS],
        "unresolved": counts[UNRESOLVED],
        "not judged": counts[NOT_JUDGED],
        "verdict": _worst(counts),
        "reasons": "; ".join(dict.fromkeys(reason for reason in lines["reason"] if reason))
        or ("" if len(lines) else "this run has no line of it"),
    }


def _worst(counts: dict[str, int]) -> str:
    """One verdict for all lines of a prediction: one that fails is the result."""
    return next((verdict for verdict in (FAILS, UNRESOLVED, HOLDS) if counts[verdict]), NOT_JUDGED)


def _spread(values: pd.Series, lines: pd.DataFrame | None = None) -> str:
    known = values[values.notna()]
    if known.empty:
        return ""
    if known.min() < known.max():
        return f"{known.min():.4g} … {known.max():.4g}"
    text = f"{known.iloc[0]:.5g}"
    if lines is not None and len(lines) == 1 and lines[["lo", "hi"]].notna().all(axis=None):
        text += f" [{lines['lo'].iloc[0]:.4g}, {lines['hi'].iloc[0]:.4g}]"
    return text


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
