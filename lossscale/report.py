"""report.html: one self-contained page for one run or several. It loads nothing; plotly.js stands in it once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pandas as pd

from . import studies
from .answers import LEGEND, answers, optimizer_label, scale_text, wide_rows
from .sentences import sentences
from .studies import Cell, Prediction, Study, is_power_of_two
from .summary import FAILS, HOLDS, is_readable, read_summary
from .support.files import write_text
from .support.html import Section, details, figure, page, paragraph, table
from .support.output import plain

SHOWN_FAILURES: Final = 40
_CELL: Final = ("network", "optimizer", "options", "recipe", "policy", "arm", "against", "scale", "step")

TITLES: Final = {
    "changes_training": "does loss × s change training?",
    "distance_s>1": "distance, s > 1",
    "distance_s<1": "distance, s < 1",
    "same_as_lr": "same as lr × s?",
    "distance_to_lr": "distance of the two",
    "mapped_identical": "mapped run identical?",
    "one_ulp_control": "one-ulp control",
    "nonfinite": "non-finite pairs",
    "hold": "predictions that hold",
    "fail": "that fail",
}

_STYLE: Final = (
    "main { max-width: 74rem; } table { font-size: .84rem; } td { max-width: 30rem; } "
    "th, th.number { white-space: normal; vertical-align: bottom; max-width: 7.5rem; }"
)
"""This page's tables are wide: headings wrap over narrow columns."""

LIMITS: Final = (
    "“Identical” speaks of parameter bits. Exactness is claimed for s = 2^k only: any other s rounds when it is "
    "multiplied in.",
    "Intervals are 95 % bootstrap intervals over random initialisations. A share of 1 has no width; it says that no "
    "pair differed, not that none can.",
    "The update-norm ratio is judged pair by pair: an update is measured as the change of float32 parameters, so "
    "each pair’s tolerance is the bound that their rounding leaves, plus 5e-7 for the arithmetic of the step. Pairs "
    "that resolve less than 10 % are not judged.",
    "Pairs with non-finite parameters are counted and left out of every number.",
    "Models of this size show how an optimizer reacts to the scale of the loss. How far two runs drift apart depends "
    "on network, data and length.",
)


class PlotlyMissing(ImportError):
    """The page needs plotly, and plotly is not installed."""

    def __init__(self) -> None:
        super().__init__("the page needs plotly: pip install plotly, then python -m lossscale report RUN")


def write_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page about the runs, whole, and return its path.

    Args:
        runs: folders with manifest.json and summary.csv.
        out: the page; by default ``report.html`` in the first run.

    Raises:
        PlotlyMissing: when plotly is not installed.
        InputError: when a folder holds no finished run, or the page cannot be written.
    """
    if find_spec("plotly") is None:
        raise PlotlyMissing
    from plotly.offline import get_plotlyjs

    loaded = [_Run(run) for run in runs]
    single = loaded[0] if len(loaded) == 1 else None
    sections = [section for run in loaded for section in run.sections(prefix="" if single else f"{run.study.name}: ")]
    document = page(
        single.study.title if single else "Paired loss-scale runs",
        sections,
        lead="".join(_answer(text) for run in loaded for text in run.lead()),
        footer="".join(run.footer() for run in loaded),
        head=f"<style>{_STYLE}</style><script>{get_plotlyjs()}</script>",
    )
    target = out or runs[0] / "report.html"
    write_text(target, document)
    return target


class _Run:
    """A finished run and the parts of its page."""

    def __init__(self, run: Path) -> None:
        from .analysis import write_summary
        from .records import read_manifest
        from .support.errors import InputError

        self.path = run
        self.manifest = read_manifest(run)
        try:
            self.study = studies.get(self.manifest.study)
            if not is_readable(run):
                if not self.manifest.finished or self.manifest.spec is None:
                    raise ValueError("neither a summary nor what it is made from")
                write_summary(run, self.study)
            self.summary = read_summary(run)
        except (KeyError, OSError, ValueError) as error:
            remedy = "holds no finished run; finish it with python -m lossscale run STUDY --resume"
            raise InputError("RUN", run, remedy) from error
        self.paired = self.study.grid is not None and len(self.summary) > 0

    def lead(self) -> list[str]:
        if not self.paired:
            return [f"This study shows {self.study.shows}."]
        return [*sentences(answers(self.summary)), self._method()]

    def sections(self, prefix: str) -> Iterator[Section]:
        name = self.study.name
        if self.paired:
            yield Section(title=f"{prefix}Optimizer by optimizer", body=self._table(), anchor=f"{name}-table")
            yield Section(title=f"{prefix}Pictures", body=self._pictures(), anchor=f"{name}-pictures")
            yield Section(title=f"{prefix}Predictions", body=self._predictions(), anchor=f"{name}-predictions")
            yield Section(title=f"{prefix}Controls", body=self._controls(), anchor=f"{name}-controls")
            limits = "".join(f"<li>{escape(_powers(text))}</li>" for text in LIMITS)
            yield Section(title=f"{prefix}Limits", body=f"<ul>{limits}</ul>", anchor=f"{name}-limits")
        if self.study.sections is not None:
            for title, body in self.study.sections(self.path):
                yield Section(title=prefix + title, body=body)
        yield Section(title=f"{prefix}Provenance", body=self._provenance(), anchor=f"{name}-provenance")

    def footer(self) -> str:
        return paragraph(
            f"Study {self.study.name}, seed {self.manifest.seed}; every number of this page is in "
            "summary.csv beside it."
        )

    def _method(self) -> str:
        """What was compared, in one sentence."""
        counted = self.summary[self.summary["quantity"] == "identical_share"]
        pairs = counted.groupby([*_CELL[:-1]])[["pairs", "nonfinite_pairs"]].max().to_numpy().sum()
        scales = self.summary["scale"]
        return (
            f"These answers come from {pairs:,} pairs of networks; the two of a pair share their initial weights and "
            f"their data, and s runs from {scale_text(scales.min())} to {scale_text(scales.max())}."
        )

    def _table(self) -> str:
        rows = wide_rows(self.summary)
        parts = [paragraph(_powers(LEGEND))]
        for network in dict.fromkeys(row["network"] for row in rows):
            columns = [name for name in rows[0] if name != "network"]
            own = [row for row in rows if row["network"] == network]
            parts.append(f"<h3>{escape(network)}</h3>{table(own, columns, titles=TITLES)}")
        return "".join(parts)

    def _pictures(self) -> str:
        from . import plots

        parts = []
        for place, network in enumerate(dict.fromkeys(self.summary["network"])):
            name, caption = f"{self.study.name}-distance-{place}", plots.distance_caption(self.summary, network)
            drawn = plots.to_html(plots.distance_figure(self.summary, network), name)
            parts.append(f"<h3>Distance against s: {escape(network)}</h3>{figure(drawn, caption)}")
            if plots.has_ratios(self.summary, network):
                name, caption = f"{self.study.name}-ratio-{place}", plots.ratio_caption(network)
                drawn = plots.to_html(plots.ratio_figure(self.summary, network), name)
                parts.append(f"<h3>The first update against s: {escape(network)}</h3>{figure(drawn, caption)}")
        return "".join(parts)

    def _predictions(self) -> str:
        judged = self.summary[self.summary["predicted"].notna()]
        rows = [_prediction_row(item, _owned(judged, self.study, item)) for item in self.study.predictions]
        body = table(
            rows,
            caption="Each prediction is judged in every cell (network, optimizer, options, scale, checkpoint) that it "
            "speaks about. Not judged: the models did not move, no pair was finite, or the rounding of the parameters "
            "hides the predicted size.",
        )
        failures = self.summary[self.summary["verdict"] == FAILS]
        if failures.empty:
            return body + paragraph("No prediction failed.")
        shown = failures.head(SHOWN_FAILURES)
        columns = [*_CELL, "quantity", "predicted", "measured", "lo", "hi", "tolerance", "pairs", "verdict"]
        caption = f"Failed predictions: {len(failures)}" + (
            f", the first {SHOWN_FAILURES} shown" if len(failures) > len(shown) else ""
        )
        return body + table(_records(shown, columns), columns, caption=caption)

    def _controls(self) -> str:
        return table(
            list(_control_rows(self.summary)),
            caption="null: the same run again with the loss multiplied by 1, which must give the same bits. mapped: "
            "loss × 2ᵏ with mapped hyperparameters, which must too. one ulp: every initial weight moved to a "
            "neighbouring number, in a random direction; the distance this grows to is what rounding alone can do. "
            "A null or mapped result counts only where the models moved away from their initial weights.",
        )

    def _provenance(self) -> str:
        rows = [{"item": name, "value": value} for name, value in _flat(plain(self.manifest))]
        return details("How this run was made (manifest.json)", table(rows))


def _answer(text: str) -> str:
    """A sentence of the lead, its question in bold."""
    question, mark, answer = _powers(text).partition("? ")
    return f"<p><strong>{escape(question)}?</strong> {escape(answer)}</p>" if mark else paragraph(_powers(text))


def _powers(text: str) -> str:
    """``2^k`` and ``10^-4`` with raised exponents."""
    raised = str.maketrans("-0123456789k", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹ᵏ")
    return re.sub(r"\^(-?\d+|k)", lambda found: found[1].translate(raised), text)


def _owned(judged: pd.DataFrame, study: Study, prediction: Prediction) -> pd.DataFrame:
    """The lines that `prediction` is about and no earlier one of the study is."""
    earlier = study.predictions[: study.predictions.index(prediction)]
    mine = []
    for values in judged[judged["quantity"] == prediction.quantity][list(_CELL)].itertuples():
        index, *fields = values
        cell = Cell(**dict(zip(_CELL, fields, strict=True)))
        taken = any(item.quantity == prediction.quantity and item.applies(cell) for item in earlier)
        if prediction.applies(cell) and not taken:
            mine.append(index)
    return judged.loc[mine]


def _prediction_row(prediction: Prediction, lines: pd.DataFrame) -> dict[str, Any]:
    held, failed = int((lines["verdict"] == HOLDS).sum()), int((lines["verdict"] == FAILS).sum())
    return {
        "quantity": prediction.quantity,
        "prediction": _powers(prediction.why),
        "cells that hold": held,
        "cells that fail": failed,
        "not judged": len(lines) - held - failed,
        "verdict": FAILS if failed else HOLDS if held else "no prediction",
    }


def _control_rows(summary: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One row per network and control."""
    for network, lines in summary.groupby("network", sort=False):
        final = lines[lines["step"] == lines["step"].max()]
        for arm, title in (("null", "null"), ("mapped", _powers("mapped, s = 2^k")), ("ulp", "one ulp")):
            of_arm = final[(final["arm"] == arm) & (final["against"] == "base")]
            if arm == "mapped":
                of_arm = of_arm[of_arm["scale"].map(is_power_of_two) & (of_arm["scale"] != 1.0)]
            shares = of_arm[of_arm["quantity"] == "identical_share"]
            if shares.empty:
                continue
            distance = of_arm.loc[of_arm["quantity"] == "median_rel_distance", "measured"]
            moved = of_arm.loc[of_arm["quantity"] == "moved", "measured"]
            yield {
                "network": network,
                "control": title,
                "pairs": int(shares["pairs"].sum()),
                "non-finite pairs": int(shares["nonfinite_pairs"].sum()),
                "identical share, smallest of the cells": float(shares["measured"].min()),
                "median distance, smallest": float(distance.min()),
                "largest": float(distance.max()),
                "cells that moved": f"{int((moved > 0).sum())} of {len(shares)}",
            }


def _records(lines: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    named = lines.assign(optimizer=[optimizer_label(name, "") for name in lines["optimizer"]])
    return [{str(name): value for name, value in row.items()} for row in named[list(columns)].to_dict("records")]


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as dotted names, everything else as text."""
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
