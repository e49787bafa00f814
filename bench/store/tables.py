"""The tables of README.md and docs/ that measured results fill in, between marks in the text.

``<!-- table: NAME -->`` and ``<!-- end -->`` stand around each; nothing between them is typed by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from . import cause_table, growth_table, peer_table, prediction_table, window_table
from .kept import RESULTS, read_own
from .load import read_result
from .schema import StepRow

ROOT = RESULTS.parents[1]
WINDOW = ROOT / "docs" / "window.csv"
CAUSES = ROOT / "docs" / "causes.csv"
PREDICTIONS = ROOT / "docs" / "predictions.csv"
GROWTH = ROOT / "docs" / "population-growth.csv"
PEERS = RESULTS / "cpu-peers"
H100 = RESULTS / "nvidia-h100-80gb-hbm3"
_MARKED = re.compile(r"(<!-- table: (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_SIZES = ("2^10", "2^16", "2^20", "2^24", "2^28")
_LISTS = {"resnet50": "ResNet-50", "vit-b16": "ViT-B/16", "gpt2-124m": "GPT-2 124M", "llama-1b": "Llama 3.2 1B"}


def documents(root: Path = ROOT) -> list[Path]:
    """The files that may hold tables."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """A document with its tables as today's results have them.

    Raises:
        UnknownTable: for one that nobody makes.
        InputError: if a result is not there or damaged.
    """

    def whole(found: re.Match[str]) -> str:
        if found["name"] not in TABLES:
            raise UnknownTable(found["name"])
        return f"{found[1]}{TABLES[found['name']]()}\n{found[3]}"

    return _MARKED.sub(whole, text)


class UnknownTable(KeyError):
    """A mark of a table that nobody makes."""


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


def _timings(path: Path, table: str = "") -> dict[tuple[str, str, str, str], StepRow]:
    """The steps of a kept result by optimizer, dtype, workload and provider: those timed, and those that failed.

    Raises:
        InputError: if it is not there or damaged.
    """
    rows = read_result(path, "bench/results").rows
    return {
        (optimizer, dtype, workload, _plain(provider)): row
        for (provider, optimizer, dtype, workload, found), row in rows.items()
        if found == table
    }


def _times(row: StepRow | None) -> tuple[float | None, float | None]:
    """One step at a time, and in a row."""
    return (None, None) if row is None else (row.measured("step_time_ns"), row.measured("queued_time_ns"))


def _over(a: tuple[float | None, ...], b: tuple[float | None, ...], form: str = "{:.2f}") -> str:
    """Quotients of times, a dash where one is missing."""
    return " / ".join(form.format(x / y) if x and y else "—" for x, y in zip(a, b, strict=True))


def _one_big_tensor() -> str:
    """Kernel time over 2^28 elements, and the share of a copy."""
    rows = _timings(H100 / "timing.json")
    table = []
    for optimizer, dtype in (
        ("AdamW", "fp32"),
        ("AdamW", "bf16"),
        ("SGD", "fp32"),
        ("RMSprop", "fp32"),
        ("Adagrad", "fp32"),
    ):
        ours, fused, foreach = (
            rows.get((optimizer, dtype, "2^28", name)) for name in ("kernels-foreach", "torch-fused", "torch-foreach")
        )
        torch = _kernel(fused)
        table.append(
            [
                f"{optimizer} {dtype}",
                _kernel(ours),
                _share(ours),
                torch if torch == "—" else f"{torch} ({_share(fused)})",
                _kernel(foreach),
            ]
        )
    return _markdown(["", "ours", "share of a copy", "torch fused", "torch foreach"], table)


def _kernel(row: StepRow | None) -> str:
    return _time(None if row is None else row.measured("kernel_time_ns"))


def _share(row: StepRow | None) -> str:
    share = None if row is None else row.measured("share_of_copy")
    return "—" if share is None else f"{100 * share:.0f} %"


def _whole_steps() -> str:
    """Whole steps, float32: one at a time / in a row, ours beside the torch implementation with the same bits."""
    rows = _timings(H100 / "timing.json", "steps")
    table = []
    for name in (*_SIZES, *_LISTS, "10000x49"):
        title = _LISTS.get(name, name.replace("10000x49", "10,000 tensors of 49"))
        line = [title]
        for optimizer in ("AdamW", "SGD"):
            for pair in (("kernels-fused", "torch-fused"), ("kernels-foreach", "torch-foreach")):
                ours, torch = (_times(rows.get((optimizer, "fp32", name, provider))) for provider in pair)
                line.append(f"{_time(ours[0])} · {_over(ours, torch)}" if any(ours) else "—")
        table.append(line)
    head = [f"{optimizer} {recipe}" for optimizer in ("AdamW", "SGD") for recipe in ("fused", "default")]
    return _markdown(["float32", *head], table)


def _cpu_steps(threads: int) -> str:
    """Whole steps on a CPU, cold / in a row, beside the torch implementation that rounds alike and the default one."""
    rows = _timings(_of_cpu(threads))
    pairs = (("kernels-cpu-fused", "torch-fused"), ("kernels-foreach", "torch-foreach"))
    table = []
    for optimizer, dtype, workload in dict.fromkeys(key[:3] for key in rows):
        found = {key[3]: row for key, row in rows.items() if key[:3] == (optimizer, dtype, workload)}
        tensors = next(iter(found.values())).tensors
        line = [f"{optimizer} {dtype}", workload if tensors == 1 else f"{tensors:,} tensors"]
        for pair in pairs:
            ours, torch = (_times(found.get(name)) for name in pair)
            line += [" / ".join(f"{ns / 1e3:,.0f}" for ns in each if ns) or "—" for each in (ours, torch)]
            line.append(_over(ours, torch, "**{:.2f}**") if any(ours) and any(torch) else "—")
        table.append(line)
    head = ["ours, `cpu-fused`", "torch fused", "ours ÷ torch", "ours, default", "torch foreach", "ours ÷ torch"]
    return _markdown(["µs", "elements", *head], table)


def _of_cpu(threads: int) -> Path:
    return RESULTS / f"amd-epyc-{threads}-thread{'s' * (threads > 1)}" / "timing.json"


def _cpu_origin() -> str:
    """Which machine and versions the steps on a CPU are of."""
    found = [read_result(_of_cpu(threads), "bench/results").document["provenance"] for threads in (1, 2)]
    machines = dict.fromkeys(
        f"{each['processor']} with {each['cpu_capability']}, {each['cores']} cores; Python {each['python']}, "
        + ", ".join(f"{name} {each['packages'][name]}" for name in ("torch", "triton", "numba"))
        for each in found
    )
    revisions = dict.fromkeys(each["git_revision"][:10] for each in found)
    return f"{' and '.join(machines)}; revision {' and '.join(revisions)}."


def _populations() -> str:
    """Nanoseconds of a model-step."""
    rows = read_own(H100 / "population.json", "bench/results", "rows").get("rows", [])
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
    "peers-origin": lambda: peer_table.origin(peer_table.read(PEERS)),
    "peers": lambda: _markdown(*peer_table.table(peer_table.read(PEERS))),
    "answers": _answers,
    "window-all": _window_all,
    "causes": _causes,
    "predictions": _predictions,
}
"""By the name in the mark."""
