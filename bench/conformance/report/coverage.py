"""What a run covered: how many cases were compared, which were unsupported and why, how many were not run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..rows import APART, Outcome, Row


def coverage(rows: Sequence[Row], not_run: int) -> dict[str, Any]:
    """The counts of a run.

    Args:
        rows: of the run.
        not_run: cases that the time limit left out.

    Returns:
        `compared` (bits put side by side), `broke` (raised, died or hung), `unsupported`, `no_reference` (the reference
        has no such case), `missing` and `not_run`; and as `reasons` for each provider why cases, or states in them,
        were not compared, with their number.
    """
    outcomes = Counter(row.outcome for row in rows)
    reasons: dict[str, Counter[str]] = {}
    for row in rows:
        if not (row.outcome.compared or row.outcome.broke) or row.detail.startswith(APART):
            reasons.setdefault(row.provider, Counter())[reason(row)] += 1
    return {
        "compared": sum(count for outcome, count in outcomes.items() if outcome.compared),
        "broke": sum(count for outcome, count in outcomes.items() if outcome.broke),
        "unsupported": outcomes[Outcome.UNSUPPORTED],
        "no_reference": outcomes[Outcome.NO_REFERENCE],
        "missing": outcomes[Outcome.MISSING],
        "not_run": not_run,
        "reasons": {provider: dict(counted.most_common()) for provider, counted in reasons.items()},
    }


def reason(row: Row) -> str:
    """Why a case was not compared, in one line."""
    lines = row.detail.strip().splitlines()
    return lines[-1] if lines else str(row.outcome)


def counts_text(found: Mapping[str, Any]) -> str:
    """The counts in one line: what there is always, and the rest where there is any."""
    parts = [f"{found['compared']} compared", f"{found['unsupported']} unsupported", f"{found['not_run']} not run"]
    names = {"broke": "raised or hung", "no_reference": "without a reference", "missing": "with a missing package"}
    return ", ".join([*parts, *(f"{found[key]} {text}" for key, text in names.items() if found[key])])


def reasons_text(found: Mapping[str, Any]) -> list[str]:
    """A line for each provider that had cases that were not compared, with their number."""
    return [
        f"not compared for {provider}: " + ", ".join(f"{why} ({count})" for why, count in counted.items())
        for provider, counted in found["reasons"].items()
    ]
