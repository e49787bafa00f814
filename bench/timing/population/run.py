"""Everything about populations that one machine can tell, in stages, within a time limit: one JSON document."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch

from ...tracebacks import kept_traceback
from . import bits, chain, peers
from .bandwidth import population_steps
from .problem import Problem, problem

Write = Callable[[dict[str, Any]], None]
TIMED_STEPS = 200
COMPARED_STEPS = 20
TOLERANCE = 1e-3
"""How far final losses may lie apart, relative: a peer that computes something else is refused."""


class Report:
    """The document: a list of rows per stage, written after every row.

    Args:
        write: keeps the document.
        limit_s: of all stages together.
        head: fields of the document.
    """

    def __init__(self, write: Write, limit_s: float, **head: Any) -> None:
        self._write = write
        self._began = time.monotonic()
        self._limit_s = limit_s
        self.document: dict[str, Any] = {**head, "errors": [], "not_run": [], "seconds": {}}

    @property
    def left_s(self) -> float:
        """Until the limit."""
        return self._limit_s - (time.monotonic() - self._began)

    def stage(self, name: str, items: Iterable[tuple[str, Callable[[], Any]]]) -> None:
        """Rows of a stage; an item that fails is recorded, one for which no time is left too."""
        began = time.monotonic()
        rows: list[Any] = self.document.setdefault(name, [])
        for title, make in items:
            if self.left_s <= 0:
                self.document["not_run"].append(f"{name}: {title}")
                continue
            at = time.monotonic()
            try:
                made = make()
                rows.extend(made if isinstance(made, list) else [made])
            except Exception:
                self.document["errors"].append({"stage": name, "item": title, "error": kept_traceback()})
            print(f"{name}: {title}: {time.monotonic() - at:.1f} s", flush=True)
            self.document["seconds"][name] = time.monotonic() - began
            self._write(self.document)


def run_all(device: str, write: Write, *, minutes: float, dry: bool = False) -> dict[str, Any]:
    """Compile, compare, replay, time; the most important first.

    Args:
        device: ``cuda`` or ``cpu``.
        write: keeps the document, as it grows.
        minutes: limit of all.
        dry: small sizes, to see that every stage works.
    """
    # JAX would take most of the memory for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    report = Report(write, 60 * minutes, device=_device(device), dry=dry, versions=_versions())
    report.document["not_offered"] = [f"jax: {reason}"] if (reason := peers.jax_missing()) else []
    if device == "cuda":
        report.stage("compile", [("all kernels", partial(warm, report))])
    report.stage("bits", _bits(device, dry))
    links = list(chain.links(device))
    sizes = {"models": 512, "steps": 50} if dry else {}
    report.stage("chain", ((link.name, partial(chain.replay, link, device, **sizes)) for link in links))
    report.stage("agreement", _peers(device, [(512 if dry else 1024, COMPARED_STEPS)], repeats=1))
    timed = ((512, TIMED_STEPS),) if dry else ((8192, TIMED_STEPS), (65536, TIMED_STEPS))
    report.stage("rows", _peers(device, timed, without=refused(report.document["agreement"])))
    if not dry:
        report.stage("rows", _ours_alone(device, 1 << 20))
    elements = 1 << 18 if dry else (1 << 26 if device == "cuda" else 1 << 22)
    report.stage("step", [("[models, n]", lambda: list(population_steps(device, elements=elements)))])
    return report.document


def _bits(device: str, dry: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    expected = json.loads(bits.EXPECTED.read_text())
    for number, case in enumerate(bits.cases()):
        if not dry or number % 8 == 0:
            yield case.name, partial(bits.compare_case, case, device, expected)


def _peers(
    device: str,
    sizes: Iterable[tuple[int, int]],
    *,
    repeats: int = peers.REPEATS,
    without: frozenset[str] = frozenset(),
) -> Iterator[tuple[str, Callable[[], Any]]]:
    backend = "triton" if device == "cuda" else "auto"
    for models, steps in sizes:
        given = problem(models=models, steps=steps, device=device)
        for peer in (*peers.ours(backend), *peers.torch_func(), *peers.jax_forms()):
            if f"{peer.provider}, {peer.engine}" not in without:
                yield f"{peer.engine}, {models}", partial(peers.time_peer, peer, given, repeats=repeats)


def refused(rows: list[dict[str, Any]]) -> frozenset[str]:
    """Those whose losses are not ours after some steps; each row is told its verdict."""
    reference = next((row["final_loss"] for row in rows if row["provider"] == "ours"), None)
    found = set()
    for row in rows:
        if reference is not None:
            row["relative_difference"] = abs(row["final_loss"] / reference - 1)
            row["outcome"] = "agrees" if row["relative_difference"] <= TOLERANCE else "refused"
            if row["outcome"] == "refused":
                found.add(f"{row['provider']}, {row['engine']}")
    return frozenset(found)


def _ours_alone(device: str, models: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    peer = next(peers.ours("triton" if device == "cuda" else "auto"))

    def make() -> dict[str, Any]:
        given: Problem = problem(models=models, steps=TIMED_STEPS if device == "cuda" else 20, device=device)
        return peers.time_peer(peer, given)

    yield f"{peer.engine}, {models}", make


def warm(report: Report) -> list[dict[str, Any]]:
    """Compile every kernel that follows, in parallel processes; Triton finds them on disk then."""
    tasks = [("bits", number) for number, _ in enumerate(bits.cases())]
    tasks += [("chain", number) for number, _ in enumerate(chain.links("cuda"))]
    workers = min(12, os.cpu_count() or 1)
    rows = []
    with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_warm, *task): task for task in tasks}
        try:
            for future in concurrent.futures.as_completed(futures, timeout=max(1.0, report.left_s / 2)):
                error = future.exception()
                row = {
                    "kind": futures[future][0],
                    "number": futures[future][1],
                    "error": repr(error) if error else None,
                }
                rows.append({**row, "seconds": None if error else future.result()})
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return rows


def _warm(kind: str, number: int) -> float:
    """One small run: two steps of models enough for the kernel of the large one."""
    began = time.monotonic()
    if kind == "bits":
        bits.run_case(list(bits.cases())[number], "cuda", models=256, steps=3)
    else:
        chain.replay(list(chain.links("cuda"))[number], "cuda", models=256, steps=2)
    return time.monotonic() - began


def _device(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def _versions() -> dict[str, str]:
    import importlib.metadata

    found = {}
    for name in ("torch", "triton", "numpy", "jax", "optax", "llvmlite"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found
