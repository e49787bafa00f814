"""Counting conformance rows: one line per (optimizer, recipe, dtype), and what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ..rows import Outcome, Row


def tally(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Outcomes counted per (optimizer, recipe, dtype), in order of appearance."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for row in rows:
        counts.setdefault((row.optimizer, row.recipe, row.dtype), Counter())[row.outcome] += 1
    return [
        {"optimizer": o, "recipe": r, "dtype": d, "cases": sum(count.values()), **dict(count)}
        for (o, r, d), count in sorted(counts.items())
    ]


def markdown(rows: Sequence[Row], *, limit: int = 25) -> list[str]:
    """The tally as Markdown lines, then at most `limit` lines on failures, grouped by option text."""
    outcomes = sorted({row.outcome for row in rows}, key=lambda o: (o is not Outcome.IDENTICAL, o))
    lines = [f"| optimizer | recipe | dtype | cases | {' | '.join(outcomes)} |", "|" + "---|" * (4 + len(outcomes))]
    # One line for the three dtypes keeps the summary short when they agree.
    merged: dict[tuple[str, str, str], list[str]] = {}
    for line in tally(rows):
        cells = " | ".join([str(line["cases"]), *(str(line.get(o, 0)) for o in outcomes)])
        merged.setdefault((line["optimizer"], line["recipe"], cells), []).append(line["dtype"])
    lines += [f"| {o} | {r} | {' '.join(dtypes)} | {cells} |" for (o, r, cells), dtypes in merged.items()]
    failing: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.outcome.failed:
            failing.setdefault((row.optimizer, row.recipe, row.outcome, row.options), []).append(row)
    if failing:
        lines += ["", f"{sum(map(len, failing.values()))} failures in {len(failing)} option sets:"]
    for (optimizer, recipe, outcome, options), found in list(failing.items())[:limit]:
        dtypes = " ".join(sorted({row.dtype for row in found}))
        shapes = " ".join(sorted({f"{row.shape}/{row.values}" for row in found}))
        elements = found[0].elements or {}
        detail = found[0].detail.strip().splitlines()[-1][:120] if found[0].detail else str(elements)
        lines.append(f"- {outcome} {optimizer} {recipe} {dtypes} `{options}` [{shapes}] ×{len(found)}: {detail}")
    return lines
