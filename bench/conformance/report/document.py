"""A conformance run as text and as a JSON document."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from lossscale.support import provenance
from lossscale.support.output import Output

from ..claims import strongest, summary
from ..rows import Outcome, Row
from .common import common_text
from .coverage import counts_text, coverage, reasons_text

SCHEMA = 1
_SHOWN_FAILURES = 12
NOT_TESTED = "not tested"


class Progress:
    """A counter on a terminal; nothing elsewhere."""

    def __init__(self, output: Output) -> None:
        self._on = sys.stderr.isatty() and not output.as_json
        self._count = self._different = 0

    def show(self, row: Row) -> None:
        """Count a row that has ended."""
        self._count += 1
        self._different += row.outcome.failed
        if self._on:
            print(f"\r{self._count} comparisons, {self._different} differ", end="", file=sys.stderr, flush=True)


def document(
    rows: Sequence[Row], broken: Sequence[Row], device: str, not_run: int, *, command: str = ""
) -> dict[str, Any]:
    """The run as one JSON document: the table of DESIGN, the claims drawn from it, what was covered, and the machine.

    Args:
        rows: of the run.
        broken: those that break a claim.
        device: where it ran.
        not_run: cases that the time limit left out.
        command: what was typed.
    """
    cells = strongest(rows)
    references = dict.fromkeys(row.against for row in rows if row.against not in (row.provider, "float64"))
    return {
        "rows": [row.as_dict() for row in rows],
        "claims": cells,
        "summary": summary(cells),
        "comparisons": len(rows),
        "coverage": coverage(rows, not_run),
        "broken_claims": len(broken),
        "not_run": not_run,
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "references": list(references),
        "schema": SCHEMA,
        "provenance": provenance.collect(device).as_dict(),
    }


def show(output: Output, found: dict[str, Any], rows: Sequence[Row], broken: Sequence[Row]) -> None:
    """What a person reads: the strongest claim per provider, optimizer and dtype, then the claims that failed."""
    if sys.stderr.isatty() and not output.as_json:
        print(file=sys.stderr)
    if output.as_json:
        output.table(found["rows"], **{name: value for name, value in found.items() if name != "rows"})
        return
    lines = _merged(found["summary"])
    output.table(lines, title=f"{len(rows)} comparisons")
    output.note()
    # The plainest first: what fails there fails elsewhere too.
    for row in sorted(broken, key=lambda row: len(row.options.split()))[:_SHOWN_FAILURES]:
        output.note(f"failed: {sentence(row)}")
    if len(broken) > _SHOWN_FAILURES:
        output.note(f"... and {len(broken) - _SHOWN_FAILURES} more; --out FILE.html or --json has them all")
    for line in common_text(rows, broken):
        output.note(line)
    for line in reasons_text(found["coverage"]):
        output.note(line)
    output.note(f"{len(rows)} comparisons: {counts_text(found['coverage'])}")
    output.note(f"{len(broken)} of {len(rows)} comparisons break a claim")


def _merged(summary: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The summary with one line for the dtypes that agree."""
    cells: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for cell in summary:
        key = (cell["provider"], cell["optimizer"], cell["claim"], cell["scaling"])
        cells.setdefault(key, []).append(cell)
    return [
        {
            "provider": provider,
            "optimizer": optimizer,
            "dtype": " ".join(cell["dtype"] for cell in found),
            "strongest claim that holds": (claim or NOT_TESTED)[:90],
            "2^k loss": scaling or NOT_TESTED,
            "compared": f"{sum(cell['compared'] for cell in found)} of {sum(cell['cases'] for cell in found)}",
        }
        for (provider, optimizer, claim, scaling), found in cells.items()
    ]


def sentence(row: Row) -> str:
    """A failure in one line: the case with every group's options, the first difference, the largest, torch's own."""
    head = f"{row.provider} {row.optimizer} {row.dtype} {row.options}"
    head += f" ({row.groups})" * bool(row.groups) + f" [{row.shape}/{row.values}, {row.steps} steps]"
    if row.outcome is not Outcome.MISMATCH:
        last = row.detail.strip().splitlines()[-1] if row.detail.strip() else ""
        return f"{head}: {row.outcome}: {last}"
    first = row.first_mismatch
    if not first:
        return f"{head}: {row.detail}"
    name = first.quantity
    text = (
        f"{head}: step {first.step}, {name}[{first.index}] is {first.provider.get(name, '?')}, "
        f"{row.against} has {first.against.get(name, '?')}"
    )
    most = first.largest
    if most:
        place = f"{most['quantity']}[{most['index']}]"
        text += f"; largest difference at {place}, {_number(most['provider'])} for {_number(most['against'])}, "
        text += row.distance()
    return f"{text}; {first.torch}" if first.torch else text


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.9g}"
