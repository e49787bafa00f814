"""The sections that a result has on the page, each from its rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from lossscale.support import html

from ..store.schema import StepRow
from ..timing.cost_model import Machine, Prediction, predictions
from .chart import Axis, Series, chart, linear, powers_of_ten, powers_of_two
from .history import headlines, versions
from .source import Source

_FAMILIES = (
    ("ours", "kernels-"),
    ("torch fused", "torch-fused"),
    ("torch foreach", "torch-foreach"),
    ("torch for-loop", "torch-for-loop"),
)
"""What the pictures tell apart, and how the names of its providers begin."""


def sections_of(source: Source, suffix: str, *, several: bool) -> Iterator[html.Section]:
    """In the page's order; `suffix` sets their anchors apart from those of another result."""
    named = f" ({source.label})" if several else ""
    machine, told = predictions(source.result.document, source.rows)
    for title, anchor, body in (
        ("Roofline: bytes per parameter against time", "roofline", _roofline(source, machine, told)),
        ("Share of the ceiling by size", "ceiling", _shares(source)),
        ("Launches and the host", "launches", _launches(source, told)),
        ("Predicted and measured", "model", _model(machine, told)),
        ("History by commit", "history", _history(source)),
    ):
        yield html.Section(title=f"{title}{named}", anchor=f"{anchor}{suffix}", body=body)


def _family(provider: str) -> str:
    """What a provider is drawn as; those that nobody foresaw as themselves."""
    return next((name for name, start in _FAMILIES if provider.startswith(start)), provider)


def _by_family(points: Sequence[tuple[str, tuple[float, float, str]]], *, line: bool) -> list[Series]:
    """A series for each family that has points; the known ones keep their colours from picture to picture."""
    found: dict[str, list[tuple[float, float, str]]] = {name: [] for name, _ in _FAMILIES}
    for provider, point in points:
        found.setdefault(_family(provider), []).append(point)
    return [
        Series(name=name, points=sorted(at), style=style, line=line)
        for style, (name, at) in enumerate(found.items())
        if at
    ]


def _none(what: str) -> str:
    return html.paragraph(f"No {what} in this result.")


def _figure(series: Sequence[Series], x: Axis, y: Axis, caption: str) -> str:
    return html.figure(chart(series, x, y, label=caption), caption)


def _roofline(source: Source, machine: Machine | None, told: Sequence[Prediction]) -> str:
    single = [one for one in told if one.row.tensors == 1]
    if machine is None or not single:
        return _none("single tensor whose bytes can be counted")
    largest = max(one.row.elements for one in single)
    points = []
    for one in (one for one in single if one.row.elements == largest):
        row = one.row
        each, ps = one.work.bytes_moved / row.elements, 1e3 * one.measured_ns / row.elements
        note = f"{row.provider} {row.optimizer} {row.dtype}: {each:.3g} bytes, {ps:.3g} ps a parameter"
        points.append((row.provider, (each, ps, note)))
    furthest = max(point[0] for _, point in points)
    roof = [(0.0, 0.0, ""), (furthest, 1e3 * furthest / machine.copy_gb_per_s, "")]
    series = [
        *_by_family(points, line=False),
        Series(name=f"copy, {machine.copy_gb_per_s:.0f} GB/s", points=roof, mark=False),
    ]
    rows = [
        {
            "provider": one.row.provider,
            "optimizer": one.row.optimizer,
            "dtype": one.row.dtype,
            "bytes a parameter": one.work.bytes_moved / one.row.elements,
            "ps a parameter": 1e3 * one.measured_ns / one.row.elements,
            "GB/s": one.work.bytes_moved / one.measured_ns,
        }
        for one in single
        if one.row.elements == largest
    ]
    x = linear("bytes read and written a parameter, counted", 0.0, furthest)
    y = linear("ps a parameter", 0.0, max(max(point[1] for _, point in points), roof[1][1]))
    caption = (
        f"{source.machine}, one tensor of {largest:,} parameters. On the line memory is the limit; a step can only "
        "come down by moving fewer bytes, further to the left. Points: every optimizer and dtype."
    )
    return _figure(series, x, y, caption) + html.details("The points as a table", html.table(rows))


def _shares(source: Source) -> str:
    parts = []
    for optimizer in ("AdamW", "SGD"):
        for dtype in ("fp32", "bf16"):
            best: dict[tuple[str, int], tuple[float, float, str]] = {}
            for row in source.rows:
                if (row.tensors, row.optimizer, row.dtype) != (1, optimizer, dtype) or not row.share_of_copy:
                    continue
                family, share = _family(row.provider), 100 * row.share_of_copy
                key = (family, row.elements)
                # Our recipes move the same bytes: the family's line is its default recipe's, or the only one there.
                if key not in best or row.provider.startswith("kernels-foreach"):
                    best[key] = (float(row.elements), share, f"{row.provider} {row.workload}: {share:.1f} %")
            sizes = [key[1] for key in best]
            if len(set(sizes)) < 2:
                continue
            start = dict(_FAMILIES)
            lines = [(start.get(family, family), point) for (family, _), point in best.items()]
            y = linear("% of a copy of as many bytes", 0.0, max(100.0, *(point[1] for _, point in lines)))
            caption = (
                f"{source.machine}, {optimizer} {dtype}, one tensor: fewest bytes over kernel time, against a copy."
            )
            parts.append(_figure(_by_family(lines, line=True), powers_of_two("parameters", sizes), y, caption))
    return "".join(parts) or _none("optimizer over one tensor of several sizes")


def _launches(source: Source, told: Sequence[Prediction]) -> str:
    counted = {id(one.row): one.work.launches for one in told}
    many = [row for row in source.rows if row.tensors > 1 and row.dtype == "fp32" and row.optimizer == "AdamW"]
    single = [row for row in source.rows if row.tensors == 1 and (row.optimizer, row.dtype) == ("AdamW", "fp32")]
    rows = [
        {
            "workload": row.workload,
            "tensors": row.tensors,
            "provider": row.provider,
            "launches": counted.get(id(row)),
            "kernel_us": _us(row.kernel_time_ns),
            "step_us": _us(row.step_time_ns),
            "queued_us": _us(row.queued_time_ns),
            "host_us": _us(row.host_time_ns),
        }
        for row in many
    ]
    steps = [
        (
            row.provider,
            (
                float(row.elements),
                row.step_time_ns / 1e3,
                f"{row.provider} {row.workload}: {row.step_time_ns / 1e3:.4g} µs",
            ),
        )
        for row in single
        if row.step_time_ns
    ]
    parts = []
    if len({point[0] for _, point in steps}) > 1:
        x = powers_of_two("parameters of one tensor", [point[0] for _, point in steps])
        y = powers_of_ten("µs a step", [point[1] for _, point in steps])
        caption = (
            f"{source.machine}, AdamW float32: a whole step. Where points lie level, host and launches are the time."
        )
        parts.append(_figure(_by_family(steps, line=False), x, y, caption))
    if rows:
        caption = "AdamW float32 over many tensors: launches, counted, and where the time goes."
        parts.append(html.table(rows, caption=caption))
    return "".join(parts) or _none("step of AdamW in float32")


def _us(ns: float | None) -> float | None:
    """For a table: whole numbers from a thousand on."""
    us = None if ns is None else ns / 1e3
    return us if us is None or us < 1e3 else round(us)


def _model(machine: Machine | None, told: Sequence[Prediction]) -> str:
    if machine is None or not told:
        return _none("step whose bytes and launches can be counted")
    points = [
        (
            one.row.provider,
            (
                float(one.row.elements),
                100 * one.error,
                f"{one.row.provider} {one.row.optimizer} {one.row.dtype} {one.row.workload}: {100 * one.error:+.1f} %",
            ),
        )
        for one in told
    ]
    text = html.paragraph(
        f"launches × {machine.launch_ns / 1e3:.3g} µs ({machine.launch_from}) + bytes ÷ {machine.copy_gb_per_s:.4g} "
        "GB/s. An error below zero is time that bytes and launches do not explain."
    )
    x = powers_of_two("parameters", [point[0] for _, point in points])
    errors = [point[1] for _, point in points]
    caption = "Predicted over measured, less one, for every step that can be counted."
    picture = _figure(_by_family(points, line=False), x, linear("error, %", min(errors), max(0.0, *errors)), caption)
    groups: dict[tuple[str, str], list[float]] = {}
    for one in told:
        groups.setdefault((_family(one.row.provider), _size(one.row)), []).append(one.error)
    summary = [
        {
            "provider": family,
            "workloads": size,
            "steps": len(errors),
            "least %": round(100 * min(errors), 1),
            "median %": round(100 * median(errors), 1),
            "most %": round(100 * max(errors), 1),
        }
        for (family, size), errors in sorted(groups.items(), key=lambda item: (item[0][0], _SIZES.index(item[0][1])))
    ]
    rows = [{**one.as_dict(), "error": round(100 * one.error, 1)} for one in told]
    table = html.table(rows, titles={"error": "error %"})
    return (
        text + picture + html.table(summary, caption="Errors by size.") + html.details(f"All {len(rows)} steps", table)
    )


_SIZES = ("below 2^20", "2^20 to 2^25", "from 2^26", "many tensors")


def _size(row: StepRow) -> str:
    if row.tensors > 1:
        return _SIZES[3]
    return _SIZES[(row.elements >= 1 << 20) + (row.elements >= 1 << 26)]


def _history(source: Source) -> str:
    found = versions(source.path)
    if not found:
        return html.paragraph("This file has no history: it is not in a git repository, or not yet committed there.")
    commits = [
        {
            "commit": version.revision,
            "date": version.date,
            "subject": version.subject + ("" if version.result else " (not readable by today's code)"),
        }
        for version in found
    ]
    # Time runs to the right.
    readable = [version for version in reversed(found) if version.result is not None]
    rows: list[dict[str, Any]] = []
    for line in headlines():
        values = {version.revision: line.of(version.result) for version in readable if version.result is not None}
        if any(value is not None for value in values.values()):
            rows.append({"AdamW and SGD, float32": line.title, **values})
    numbers = html.table(rows, caption="÷ is ours over torch's time with the same arithmetic.") if rows else ""
    return numbers + html.table(commits, caption="Commits that changed this result, the latest first.")
