"""Executors: what runs cohorts. Each cohort trains on one thread and writes its own shard, here or in a process."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import Final

from ..design.spec import Cohort, RunSpec

_INTERPRET: Final = "TRITON_INTERPRET"

_MODEL_WORK: Final = 40
"""What a model's step costs beyond its parameters, in parameters (measured: both networks on one AVX-512 core)."""

_SMALL_RUN: Final = 4_000_000
"""Work times steps below which starting workers, each of which imports torch, takes longer than the run: about 3 s."""


def run_cohorts(
    run: Path, spec: RunSpec, cohorts: Sequence[Cohort], workers: int | None = None
) -> Generator[tuple[Cohort, str]]:
    """Trains the cohorts and writes their shards, here or on worker processes.

    Args:
        run: directory of the run.
        spec: what every cohort follows.
        cohorts: those to run.
        workers: processes; by default one per core, but this process alone for a small run and on a GPU.

    Yields:
        Each cohort when its shard is written, with the shard's SHA-256, in the order they end.
    """
    if workers is None:
        alone = spec.device == "cuda" or sum(map(work, cohorts)) * spec.steps < _SMALL_RUN
        workers = 1 if alone else len(os.sched_getaffinity(0))
    workers = min(workers, len(cohorts))
    elsewhere = spec.backend == "interpreter" and os.environ.get(_INTERPRET) != "1"
    if workers > 1 or elsewhere:
        yield from processes(run, spec, cohorts, max(workers, 1), interpret=elsewhere)
    else:
        yield from here(run, spec, cohorts)


def here(run: Path, spec: RunSpec, cohorts: Sequence[Cohort]) -> Iterator[tuple[Cohort, str]]:
    """The executor in this process: one cohort after the other. Results as `run_cohorts`."""
    for cohort in cohorts:
        yield cohort, write_cohort(run, spec, cohort)


def processes(
    run: Path, spec: RunSpec, cohorts: Sequence[Cohort], workers: int, *, interpret: bool = False
) -> Generator[tuple[Cohort, str]]:
    """The executor on worker processes, which interpret the kernels if told to. Results as `run_cohorts`."""
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start)
    try:
        with _interpreting(interpret):
            yield from _in_turn(executor, run, spec, cohorts, 2 * workers)
    except BaseException:
        # An interrupt or a failure: the shards being written are redone on a resume, so nothing is waited for.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        # Nor for the executor's thread: an interrupt may have come before it was started.
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown(wait=True)


def _in_turn(
    executor: ProcessPoolExecutor, run: Path, spec: RunSpec, cohorts: Sequence[Cohort], waiting: int
) -> Iterator[tuple[Cohort, str]]:
    """Keeps a few cohorts submitted: memory does not grow with their number."""
    left = iter(cohorts)
    running: dict[Future[str], Cohort] = {}
    while True:
        for cohort in itertools.islice(left, waiting - len(running)):
            running[executor.submit(write_cohort, run, spec, cohort)] = cohort
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future.result()


@contextmanager
def _interpreting(wanted: bool) -> Iterator[None]:
    """Triton reads the variable when a worker imports the kernels; this process has compiled ones."""
    if wanted:
        os.environ[_INTERPRET] = "1"
    try:
        yield
    finally:
        if wanted:
            del os.environ[_INTERPRET]


def work(cohort: Cohort) -> int:
    """What a step of the cohort costs, in parameters of one model per arm."""
    from ..models.modules import get_module

    return cohort.size * (get_module(cohort.key.network).parameters + _MODEL_WORK)


def write_cohort(run: Path, spec: RunSpec, cohort: Cohort) -> str:
    """Trains one cohort, writes its shard and returns the shard's SHA-256."""
    from ..engines.engine import run_cohort
    from .records import write_shard

    return write_shard(run, spec.study, cohort, run_cohort(spec, cohort))


def _start() -> None:
    """Prepares a worker: Ctrl-C is the parent's to answer, and a worker does not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
