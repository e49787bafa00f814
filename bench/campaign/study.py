"""One quick study on the device and again on the CPU: the trainer engine promises both the same bytes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lossscale.support import files

from ..tracebacks import without_places

_ROOT = Path(__file__).resolve().parents[2]
STUDY = ("loss-vs-lr", "--network", "mlp-6-6-1", "--engine", "trainer", "--quick")
POLICIES = ("fp32", "bf16-mixed", "fp16-mixed")
_TOY = ("--optimizer", "adam", "--inits", "2", "--steps", "5")
_FEWEST_S = 5.0
_MOST_SHARES = 18


def run_pairs(directory: Path, sides: Mapping[str, Sequence[str]], *, dry_run: bool, deadline: float) -> dict[str, Any]:
    """Run the study on every side.

    Args:
        directory: where the runs go, each under its side's name.
        sides: name to the options that make it another side, ``--device cuda`` say.
        dry_run: two models, five steps, one policy.
        deadline: by `time.monotonic`.

    Returns:
        The command without its place, each side's seconds, and in how many shares a side ran at once.

    Raises:
        RuntimeError: if a run fails or does not end in time; with the last it said.
    """
    policies = POLICIES[:1] if dry_run else POLICIES
    chosen = [*STUDY, *(_TOY if dry_run else ()), *(word for name in policies for word in ("--policy", name))]
    # What takes its time on a device is compiling: a kernel for every cell, each in the process that needs it.
    shares = 2 if dry_run else max(1, min(_MOST_SHARES, len(os.sched_getaffinity(0)) - 1))
    seconds = {}
    for side, options in sides.items():
        began = time.monotonic()
        command = [sys.executable, "-m", "lossscale", "run", *chosen, *options, "--out", str(directory / side)]
        _run(command, shares, max(_FEWEST_S, deadline - began), side)
        seconds[side] = time.monotonic() - began
    return {
        "command": " ".join(["lossscale", "run", *chosen]),
        "sides": dict(sides),
        "seconds": seconds,
        "shares": shares,
    }


def _run(command: Sequence[str], shares: int, limit_s: float, side: str) -> None:
    """Every share of a run in a process of its own, all at once; none is left when this returns or raises."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    ends = time.monotonic() + limit_s
    with contextlib.ExitStack() as held:
        running = []
        for number in range(1, shares + 1):
            said = held.enter_context(tempfile.TemporaryFile("w+"))
            process = subprocess.Popen(
                [*command, "--shard", f"{number}/{shares}"],
                env={**os.environ, "PYTHONPATH": path},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            held.callback(process.wait)
            held.callback(process.kill)
            running.append((process, said))
        for process, said in running:
            try:
                process.wait(max(0.0, ends - time.monotonic()))
            except subprocess.TimeoutExpired as late:
                raise RuntimeError(f"the study's side {side} did not end in {limit_s:.0f} s") from late
            if process.returncode:
                said.seek(0)
                last = " | ".join(without_places(said.read()).strip().splitlines()[-3:])
                raise RuntimeError(f"the study's side {side} ended with {process.returncode}: {last}")


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """Every shard of two runs, cell by cell as bits.

    Returns:
        ``shards`` and ``pairs`` (rows) of the first, ``missing`` (shards that one run lacks), ``differing_cells`` and
        ``differing``, column to count.
    """
    shards = {run: {path.name: path for path in run.glob("pairs/*.parquet")} for run in (first, second)}
    names = sorted(shards[first].keys() & shards[second].keys())
    differing: dict[str, int] = {}
    rows = 0
    for name in names:
        a, b = (pq.read_table(shards[run][name]) for run in (first, second))
        rows += a.num_rows
        for column, count in differing_cells(a, b).items():
            differing[column] = differing.get(column, 0) + count
    return {
        "shards": len(shards[first]),
        "pairs": rows,
        "missing": sorted(shards[first].keys() ^ shards[second].keys()),
        "differing_cells": sum(differing.values()),
        "differing": differing,
    }


def differing_cells(a: pa.Table, b: pa.Table) -> dict[str, int]:
    """How many cells of each column differ as bits; a table of another length or schema differs in every cell."""
    if a.num_rows != b.num_rows or not a.schema.equals(b.schema):
        return {name: max(a.num_rows, b.num_rows) for name in dict.fromkeys([*a.column_names, *b.column_names])}
    counts = {name: int((_bits(a[name]) != _bits(b[name])).sum()) for name in a.column_names}
    return {name: count for name, count in counts.items() if count}


def _bits(column: pa.ChunkedArray) -> np.ndarray:
    """A column whose equal cells have equal bits: floating-point numbers as integers, all else as it is."""
    values: np.ndarray = column.to_numpy()
    return values.view(f"i{values.itemsize}") if values.dtype.kind == "f" else values


def write_pairs(run: Path, out: Path) -> None:
    """All pairs of a run as one parquet file, shards in the order of their names."""
    tables = [pq.read_table(path) for path in sorted(run.glob("pairs/*.parquet"))]
    joined = pa.concat_tables(tables).unify_dictionaries()
    with files.whole_file(out) as temporary, temporary.open("wb") as stream:
        pq.write_table(joined, stream, compression="zstd")


def study(out: Path, deadline: float, dry_run: bool) -> dict[str, Any]:
    """The device's pairs into studies.parquet; what the comparison found is returned, for conform.json."""
    sides: dict[str, tuple[str, ...]] = {"device": ("--device", "cuda"), "cpu": ("--device", "cpu")}
    if dry_run:
        sides = {"device": ("--device", "cpu"), "cpu": ("--device", "cpu", "--backend", "reference")}
    with tempfile.TemporaryDirectory(prefix="study-") as held:
        runs = Path(held)
        found = run_pairs(runs, sides, dry_run=dry_run, deadline=deadline)
        write_pairs(runs / "device", out / "studies.parquet")
        return {**found, **compare_runs(runs / "device", runs / "cpu")}
