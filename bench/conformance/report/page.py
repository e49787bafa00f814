"""The conformance page: the strongest claim per provider, optimizer and dtype, histograms, and first mismatches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lossscale.support import html

from ..cases import DTYPES, LAYOUT_NOTES, VALUE_NOTES
from ..rows import Outcome, Row
from .coverage import counts_text
from .document import NOT_TESTED, sentence

_MARKS = {3: "holds", 2: "", 1: "fails", 0: "fails", None: "unpredicted"}
_BAR = 260
_MISMATCHES = 200


def conformance_page(rows: Sequence[Row], document: Mapping[str, Any]) -> str:
    """One self-contained HTML page of a run."""
    identical = sum(row.outcome is Outcome.IDENTICAL for row in rows)
    covered = document["coverage"]
    lead = html.paragraph(
        f"{len(rows)} comparisons: {counts_text(covered)}; {identical} are identical in every bit, "
        f"{document['broken_claims']} break a claim. A cell names the strongest claim that holds over all its options."
    )
    references = ", ".join(document["references"]) or "float64"
    lead += html.preformatted(document["command"]) + html.paragraph(
        f"Run on {document['date']}, compared with {references}; distances are from one step in float64."
    )
    sections = [
        html.Section(title="Claims", anchor="claims", body=_matrix(document["summary"])),
        html.Section(title="What was compared", anchor="coverage", body=_coverage(covered)),
        html.Section(title="Per option", anchor="options", body=_options(document["claims"])),
        html.Section(title="Distances", anchor="distances", body=_histograms(rows)),
        html.Section(title="First mismatches", anchor="mismatches", body=_mismatches(rows)),
        html.Section(title="Words", anchor="words", body=_words(rows)),
    ]
    machine = document["provenance"]
    footer = html.paragraph(
        f"{machine['device_name'] or machine['processor']}, Python {machine['python']}, "
        + ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    )
    return html.page("Optimizer conformance", sections, lead=lead, footer=footer)


def _coverage(covered: Mapping[str, Any]) -> str:
    text = html.paragraph(f"{counts_text(covered)}. Not compared is no failure.")
    reasons = [
        {"provider": provider, "cases": count, "why they were not compared": why}
        for provider, counted in covered["reasons"].items()
        for why, count in counted.items()
    ]
    return text + (html.table(reasons) if reasons else "")


def _words(rows: Sequence[Row]) -> str:
    """What the layouts and values of the run's cases are: `long/wide` is one of each."""
    shapes, values = {row.shape for row in rows}, {row.values for row in rows}
    lines = [{"tensors": name, "are": note} for name, note in LAYOUT_NOTES.items() if name in shapes]
    kinds = [{"values": name, "are": note} for name, note in VALUE_NOTES.items() if name in values]
    ulp = html.paragraph(
        "An ulp is the distance from a number to the next of its dtype; 'N ulp of fp32 off' counts the float32 numbers "
        "between two results; from float64 it counts the spacing at the largest of parameter before, after and change."
    )
    return html.table(lines) + html.table(kinds) + ulp


def _matrix(summary: Sequence[Mapping[str, Any]]) -> str:
    optimizers = list(dict.fromkeys(line["optimizer"] for line in summary))
    present = {(line["optimizer"], line["dtype"]) for line in summary}
    columns = [(name, dtype) for name in optimizers for dtype in DTYPES if (name, dtype) in present]
    cells = {(line["provider"], line["optimizer"], line["dtype"]): line for line in summary}
    head = "".join(f"<th>{escape(optimizer)}<br>{escape(dtype)}</th>" for optimizer, dtype in columns)
    body = []
    for provider in dict.fromkeys(line["provider"] for line in summary):
        line = "".join(_cell(cells.get((provider, *column))) for column in columns)
        body.append(f"<tr><th>{escape(provider)}</th>{line}</tr>")
    return (
        '<div class="scroll"><table><caption>Strongest claim that holds, over every option the provider has. '
        "2^k: 2^k times the loss with mapped hyperparameters repeats the run. Hover for how many options and cases."
        "</caption>"
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(line: Mapping[str, Any] | None) -> str:
    if line is None:
        return f'<td class="unpredicted">{NOT_TESTED}</td>'
    claim = line["claim"]
    short = {
        "identical to ": "= ",
        " from float64 per step": " of float64",
        "not offered: ": "",
    }
    text = claim or NOT_TESTED
    for old, new in short.items():
        text = text.replace(old, new)
    mark = "unpredicted" if claim.startswith("not offered") else _MARKS[line["strength"]]
    scaling = {"holds": "2^k", "fails": "not 2^k"}.get(line["scaling"], f"2^k {NOT_TESTED}")
    title = f"{line['options']} options, {line['compared']} of {line['cases']} cases compared; {claim or NOT_TESTED}"
    body = f"{escape(text[:60])}<br><small>{escape(scaling)}</small>"
    return f'<td class="{mark}" title="{escape(title)}">{body}</td>'


def _options(claims: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for provider in dict.fromkeys(cell["provider"] for cell in claims):
        lines = [
            {
                "optimizer": cell["optimizer"],
                "options": cell["options"],
                "dtype": cell["dtype"],
                "strongest claim": cell["claim"] or NOT_TESTED,
                "2^k loss": cell["scaling"] or NOT_TESTED,
                "compared": f"{cell['compared']} of {cell['cases']}",
                "differing": cell["differing"],
                "ulp from float64": _ulp(cell["ulp"]),
            }
            for cell in claims
            if cell["provider"] == provider
        ]
        parts.append(html.details(f"{provider}: {len(lines)} combinations", html.table(lines)))
    return "".join(parts)


def _ulp(ulp: int | None) -> int | str:
    if ulp is None:
        return NOT_TESTED
    return "not a number" if ulp > 2**40 else ulp


def _histograms(rows: Sequence[Row]) -> str:
    """Elements by distance from float64, per provider, optimizer and dtype."""
    totals: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in rows:
        if row.against == "float64" and row.histogram:
            bins = totals.setdefault((row.provider, row.optimizer, row.dtype), {})
            for name, count in row.histogram.items():
                bins[name] = bins.get(name, 0) + count
    if not totals:
        return html.paragraph("No distance from float64 was measured in this run.")
    by_provider: dict[str, list[str]] = {}
    for (provider, optimizer, dtype), bins in totals.items():
        figure = html.figure(_bars(bins), f"{provider}, {optimizer}, {dtype}: parameters by ulp from float64")
        by_provider.setdefault(provider, []).append(figure)
    return "".join(html.details(provider, "".join(figures)) for provider, figures in by_provider.items())


def _bars(bins: Mapping[str, int]) -> str:
    whole = sum(bins.values())
    names = sorted(bins, key=lambda name: float(name.split("-")[0]) if name[0].isdigit() else float("inf"))
    lines = []
    for k, name in enumerate(names):
        share = bins[name] / whole
        # A single element must still be seen.
        width = max(1.0, _BAR * share)
        lines.append(
            f'<text x="96" y="{18 * k + 13}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="104" y="{18 * k + 2}" width="{width:.1f}" height="13" fill="var(--accent)"/>'
            f'<text x="{110 + width:.1f}" y="{18 * k + 13}">{bins[name]} ({100 * share:.3g}%)</text>'
        )
    height = 18 * len(names) + 6
    return (
        f'<svg viewBox="0 0 520 {height}" width="520" height="{height}" role="img" '
        f'style="max-width:100%;font-size:12px;fill:var(--ink)">{"".join(lines)}</svg>'
    )


def _mismatches(rows: Sequence[Row]) -> str:
    found = [row for row in rows if row.outcome.failed and row.against != "float64"]
    parts = []
    for row in found[:_MISMATCHES]:
        parts.append(html.details(sentence(row), _mismatch(row)))
    if not parts:
        return html.paragraph("None.")
    if len(found) > _MISMATCHES:
        parts.append(html.paragraph(f"{len(found) - _MISMATCHES} more are in the JSON document."))
    return "".join(parts)


def _mismatch(row: Row) -> str:
    first = row.first_mismatch
    if not first:
        return f"<pre>{escape(row.detail)}</pre>"
    names = dict.fromkeys([*first.inputs, *first.provider, *first.against])
    lines = [
        {
            "quantity": name,
            "before": first.inputs.get(name, ""),
            row.provider: first.provider.get(name, ""),
            row.against: first.against.get(name, ""),
            "": "differs" if first.provider.get(name) != first.against.get(name) else "",
        }
        for name in names
    ]
    elements = ", ".join(f"{count} of {name}" for name, count in row.elements.items())
    text = f"Step {first.step}, element {first.index}. Elements that differ after this step: {elements}."
    where = first.line
    line = html.paragraph(f"First parts at {where['where']}: {where['text']}") if where else ""
    return html.paragraph(text) + line + html.table(lines) + (_distances(row) if row.histogram else "")


def _distances(row: Row) -> str:
    return html.figure(_bars(row.histogram), f"Parameters by ulp from {row.against} after this step")
