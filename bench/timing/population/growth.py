"""How the time of a model-step grows with models, steps and width: rows, a table as CSV, and a picture."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from lossscale.support import errors, files, provenance

from .problem import of_width
from .run import COMPARED_MODELS, Report, begun, compare, everybody, timed

TABLE: Final = "population-growth.csv"
PICTURE: Final = "population-growth.png"
COLUMNS: Final = (
    *("sweep", "provider", "engine", "device", "network", "optimizer", "policy", "per_model", "models", "steps"),
    *("us_per_model_step", "cpu_us_per_model_step", "first_s", "final_loss", "outcome"),
)
_KEPT: Final = (*COLUMNS, "reason", "machine", "versions", "day")
_BY_HAND: Final = "models last by hand"
"""JAX's other form, slower wherever it was measured and slow to compile."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One thing grows, the others stay.

    Attributes:
        name: of what grows.
        points: (models, steps, hidden units).
        column: of `points`, the thing that grows.
        title: of its axis.
    """

    name: str
    points: tuple[tuple[int, int, int], ...]
    column: int
    title: str


SWEEPS: Final = (
    Sweep(
        name="models",
        points=tuple((models, 200, 6) for models in (8, 64, 512, 8192, 65536)),
        column=0,
        title="models, mlp-6-6-1, 200 steps",
    ),
    Sweep(
        name="steps",
        points=tuple((1024, steps, 6) for steps in (10, 100, 1000)),
        column=1,
        title="steps, 1,024 of mlp-6-6-1",
    ),
    Sweep(
        name="width",
        points=tuple((1024, 100, hidden) for hidden in (3, 6, 12, 24, 48)),
        column=2,
        title="hidden units H, 1,024 of mlp-6-H-1, 100 steps",
    ),
)


def measure(device: str, *, minutes: float, sweeps: Sequence[Sweep] = SWEEPS) -> dict[str, Any]:
    """Every sweep, of everybody who computes the same in that width.

    Args:
        device: ``cuda`` or ``cpu``.
        minutes: what has not begun by then is listed as not run.
        sweeps: which.

    Returns:
        The document: ``rows``, each with its ``sweep``; ``agreement``, ``errors`` and the like as of any run.
    """
    report = begun(device, lambda document: None, minutes)
    everyone = [peer for peer in everybody(device) if _BY_HAND not in peer.engine]
    agreed = {}
    for sweep in sweeps:
        for models, steps, hidden in sweep.points:
            network = of_width(hidden)
            if hidden not in agreed:
                agreed[hidden] = compare(report, device, everyone, network, models=COMPARED_MODELS)
            before = len(report.document.get("rows", []))
            report.stage("rows", timed(everyone, agreed[hidden], models, steps, device, network))
            for row in report.document["rows"][before:]:
                row["sweep"] = sweep.name
    return _told(report, device)


def _told(report: Report, device: str) -> dict[str, Any]:
    origin = provenance.collect(device)
    names = ("torch", "numba", "triton", "jax", "optax")
    threads = report.document["device"].partition(", ")[2]
    report.document["machine"] = ", ".join(filter(None, (origin.device_name, threads)))
    report.document["versions"] = ", ".join(f"{n} {origin.packages[n]}" for n in names if n in origin.packages)
    report.document["day"] = datetime.now(UTC).date().isoformat()
    return report.document


def csv_text(rows: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> str:
    """The rows as CSV, numbers with four significant digits, each with the machine, the versions and the day."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, _KEPT, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    shared = {name: document[name] for name in ("machine", "versions", "day")}
    for row in rows:
        writer.writerow({name: _short(value) for name, value in {"outcome": "timed", **row, **shared}.items()})
    return sink.getvalue()


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def draw(rows: Sequence[Mapping[str, Any]], out: Path, document: Mapping[str, Any]) -> None:
    """A panel per sweep: time of a model-step against what grows, both logarithmic.

    Raises:
        InputError: where matplotlib is missing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise errors.InputError("--growth", out, "the picture needs matplotlib: pip install matplotlib")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    measured = [row for row in rows if row["us_per_model_step"] is not None]
    names = list(dict.fromkeys(f"{row['provider']}: {row['engine']}" for row in measured))
    on_cpu = all(row["device"] == "cpu" for row in measured)
    with mpl.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "svg.hashsalt": "growth"}):
        figure = Figure(figsize=(11, 4.6), facecolor="white", layout="constrained")
        every = figure.subplots(1, len(SWEEPS), sharey=True)
        for axes, sweep in zip(every, SWEEPS, strict=True):
            for number, name in enumerate(names):
                points = sorted(_points(measured, sweep, name, on_cpu))
                if points:
                    style = "o-" if name.startswith("ours") else "s--"
                    axes.plot(*zip(*points, strict=True), style, color=f"C{number}", label=name, markersize=4)
            axes.set_xscale("log")
            axes.set_yscale("log")
            ticks = sorted({point[sweep.column] for point in sweep.points})
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.minorticks_off()
            axes.set_xlabel(sweep.title)
        every[0].set_ylabel(f"{'CPU ' if on_cpu else ''}µs a model-step")
        handles, labels = every[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle(f"Adam, float32; {document['machine']}", x=0.01, ha="left", fontsize=9)
        with files.whole_file(out) as part:
            figure.savefig(part, format="png", dpi=110, metadata={"Software": None})


def _points(rows: Sequence[Mapping[str, Any]], sweep: Sweep, name: str, on_cpu: bool) -> Iterator[tuple[float, float]]:
    key = "cpu_us_per_model_step" if on_cpu else "us_per_model_step"
    for row in rows:
        if row["sweep"] == sweep.name and f"{row['provider']}: {row['engine']}" == name:
            point = (row["models"], row["steps"], int(row["network"].split("-")[2]))
            yield float(point[sweep.column]), row[key]
