"""Running cases in worker processes that may hang, crash or lose their CUDA context without ending the run."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from ..providers.base import Provider
from .cases import Case

# Replacing workers for ever would hide a provider that kills each of them.
_MAX_REPLACEMENTS = 40


@dataclass(frozen=True, kw_only=True)
class Task:
    """Cases of one variant, run in order by one worker so that its kernels compile once."""

    provider: Provider
    # None: against float64, step by step.
    against: Provider | None
    cases: tuple[Case, ...]
    # The ulp from float64 that the provider claims, where that is the claim.
    allowed: int | None = None


@dataclass
class _Worker:
    process: Any
    connection: Connection
    task: Task | None = None
    done: int = 0
    since: float = 0.0
    ready: bool = False
    last: str = ""


@dataclass
class PoolReport:
    """Rows in the order they ended, and how many cases were left when time was up."""

    rows: list[Any] = field(default_factory=list)
    not_run: int = 0
    replaced_workers: int = 0


def group(pairs: Iterable[tuple[Provider, Provider, Case]]) -> list[Task]:
    """Tasks by variant, in the order in which each variant first appears."""
    grouped: dict[tuple[Any, ...], list[Case]] = {}
    sides: dict[tuple[Any, ...], tuple[Provider, Provider]] = {}
    for provider, against, case in pairs:
        key = (provider.name, against.name, *case.variant())
        grouped.setdefault(key, []).append(case)
        sides[key] = provider, against
    return [Task(provider=sides[key][0], against=sides[key][1], cases=tuple(cases)) for key, cases in grouped.items()]


def run_task_case(task: Task, case: Case, device: Any) -> Any:
    """The row of one case of a task."""
    from .compare import run_case
    from .drift import run_drift

    if task.against is None:
        return run_drift(case, task.provider, device, allowed=task.allowed)
    return run_case(case, task.provider, task.against, device)


def run_here(tasks: Iterable[Task], device: str, deadline: float, on_row: Callable[[Any], None]) -> PoolReport:
    """Run every task in this process until `deadline` (a `time.monotonic` value): no protection against hangs."""
    import torch

    report = PoolReport()
    for task in tasks:
        for case in task.cases:
            if time.monotonic() > deadline:
                report.not_run += 1
                continue
            report.rows.append(run_task_case(task, case, torch.device(device)))
            on_row(report.rows[-1])
    return report


def _serve(connection: Connection, device: str, threads: int) -> None:
    """A worker: receive a task, send one row per case, until the other end closes."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    import torch

    from .compare import ERROR

    torch.set_num_threads(threads)
    connection.send(None)
    while True:
        try:
            task: Task = connection.recv()
        except EOFError:
            return
        for case in task.cases:
            row = run_task_case(task, case, torch.device(device))
            connection.send(row)
            if row.outcome == ERROR and device.startswith("cuda"):
                # A faulted CUDA context fails every later call: better a new process than a thousand false errors.
                torch.cuda.synchronize()


class Pool:
    """A fixed number of workers over a list of tasks, with a time limit per case and a deadline for all."""

    def __init__(
        self,
        *,
        workers: int,
        device: str,
        case_limit_s: float,
        start_limit_s: float = 180.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start nothing yet; `run` does. `environment` is set in the workers before they import anything."""
        self._count, self._device = workers, device
        self._environment = dict(environment or {})
        self._case_limit_s, self._start_limit_s = case_limit_s, start_limit_s
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    def run(self, tasks: Iterable[Task], deadline: float, on_row: Callable[[Any], None]) -> PoolReport:
        """Run `tasks` until done or `deadline` (a `time.monotonic` value); `on_row` is told of every row."""
        report, queue = PoolReport(), list(tasks)[::-1]
        self._workers = [self._start() for _ in range(min(self._count, len(queue)))]
        try:
            while time.monotonic() < deadline and (queue or any(w.task for w in self._workers)) and self._workers:
                self._round(queue, report, on_row)
        finally:
            left = sum(len(w.task.cases) - w.done for w in self._workers if w.task)
            report.not_run = left + sum(len(task.cases) for task in queue)
            for worker in self._workers:
                self._stop(worker)
        return report

    def _round(self, queue: list[Task], report: PoolReport, on_row: Callable[[Any], None]) -> None:
        by_connection = {w.connection: w for w in self._workers}
        for connection in wait(list(by_connection), timeout=0.25):
            worker = by_connection[connection]  # type: ignore[index]
            try:
                row = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join(timeout=5)
                self._fail(worker, queue, report, on_row, "error", "the worker process died")
                continue
            worker.since = time.monotonic()
            if row is None:
                worker.ready = True
            else:
                worker.done += 1
                worker.last = row.outcome
                report.rows.append(row)
                on_row(row)
            if worker.task is None or worker.done == len(worker.task.cases):
                self._next(worker, queue)
        for worker in list(self._workers):
            limit = self._case_limit_s if worker.ready else self._start_limit_s
            if (worker.task or not worker.ready) and time.monotonic() - worker.since > limit:
                self._fail(worker, queue, report, on_row, "timeout", f"no answer within {limit:g} s")

    def _next(self, worker: _Worker, queue: list[Task]) -> None:
        worker.task, worker.done = (queue.pop() if queue else None), 0
        if worker.task:
            try:
                worker.connection.send(worker.task)
            except OSError:
                # Dead between two tasks: hand the task back, the next receive finds the closed pipe.
                queue.append(worker.task)
                worker.task = None

    def _fail(
        self,
        worker: _Worker,
        queue: list[Task],
        report: PoolReport,
        on_row: Callable[[Any], None],
        outcome: str,
        why: str,
    ) -> None:
        """Record the case a worker was on, put the rest of its task back, and replace the worker."""
        exited = worker.process.exitcode
        self._stop(worker)
        self._workers.remove(worker)
        if worker.task and worker.done < len(worker.task.cases):
            case = worker.task.cases[worker.done]
            # A worker that ends itself after an error has sent that row: only its next case is unreported.
            row = unfinished_row(case, worker.task, outcome, f"{why} (exit code {exited})")
            rest = worker.task.cases[worker.done + 1 :]
            if outcome == "error" and worker.last == "error" and exited == 1:
                rest = worker.task.cases[worker.done :]
            else:
                report.rows.append(row)
                on_row(row)
            if rest:
                queue.append(replace(worker.task, cases=rest))
        if report.replaced_workers < _MAX_REPLACEMENTS and queue:
            report.replaced_workers += 1
            self._workers.append(self._start())

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._device, 1), daemon=True)
        with environment(self._environment):
            process.start()
        theirs.close()
        return _Worker(process=process, connection=ours, since=time.monotonic())

    @staticmethod
    def _stop(worker: _Worker) -> None:
        worker.connection.close()
        worker.process.kill()
        worker.process.join(timeout=10)


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """A spawned process takes this one's environment over as it is at its start."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def unfinished_row(case: Case, task: Task, outcome: str, why: str) -> Any:
    """The row of a case whose worker did not answer."""
    from .compare import Row

    return Row(
        provider=task.provider.name,
        against=task.against.name if task.against else "float64",
        optimizer=case.optimizer,
        options=case.option_text(),
        recipe=case.recipe,
        dtype=case.dtype,
        shape=case.layout,
        values=case.values,
        steps=case.steps,
        outcome=outcome,
        detail=why,
        option_set=case.option_set(),
    )
