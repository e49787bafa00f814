"""The tables of README.md and docs/ that measured results fill in, between marks in the text.

``<!-- table: NAME -->`` and ``<!-- end -->`` stand around each; nothing between them is typed by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from . import cause_table, growth_table, prediction_table, window_table
from .kept import RESULTS, read_json

ROOT = RESULTS.parents[1]
WINDOW = ROOT / "docs" / "window.csv"
CAUSES = ROOT / "docs" / "causes.csv"
PREDICTIONS = ROOT / "docs" / "predictions.csv"
GROWTH = ROOT / "docs" / "population-growth.csv"
H100 = RESULTS / "nvidia-h100-80gb-hbm3"
_MARKED = re.compile(r"(<!-- table: (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_BIG = tuple((optimizer, "fp32") for optimizer in ("AdamW", "SGD", "RMSprop", "Adagrad"))
_SIZES = ("2^10", "2^16", "2^20", "2^24", "2^28")
_LISTS = {"resnet50": "ResNet-50", "vit-b16": "ViT-B/16", "gpt2-124m": "GPT-2 124M", "llama-1b": "Llama 3.2 1B"}


def documents(root: Path = ROOT) -> list[Path]:
    """The files that may hold tables."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """A document with its tables as today's results have them.

    Raises:
        KeyError: for a table that nobody makes.
    """
    return _MARKED.sub(lambda found: f"{found[1]}{TABLES[found['name']]()}\n{found[3]}", text)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(provider: str) -> str:
    """A provider without the backend that it names."""
    return provider.partition("[")[0]


def _time(ns: float | None) -> str:
    """Nanoseconds in a unit that reads well."""
    if ns is None:
        return "—"
    return f"{ns / 1e6:.2f} ms" if ns >= 1e6 else f"{ns / 1e3:.0f} µs"


def _one_big_tensor() -> str:
    """Kernel time over 2^28 elements, and the share of a copy."""
    rows = {
        (row["optimizer"], row["dtype"], _plain(row["provider"])): row
        for row in read_json(H100 / "timing.json")["rows"]
        if row["tensors"] == 1 and row["elements"] == 1 << 28
    }
    table = []
    for optimizer, dtype in (
        ("AdamW", "fp32"),
        ("AdamW", "bf16"),
        ("SGD", "fp32"),
        ("RMSprop", "fp32"),
        ("Adagrad", "fp32"),
    ):
        ours, fused, foreach = (
            rows.get((optimizer, dtype, name), {}) for name in ("kernels-foreach", "torch-fused", "torch-foreach")
        )
        table.append(
            [
                f"{optimizer} {dtype}",
                _time(ours.get("kernel_time_ns")),
                _share(ours),
                _time(fused.get("kernel_time_ns")) + (f" ({_share(fused)})" if fused.get("share_of_copy") else ""),
                _time(foreach.get("kernel_time_ns")),
            ]
        )
    return _markdown(["", "ours", "share of a copy", "torch fused", "torch foreach"], table)


def _share(row: dict[str, Any]) -> str:
    share = row.get("share_of_copy")
    return "—" if share is None else f"{100 * share:.0f} %"


def _whole_steps() -> str:
    """Whole steps, float32: one at a time / in a row, ours beside the torch implementation with the same bits."""
    rows = {
        (row["workload"], row["optimizer"], _plain(row["provider"])): row
        for row in read_json(H100 / "timing.json")["steps"]["rows"]
    }
    table = []
    for name in (*_SIZES, *_LISTS, "10000x49"):
        title = _LISTS.get(name, name.replace("10000x49", "10,000 tensors of 49"))
        line = [title]
        for optimizer in ("AdamW", "SGD"):
            for ours, torch in (("kernels-fused", "torch-fused"), ("kernels-foreach", "torch-foreach")):
                a, b = rows[name, optimizer, ours], rows[name, optimizer, torch]
                single, queued = (a[key] / b[key] for key in ("step_time_ns", "queued_time_ns"))
                line.append(f"{_time(a['step_time_ns'])} · {single:.2f} / {queued:.2f}")
        table.append(line)
    head = [f"{optimizer} {recipe}" for optimizer in ("AdamW", "SGD") for recipe in ("fused", "default")]
    return _markdown(["float32", *head], table)


def _cpu_steps(threads: int) -> str:
    """Whole steps on a CPU, cold / in a row, beside the torch implementation that rounds alike and the default one."""
    rows = {
        (row["optimizer"], row["dtype"], row["elements"], row["tensors"], _plain(row["provider"])): row
        for row in read_json(_of_cpu(threads))["rows"]
    }
    pairs = (("kernels-cpu-fused", "torch-fused"), ("kernels-foreach", "torch-foreach"))
    table = []
    for optimizer, dtype, elements, tensors in dict.fromkeys(key[:4] for key in rows):
        size = f"2^{elements.bit_length() - 1}" if tensors == 1 else f"{tensors:,} tensors"
        line = [f"{optimizer} {dtype}", size]
        for names in pairs:
            ours, torch = (rows[optimizer, dtype, elements, tensors, name] for name in names)
            times = [[row[key] for key in ("step_time_ns", "queued_time_ns")] for row in (ours, torch)]
            line += [" / ".join(f"{ns / 1e3:,.0f}" for ns in each if ns) or "—" for each in times]
            timed = not (ours["error"] or torch["error"])
            line.append(" / ".join(f"**{a / b:.2f}**" for a, b in zip(*times, strict=True)) if timed else "—")
        table.append(line)
    head = ["ours, `cpu-fused`", "torch fused", "ours ÷ torch", "ours, default", "torch foreach", "ours ÷ torch"]
    return _markdown(["µs", "elements", *head], table)


def _of_cpu(threads: int) -> Path:
    return RESULTS / f"amd-epyc-{threads}-thread{'s' * (threads > 1)}" / "timing.json"


def _cpu_origin() -> str:
    """Which machine and versions the steps on a CPU are of."""
    found = [read_json(_of_cpu(threads))["provenance"] for threads in (1, 2)]
    machines = dict.fromkeys(
        f"{each['processor']} with {each['cpu_capability']}, {each['cores']} cores; Python {each['python']}, "
        + ", ".join(f"{name} {each['packages'][name]}" for name in ("torch", "triton", "numba"))
        for each in found
    )
    revisions = dict.fromkeys(each["git_revision"][:10] for each in found)
    return f"{' and '.join(machines)}; revision {' and '.join(revisions)}."


def _populations() -> str:
    """Nanoseconds of a model-step."""
    rows = read_json(H100 / "population.json")["rows"]
    sizes = sorted({row["models"] for row in rows})
    engines = list(dict.fromkeys((row["provider"], row["engine"]) for row in rows))
    times = {(row["provider"], row["engine"], row["models"]): row["us_per_model_step"] for row in rows}
    table = []
    for provider, engine in engines:
        found = [times.get((provider, engine, size)) for size in sizes]
        table.append([f"{provider}: {engine}", *("—" if us is None else f"{1e3 * us:.3g}" for us in found)])
    return _markdown(["ns a model-step", *(f"{size:,} models" for size in sizes)], table)


def _answers() -> str:
    """From which loss scale on three optimizers notice, format by format."""
    return _markdown(window_table.ANSWER_HEAD, window_table.answers(WINDOW))


def _window_all() -> str:
    """From which loss scale on anything is different, of every optimizer, recipe and policy."""
    return _markdown(["optimizer", "recipe", *window_table.HEAD], window_table.rows(WINDOW))


def _causes() -> str:
    """What makes pairs deviate at the borders of every window."""
    return _markdown(cause_table.HEAD, cause_table.rows(CAUSES, WINDOW))


def _predictions() -> str:
    """Every prediction of every study."""
    head = ["id", "prediction", "study", "predicted", "measured", "verdict"]
    return _markdown(head, prediction_table.rows(PREDICTIONS))


def _growth(sweep: str) -> str:
    """How the time of a model-step grows, on a CPU."""
    return _markdown(*growth_table.table(growth_table.read(GROWTH), sweep))


TABLES: dict[str, Callable[[], str]] = {
    "h100-one-tensor": _one_big_tensor,
    "h100-whole-steps": _whole_steps,
    "h100-populations": _populations,
    "cpu-steps-origin": _cpu_origin,
    "cpu-steps-1": lambda: _cpu_steps(1),
    "cpu-steps-2": lambda: _cpu_steps(2),
    "population-growth-origin": lambda: growth_table.origin(growth_table.read(GROWTH)),
    "population-growth-models": lambda: _growth("models"),
    "population-growth-steps": lambda: _growth("steps"),
    "population-growth-width": lambda: _growth("width"),
    "answers": _answers,
    "window-all": _window_all,
    "causes": _causes,
    "predictions": _predictions,
}
"""By the name in the mark."""
