"""report.html: one self-contained page for one run or several. It loads nothing; plotly.js stands in it once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from ..design.arms import ARMS
from ..design.measures import IDENTICAL, MOVED, REL_DISTANCE
from ..design.scales import is_power_of_two, scale_text
from ..design.study import Study
from ..design.verdicts import CELL, FAILS, HOLDS, UNRESOLVED
from ..runs.records import read_manifest
from ..support.files import write_text
from ..support.html import Section, details, page, paragraph, preformatted, table
from ..support.output import plain
from . import literature, parts, standing
from .again import command_of
from .finished import FinishedRun, read_finished
from .labels import optimizer_label, raised_powers
from .libraries import require
from .neutral import prediction_rows, unjudged

SHOWN_FAILURES: Final = 40

LIMITS: Final = (
    "“Identical” speaks of parameter bits. Exactness is claimed for s = 2^k only: any other s rounds when it is "
    "multiplied in.",
    "Intervals are exact 95 % intervals over random initialisations: order statistics for medians (none under 6 "
    "pairs), Clopper and Pearson’s for shares. A share of 1 says that no pair differed, not that none can; the "
    "largest and smallest of the pairs have no interval.",
    "Pairs with non-finite parameters are counted and left out of every number.",
    "Models of this size show how an optimizer reacts to the scale of the loss. How far two runs drift apart depends "
    "on network, data and length.",
)


def write_report(runs: Sequence[Path], out: Path | None = None, *, find_study: Callable[[str], Study]) -> Path:
    """Write one page about the runs, whole, and return its path.

    Args:
        runs: folders with manifest.json and summary.csv.
        out: the page; by default ``report.html`` in the first run.
        find_study: the study of a name; KeyError when there is none.

    Raises:
        LibraryMissing: when plotly or jinja2 is not installed.
        InputError: when a folder holds no finished run, or the page cannot be written.
    """
    require("the page", "plotly", "jinja2")
    from plotly.offline import get_plotlyjs

    unfinished = [run for run in runs if len(runs) > 1 and standing.is_unfinished(run)]
    shown = [run for run in runs if run not in unfinished] or runs
    loaded = sorted((_Run(read_finished(run, find_study)) for run in shown), key=lambda run: not run.study.leads)
    single = loaded[0] if len(runs) == 1 else None
    sections = list(_sections(loaded) if single else _once(_sections(loaded)))
    if len(runs) > 1:
        sections.insert(0, _overview(loaded, unfinished))
    document = page(
        single.study.title if single else "Paired loss-scale runs",
        sections,
        lead=_lead(loaded),
        footer="".join(run.footer() for run in loaded),
        head=parts.head(get_plotlyjs()),
    )
    target = out or runs[0] / "report.html"
    write_text(target, document)
    return target


def _lead(runs: Sequence[_Run]) -> str:
    """What stands at the head of the page: the whole answer of one run or of those that lead; else each one's first."""
    whole = [run for run in runs if run.study.leads or len(runs) == 1]
    return "".join(run.lead() for run in whole) if whole else parts.lead(run.sentences[0] for run in runs)


def _overview(runs: Sequence[_Run], unfinished: Sequence[Path]) -> Section:
    """What every run of several asked, how its predictions fared, and how it stands."""
    names = [run.study.name for run in runs]
    rows: list[dict[str, Any]] = []
    for run in runs:
        place = f" ({run.path.name})" if names.count(run.study.name) > 1 else ""
        rows.append({"study": run.study.name + place, **run.overview()})
    for path in unfinished:
        rows.append({"study": f"{read_manifest(path).study} ({path.name})", "standing": standing.UNFINISHED})
    caption = "Predictions are counted by judged cell; every failed one is listed with its study."
    return Section(title="Studies of this page", body=table(rows, caption=caption), anchor="studies")


def _sections(runs: Sequence[_Run]) -> Iterator[Section]:
    """The parts of every run, told apart by study, and by directory too where several are of one study."""
    names = [run.study.name for run in runs]
    for place, run in enumerate(runs):
        name = run.study.name
        if len(runs) == 1:
            yield from run.sections(prefix="", anchor=name)
            continue
        several = names.count(name) > 1
        prefix, anchor = (f"{name} ({run.path.name}): ", f"{name}-{place}") if several else (f"{name}: ", name)
        if not run.study.leads:
            yield Section(title=f"{prefix}Answer", body=run.lead(), anchor=f"{anchor}-answer")
        yield from run.sections(prefix=prefix, anchor=anchor)


def _once(sections: Iterable[Section]) -> Iterator[Section]:
    """The sections of several runs, of which the list at the top has only the first of each."""
    before = ""
    for section in sections:
        name, colon, _ = section.title.partition(": ")
        yield dataclasses.replace(section, link=name if colon and name != before else "")
        before = name


class _Run:
    """A finished run and the parts of its page."""

    def __init__(self, run: FinishedRun) -> None:
        self.path, self.manifest, self.study, self.summary = run.path, run.manifest, run.study, run.summary
        self.presentation = run.presentation
        self.paired = self.study.grid is not None and len(self.summary) > 0
        self.remarks = list(standing.remarks(self.manifest, self.study))
        self.sentences = list(self.presentation.sentences(self.path)) or [f"This study shows {self.study.shows}."]

    def lead(self) -> str:
        """The answers: in words, how the run stands, and as a table where the study has one for its head."""
        stands = [standing.as_sentence(remark) for remark in self.remarks]
        words = [*self.sentences, *([self._method()] if self.paired else []), *stands]
        return parts.lead(words) + self.presentation.headline(self.path)

    def overview(self) -> dict[str, Any]:
        """Its row of a page of several runs."""
        counts = {verdict: int((self.summary["verdict"] == verdict).sum()) for verdict in (HOLDS, FAILS, UNRESOLVED)}
        return {
            "asks": raised_powers(self.presentation.question or self.study.title),
            "hold": counts[HOLDS],
            "fail": counts[FAILS],
            "unresolved": counts[UNRESOLVED],
            "standing": "; ".join(self.remarks) or "whole, of today’s code",
        }

    def sections(self, *, prefix: str, anchor: str) -> Iterator[Section]:
        for title, own, body in self.presentation.sections(self.path):
            yield Section(title=prefix + title, body=body, anchor=f"{anchor}-{own}" if own else "")
        if self.study.statements:
            yield Section(title=f"{prefix}Predictions", body=self._predictions(), anchor=f"{anchor}-predictions")
        controls = self._controls()
        if controls:
            yield Section(title=f"{prefix}Controls", body=controls, anchor=f"{anchor}-controls")
        limits = parts.bullets((*self.presentation.limits, *self._own_limits(), *LIMITS))
        yield Section(title=f"{prefix}Limits", body=limits, anchor=f"{anchor}-limits")
        published = list(literature.rows(self.study.name, self.summary))
        if published:
            yield Section(title=f"{prefix}Literature", body=table(published), anchor=f"{anchor}-literature")
        yield Section(
            title=f"{prefix}How to make it again",
            body=preformatted(command_of(self.manifest, self.study)),
            anchor=f"{anchor}-again",
        )
        yield Section(title=f"{prefix}Provenance", body=self._provenance(), anchor=f"{anchor}-provenance")

    def footer(self) -> str:
        return paragraph(
            f"Study {self.study.name}, seed {self.manifest.seed}; every number of this page is in "
            "summary.csv beside it."
        )

    def _method(self) -> str:
        """What was compared, in one sentence."""
        counted = self.summary[self.summary["quantity"] == IDENTICAL.quantity_name]
        pairs = counted.groupby([*CELL[:-1]])[["pairs", "nonfinite_pairs"]].max().to_numpy().sum()
        scales = self.summary["scale"]
        return (
            f"These answers come from {pairs:,} pairs of networks; the two of a pair share their initial weights and "
            f"their data, and s runs from {scale_text(scales.min())} to {scale_text(scales.max())}."
        )

    def _own_limits(self) -> list[str]:
        own = [prediction.limits for prediction in self.study.predictions if prediction.limits]
        return [*own, *unjudged(self.study, self.summary)]

    def _predictions(self) -> str:
        rows = [
            {
                "id": row["prediction"],
                "prediction": raised_powers(row["says"]),
                "verdict": row["verdict"],
                **_without(row, "prediction", "says", "verdict", "reasons"),
                "why not judged": raised_powers(row["reasons"]),
            }
            for row in prediction_rows(self.study, self.summary)
        ]
        body = table(
            rows,
            caption="Each prediction is judged in every cell (network, optimizer, options, policy, scale, checkpoint) "
            "that it speaks about; numbers run from the smallest to the largest of them, or have their "
            "interval. Unresolved: the interval reaches to both sides of the tolerance, which was set before the run, "
            "or lies outside by itself but not by Holm’s step-down over all of its cells that intervals judge.",
        )
        failures = self.summary[self.summary["verdict"] == FAILS]
        if failures.empty:
            return body + paragraph("No prediction failed.")
        shown = failures.head(SHOWN_FAILURES)
        columns = [*CELL, "quantity", "predicted", "measured", "lo", "hi", "tolerance", "pairs", "verdict"]
        caption = f"Failed predictions: {len(failures)}" + (
            f", the first {SHOWN_FAILURES} shown" if len(failures) > len(shown) else ""
        )
        return body + table(_records(shown, columns), columns, caption=caption)

    def _controls(self) -> str:
        rows = list(_control_rows(self.summary))
        shown = {row["control"] for row in rows}
        says = [arm.control.says for arm in ARMS.values() if arm.control and raised_powers(arm.control.title) in shown]
        caption = " ".join(
            (*says, "A result of the same bits counts only where the models moved away from their initial weights.")
        )
        return table(rows, caption=raised_powers(caption)) if rows else ""

    def _provenance(self) -> str:
        rows = [{"item": name, "value": value} for name, value in _flat(plain(self.manifest))]
        return details("How this run was made (manifest.json)", table(rows))


def _without(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def _control_rows(summary: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One row per network and control."""
    for network, lines in summary.groupby("network", sort=False):
        final = lines[lines["step"] == lines["step"].max()]
        for arm in ARMS.values():
            if arm.control is None:
                continue
            of_arm = final[(final["arm"] == arm.name) & (final["against"] == arm.control.against)]
            if arm.control.exact_scales:
                of_arm = of_arm[of_arm["scale"].map(is_power_of_two) & (of_arm["scale"] != 1.0)]
            shares = of_arm[of_arm["quantity"] == IDENTICAL.quantity_name]
            if shares.empty:
                continue
            distance = of_arm.loc[of_arm["quantity"] == REL_DISTANCE.quantity_name, "measured"]
            moved = of_arm.loc[of_arm["quantity"] == MOVED.quantity_name, "measured"]
            yield {
                "network": network,
                "control": raised_powers(arm.control.title),
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
