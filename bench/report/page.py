"""The page of timing results, from results that were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lossscale.support import html

from ..store import freshness
from .sections import sections_of
from .source import Source


def freshness_rows(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """One row a result: where it comes from, and whose kernels have changed since."""
    rows = []
    for source in sources:
        document = source.result.document
        machine = document.get("provenance", {})
        stale = freshness.stale(document)
        rows.append(
            {
                "result": source.label,
                "device": machine.get("device"),
                "machine": source.machine,
                "torch": machine.get("packages", {}).get("torch"),
                "triton": machine.get("packages", {}).get("triton"),
                "revision": str(machine.get("git_revision") or "")[:10],
                "rows": len(source.result.rows),
                "throttled": sum(row.throttled for row in source.rows),
                "fresh": not stale,
                "stale": stale,
            }
        )
    return rows


def report_page(sources: Sequence[Source]) -> str:
    """One self-contained HTML page.

    Args:
        sources: at least one; a GPU's come first.
    """
    fresh = freshness_rows(sources)
    stale = [row for row in fresh if not row["fresh"]]
    said = (
        "Every result was made with today's kernels."
        if not stale
        else "; ".join(f"{row['result']} is stale for {', '.join(row['stale'])}" for row in stale) + "."
    )
    results = "one result" if len(sources) == 1 else f"{len(sources)} results"
    lead = html.paragraph(f"{sum(len(source.rows) for source in sources)} timed steps in {results}. {said}")
    sections = [html.Section(title="Results and staleness", anchor="staleness", body=_staleness(fresh))]
    for number, source in enumerate(sources):
        sections += sections_of(source, f"-{number}" if number else "", several=len(sources) > 1)
    return html.page("Optimizer steps: time", sections, lead=lead, footer=html.paragraph(_FOOTER))


_FOOTER = (
    "Times are medians of raw samples in the result files. A parameter is one element. Ours have torch's bits; "
    "a row with wrong bits has no time. Rows that are throttled have the times of a device that was held back. "
    "docs/method.md says how times are taken and where the model fails."
)


def _staleness(fresh: Sequence[Mapping[str, Any]]) -> str:
    shown = [{**row, "stale": ", ".join(row["stale"]) or "–"} for row in fresh]
    return html.table(shown, caption="Fresh: the hash of what decides an algorithm's machine code is today's.")
