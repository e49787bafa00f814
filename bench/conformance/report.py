"""A conformance run as text, as a JSON document and as JUnit XML."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lossscale.support import provenance
from lossscale.support.output import Output

from .claims import strongest, summary

SCHEMA = 1
RESULTS = Path(__file__).resolve().parents[1] / "results"
_SHOWN_FAILURES = 12


class Progress:
    """A counter on a terminal; nothing elsewhere."""

    def __init__(self, output: Output) -> None:
        self._on = sys.stderr.isatty() and not output.as_json
        self._count = self._different = 0

    def show(self, row: Any) -> None:
        """Count a row that has ended."""
        self._count += 1
        self._different += row.outcome in ("mismatch", "error", "timeout")
        if self._on:
            print(f"\r{self._count} comparisons, {self._different} differ", end="", file=sys.stderr, flush=True)


def document(rows: Sequence[Any], broken: Sequence[Any], device: str, not_run: int) -> dict[str, Any]:
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


def show(output: Output, found: dict[str, Any], rows: Sequence[Any], broken: Sequence[Any]) -> None:
    """What a person reads: the strongest claim per provider, optimizer and dtype, then the claims that failed."""
    if sys.stderr.isatty() and not output.as_json:
        print(file=sys.stderr)
    if output.as_json:
        output.table(found["rows"], **{name: value for name, value in found.items() if name != "rows"})
        return
    lines = _merged(found["summary"])
    output.table(lines, title=f"{len(rows)} comparisons")
    output.note()
    for row in broken[:_SHOWN_FAILURES]:
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


def sentence(row: Any) -> str:
    """A failure in one line."""
    head = f"{row.provider} {row.optimizer} {row.dtype} {row.options} [{row.shape}/{row.values}, {row.steps} steps]"
    if row.outcome != "mismatch":
        last = row.detail.strip().splitlines()[-1] if row.detail.strip() else ""
        return f"{head}: {row.outcome}: {last}"
    first = row.first_mismatch
    if not first:
        return f"{head}: {row.detail}"
    name = first["quantity"]
    return (
        f"{head}: step {first['step']}, {name}[{first['index']}] is {first['provider'].get(name, '?')}, "
        f"{row.against} has {first['against'].get(name, '?')}, up to {row.max_ulp} ulp"
    )


def junit_xml(rows: Sequence[Any], broken: Sequence[Any]) -> str:
    """JUnit's XML: one suite per provider, one case per row."""
    failing = {id(row) for row in broken}
    root = ElementTree.Element("testsuites", name="bench conform")
    by_provider: dict[str, list[Any]] = {}
    for row in rows:
        by_provider.setdefault(row.provider, []).append(row)
    for provider, found in by_provider.items():
        bad = [row for row in found if id(row) in failing]
        errors = sum(row.outcome in ("error", "timeout") for row in bad)
        skipped = [row for row in found if row.outcome in ("unsupported", "missing", "no reference")]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=provider,
            tests=str(len(found)),
            failures=str(len(bad) - errors),
            errors=str(errors),
            skipped=str(len(skipped)),
            time=f"{sum(row.time_s for row in found):.3f}",
        )
        for row in found:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=f"{provider}.{row.optimizer}.{row.dtype}",
                name=f"{row.options} {row.shape}/{row.values} {row.steps} steps against {row.against}",
                time=f"{row.time_s:.3f}",
            )
            if id(row) in failing:
                kind = "error" if row.outcome in ("error", "timeout") else "failure"
                ElementTree.SubElement(case, kind, message=_clean(sentence(row))).text = _clean(row.detail)
            elif row in skipped:
                ElementTree.SubElement(case, "skipped", message=_clean(row.detail))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(c for c in text if c in "\t\n" or ord(c) >= 32)


def kept_results() -> list[str]:
    """Result files of the repository, by device."""
    return sorted(str(path.relative_to(RESULTS)) for path in RESULTS.glob("*/*.json")) if RESULTS.is_dir() else []
