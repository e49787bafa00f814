"""Everything about populations that one machine can tell, in stages, within a time limit: one JSON document."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch

import kernels

from ...tracebacks import kept_traceback
from . import bits, chain
from .bandwidth import population_steps
from .jax_peers import jax_peers, prepare
from .ours import ours
from .peers import Peer, agree, time_peer
from .problem import NETWORK, problem
from .torch_peers import torch_peers

Write = Callable[[dict[str, Any]], None]
TIMED_STEPS: Final = 200
COMPARED_MODELS: Final = 1024
COMPARED_STEPS: Final = 20


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
    report = begun(device, write, minutes, dry=dry)
    if device == "cuda":
        report.stage("compile", [("all kernels", partial(warm, report))])
    report.stage("bits", _bits(device, dry))
    links = list(chain.links(device))
    sizes: dict[str, Any] = {"models": 512, "steps": 50} if dry else {}
    report.stage("chain", ((link.name, partial(chain.replay, link, device, **sizes)) for link in links))
    timed = ((512, TIMED_STEPS),) if dry else ((8192, TIMED_STEPS), (65536, TIMED_STEPS))
    if device == "cuda" and not dry:
        timed = (*timed, (1 << 20, TIMED_STEPS))
    _time(report, device, timed, NETWORK, compared=512 if dry else COMPARED_MODELS, others_to=1 << 16)
    if device != "cuda" and not dry:
        report.stage("rows", _ours_alone(device, 1 << 20))
    elements = 1 << 18 if dry else (1 << 26 if device == "cuda" else 1 << 22)
    report.stage("step", [("[models, n]", lambda: list(population_steps(device, elements=elements)))])
    return report.document


def run_sizes(
    device: str, write: Write, sizes: Sequence[tuple[int, int]], *, network: kernels.Network, minutes: float
) -> dict[str, Any]:
    """Who computes the same, and how long they take for these numbers of models and steps; nothing else.

    Args:
        device: ``cuda`` or ``cpu``.
        write: keeps the document, as it grows.
        sizes: (models, steps), one after the other.
        network: of every model.
        minutes: limit of all.
    """
    report = begun(device, write, minutes)
    _time(report, device, sizes, network)
    return report.document


def everybody(device: str) -> tuple[Peer, ...]:
    """All who train populations on this device."""
    return (*ours(_backend(device)), *torch_peers(), *jax_peers())


def _backend(device: str) -> str:
    """The trainer's own on this device, by its name."""
    return "triton" if device == "cuda" else kernels.resolve_backend("auto", torch.device(device))


def begun(device: str, write: Write, minutes: float, **head: Any) -> Report:
    """An empty document that says who cannot take part."""
    prepare(device)
    report = Report(write, 60 * minutes, device=_device(device), **head, versions=_versions())
    report.document["not_offered"] = list(
        dict.fromkeys(f"{peer.provider}: {peer.missing}" for peer in everybody(device) if peer.missing)
    )
    return report


def _time(
    report: Report,
    device: str,
    sizes: Sequence[tuple[int, int]],
    network: kernels.Network,
    *,
    compared: int = COMPARED_MODELS,
    others_to: int | None = None,
) -> None:
    """Stage ``agreement``, then stage ``rows`` without those that were refused there; the slow ones last.

    Args:
        report: takes the rows.
        device: where.
        sizes: (models, steps).
        network: of every model.
        compared: models of ``agreement``.
        others_to: models up to which those that are not early are timed; None for any number.
    """
    everyone = everybody(device)
    agreed = compare(report, device, everyone, network, models=compared)
    early = [peer for peer in everyone if peer.early]
    others = [peer for peer in everyone if not peer.early and peer.most is None]
    for models, steps in sizes:
        report.stage("rows", timed(early, agreed, models, steps, device, network))
    for models, steps in sizes:
        if others_to is None or models <= others_to:
            report.stage("rows", timed(others, agreed, models, steps, device, network))
    # Theirs are the same few models whatever the size.
    few = [peer for peer in everyone if peer.most is not None]
    report.stage("rows", timed(few, agreed, *max(sizes), device, network))


def compare(
    report: Report, device: str, everyone: Iterable[Peer], network: kernels.Network, *, models: int
) -> dict[str, float]:
    """Stage ``agreement``: who may be timed, and how long each one's first run took, compilation and all."""
    given = problem(models=models, steps=COMPARED_STEPS, device=device, network=network)
    before = len(report.document.get("agreement", []))
    report.stage("agreement", ((peer.name, partial(agree, peer, given)) for peer in everyone))
    return agreeing(report.document["agreement"][before:])


def agreeing(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Those who may be timed, with the seconds of their first run: who computed the same, and who is not installed."""
    return {
        f"{row['provider']}, {row['engine']}": row.get("first_s", 0.0) for row in rows if row["outcome"] != "refused"
    }


def timed(
    everyone: Iterable[Peer],
    agreed: Mapping[str, float],
    models: int,
    steps: int,
    device: str,
    network: kernels.Network,
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """A stage's items: who agreed, each timed for so many models and steps."""
    given = problem(models=models, steps=steps, device=device, network=network)
    for peer in everyone:
        if peer.name in agreed:
            yield f"{peer.engine}, {models}", partial(time_peer, peer, given, first_s=agreed[peer.name])


def _bits(device: str, dry: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    expected = json.loads(bits.EXPECTED.read_text())
    for number, case in enumerate(bits.cases()):
        if not dry or number % 8 == 0:
            yield case.name, partial(bits.compare_case, case, device, expected)


def _ours_alone(device: str, models: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    peer = next(ours(_backend(device)))

    def make() -> dict[str, Any]:
        return time_peer(peer, problem(models=models, steps=TIMED_STEPS if device == "cuda" else 20, device=device))

    yield f"{peer.engine}, {models}", make


def warm(report: Report) -> list[dict[str, Any]]:
    """Compile every kernel that follows, in parallel processes; Triton finds them on disk then."""
    tasks = [("bits", number) for number, _ in enumerate(bits.cases())]
    tasks += [("chain", number) for number, _ in enumerate(chain.links("cuda"))]
    workers = max(1, (os.cpu_count() or 1) - 1)
    rows = []
    with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_warm, *task): task for task in tasks}
        try:
            for future in concurrent.futures.as_completed(futures, timeout=max(1.0, 0.6 * report.left_s)):
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
    """One small run: two steps of models enough for the kernels of the large one, those of a second pass too."""
    began = time.monotonic()
    if kind == "bits":
        bits.run_case(list(bits.cases())[number], "cuda", models=256, steps=3, spoilt=True)
    else:
        chain.replay(list(chain.links("cuda"))[number], "cuda", models=256, steps=2, spoilt=True)
    return time.monotonic() - began


def _device(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads != 1)}"


def _versions() -> dict[str, str]:
    import importlib.metadata

    found = {}
    for name in ("torch", "triton", "numpy", "jax", "optax", "llvmlite"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found
