"""A conformance run as text and as a JSON document."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from lossscale.support import provenance
from lossscale.support.output import Output

from ..claims import strongest, summary
from ..rows import Outcome, Row

SCHEMA = 1
_SHOWN_FAILURES = 12


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


def document(rows: Sequence[Row], broken: Sequence[Row], device: str, not_run: int) -> dict[str, Any]:
    """The run as one JSON document: the table of DESIGN, the claims drawn from it, and the machine."""
    cells = strongest(rows)
    return {
        "rows": [row.as_dict() for row in rows],
        "claims": cells,
        "summary": summary(cells),
        "comparisons": len(rows),
        "broken_claims": len(broken),
        "not_run": not_run,
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
    late = f", {found['not_run']} not run in the time limit" if found["not_run"] else ""
    output.note(f"{len(broken)} of {len(rows)} comparisons break a claim{late}")


def _merged(summary: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The summary with one line for the dtypes that agree."""
    dtypes: dict[tuple[str, str, str, str], list[str]] = {}
    for cell in summary:
        key = (cell["provider"], cell["optimizer"], cell["claim"] or "-", cell["scaling"])
        dtypes.setdefault(key, []).append(cell["dtype"])
    return [
        {
            "provider": provider,
            "optimizer": optimizer,
            "dtype": " ".join(names),
            "strongest claim that holds": claim[:90],
            "2^k loss": scaling,
        }
        for (provider, optimizer, claim, scaling), names in dtypes.items()
    ]


def sentence(row: Row) -> str:
    """A failure in one line."""
    head = f"{row.provider} {row.optimizer} {row.dtype} {row.options} [{row.shape}/{row.values}, {row.steps} steps]"
    if row.outcome is not Outcome.MISMATCH:
        last = row.detail.strip().splitlines()[-1] if row.detail.strip() else ""
        return f"{head}: {row.outcome}: {last}"
    first = row.first_mismatch
    if not first:
        return f"{head}: {row.detail}"
    name = first.quantity
    return (
        f"{head}: step {first.step}, {name}[{first.index}] is {first.provider.get(name, '?')}, "
        f"{row.against} has {first.against.get(name, '?')}, up to {row.max_ulp} ulp"
    )
