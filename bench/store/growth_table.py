"""The tables of how populations grow: from docs/population-growth.csv, which `bench time population --growth` wrote."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_GROWS: Final[Mapping[str, tuple[str, Callable[[Mapping[str, str]], int]]]] = {
    "models": ("models", lambda row: int(row["models"])),
    "steps": ("steps", lambda row: int(row["steps"])),
    "width": ("hidden units", lambda row: int(row["network"].split("-")[2])),
}


def read(path: Path) -> list[dict[str, str]]:
    """The file's rows."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(rows: Sequence[Mapping[str, str]], sweep: str) -> tuple[list[str], list[list[str]]]:
    """Head and lines of a sweep: time of a model-step, a line per provider and a column per size.

    CPU time where it ran on a CPU, which others may be using; the clock's elsewhere. Where a provider trained fewer
    models than it was given, their number stands beside its time.
    """
    title, place = _GROWS[sweep]
    chosen = [row for row in rows if row["sweep"] == sweep]
    # A provider that is asked for a few models alone has its own number of them; the others say what the sizes are.
    sizes = sorted({place(row) for row in chosen if row["provider"] == "ours" and "trainer" in row["engine"]})
    shown: dict[str, dict[int, str]] = {}
    for row, size in zip(chosen, _given(chosen, place), strict=True):
        shown.setdefault(f"{row['provider']}: {row['engine']}", {})[size] = _shown(
            row, size if sweep == "models" else None
        )
    head = [f"µs a model-step, by {title}", *(f"{size:,}" for size in sizes), "first run, s"]
    lines = [[name, *(cells.get(size, "—") for size in sizes), _first(name, chosen)] for name, cells in shown.items()]
    return head, lines


def _given(rows: Sequence[Mapping[str, str]], place: Callable[[Mapping[str, str]], int]) -> list[int]:
    """The size that each row was asked for: that of the trainer's row before it."""
    sizes, now = [], 0
    for row in rows:
        if row["provider"] == "ours" and "trainer" in row["engine"]:
            now = place(row)
        sizes.append(now)
    return sizes


def _shown(row: Mapping[str, str], asked: int | None) -> str:
    if row["outcome"] != "timed":
        return row["outcome"]
    time = row["cpu_us_per_model_step"] if row["device"] == "cpu" else row["us_per_model_step"]
    fewer = asked is not None and int(row["models"]) < asked
    return f"{float(time):.3g}" + (f" (of {int(row['models']):,})" if fewer else "")


def _first(name: str, rows: Sequence[Mapping[str, str]]) -> str:
    """The span of first runs, compilation and all."""
    found = [float(row["first_s"]) for row in rows if f"{row['provider']}: {row['engine']}" == name and row["first_s"]]
    return f"{min(found):.1f}–{max(found):.1f}" if found else "—"


def origin(rows: Sequence[Mapping[str, Any]]) -> str:
    """One sentence: machine, versions, day."""
    first = rows[0]
    return f"{first['machine']}; {first['versions']}; {first['day']}."
