"""Processes that may hang, crash or lose their device without ending the run."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any, Generic

from lossscale.support.processes import deaf, end_with_parent, environment

from ..tracebacks import kept_traceback
from .batches import Batch, Done, Ending, Item, Loss, Result

# Replacing workers for ever would hide something that kills each of them.
_MAX_REPLACEMENTS = 40
# Nor are all the items of one that kills each of its workers, or keeps it for ever, worth a worker and a limit each.
_MOST_LOST = 3


@dataclass(eq=False)
class _Worker:
    process: Any
    connection: Connection
    batch: Batch[Any, Any] | None = None
    next: int = 0
    since: float = 0.0
    ready: bool = False


def one_thread() -> None:
    """What a worker among many does first: torch takes one core."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)


class Pool(Generic[Item, Result]):
    """A fixed number of workers over a list of batches, with a time limit per item and a deadline for all.

    Args:
        count: of workers; no more are started than there are batches.
        limit_s: for one item.
        lost: the result of an item whose worker did not answer, or an exception.
        start_limit_s: until a new worker is ready.
        environment: set in the workers before they import anything.
        setup: called in a worker before its first item.
        worn: called in a worker with each result; True ends the worker, and another goes on with its batch.
        whose: who answers for a batch: after three of somebody's items that killed their worker or hung, the others are
            lost untried.
        leads: each worker leads a process group, and is ended together with the processes that it started.
    """

    def __init__(
        self,
        *,
        count: int,
        limit_s: float,
        lost: Callable[[Batch[Item, Result], Item, Loss], Result],
        start_limit_s: float = 180.0,
        environment: Mapping[str, str] | None = None,
        setup: Callable[[], None] | None = one_thread,
        worn: Callable[[Result], bool] | None = None,
        whose: Callable[[Batch[Item, Result]], str] | None = None,
        leads: bool = False,
    ) -> None:
        """Start nothing yet; `run` does."""
        self._count, self._lost, self._leads = count, lost, leads
        self._limit_s, self._start_limit_s = limit_s, start_limit_s
        self._environment, self._setup, self._worn, self._whose = dict(environment or {}), setup, worn, whose
        self._losses: Counter[str] = Counter()
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    def run(
        self,
        batches: Iterable[Batch[Item, Result]],
        *,
        deadline: float = math.inf,
        on_result: Callable[[Result], None] = lambda result: None,
    ) -> Done[Result]:
        """Do the batches until all are done or `deadline` (a `time.monotonic` value); `on_result` hears of each."""
        done: Done[Result] = Done()
        queue = list(batches)[::-1]

        def add(result: Result) -> None:
            done.results.append(result)
            on_result(result)

        try:
            self._workers = [self._start() for _ in range(min(self._count, len(queue)))]
            while time.monotonic() < deadline and (queue or any(w.batch for w in self._workers)) and self._workers:
                self._listen(queue, done, add)
                self._check_limits(queue, done, add)
        finally:
            left = sum(len(w.batch.items) - w.next for w in self._workers if w.batch)
            done.not_run = left + sum(len(batch.items) for batch in queue)
            for worker in self._workers:
                self._stop(worker)
        return done

    def _listen(self, queue: list[Batch[Item, Result]], done: Done[Result], add: Callable[[Result], None]) -> None:
        by_connection = {w.connection: w for w in self._workers}
        for connection in wait(list(by_connection), timeout=0.25):
            worker = by_connection[connection]  # type: ignore[index]
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join(timeout=5)
                self._lose(worker, queue, done, add, Ending.DIED, "the worker process died")
                continue
            worker.since = time.monotonic()
            if answer is None:
                worker.ready = True
            else:
                self._take(worker, queue, done, add, answer)
            if worker in self._workers and (worker.batch is None or worker.next == len(worker.batch.items)):
                self._hand_out(worker, queue)

    def _take(
        self,
        worker: _Worker,
        queue: list[Batch[Item, Result]],
        done: Done[Result],
        add: Callable[[Result], None],
        answer: tuple[str, Any, bool],
    ) -> None:
        raised, result, worn = answer
        assert worker.batch is not None
        item = worker.batch.items[worker.next]
        worker.next += 1
        add(self._lost(worker.batch, item, Loss(ending=Ending.RAISED, text=raised)) if raised else result)
        if worn:
            self._replace(worker, queue, done)

    def _check_limits(
        self, queue: list[Batch[Item, Result]], done: Done[Result], add: Callable[[Result], None]
    ) -> None:
        for worker in list(self._workers):
            limit = self._limit_s if worker.ready else self._start_limit_s
            if (worker.batch or not worker.ready) and time.monotonic() - worker.since > limit:
                self._lose(worker, queue, done, add, Ending.HUNG, f"no answer within {limit:g} s")

    def _hand_out(self, worker: _Worker, queue: list[Batch[Item, Result]]) -> None:
        worker.batch, worker.next = (queue.pop() if queue else None), 0
        if worker.batch:
            try:
                worker.connection.send(worker.batch)
            except OSError:
                # Dead between two batches: hand it back, the next receive finds the closed pipe.
                queue.append(worker.batch)
                worker.batch = None

    def _lose(
        self,
        worker: _Worker,
        queue: list[Batch[Item, Result]],
        done: Done[Result],
        add: Callable[[Result], None],
        ending: Ending,
        why: str,
    ) -> None:
        """Record the item that a worker was on, and put another worker in its place."""
        text = f"{why} (exit code {worker.process.exitcode})"
        if worker.batch and worker.next < len(worker.batch.items):
            item = worker.batch.items[worker.next]
            worker.next += 1
            add(self._lost(worker.batch, item, Loss(ending=ending, text=text)))
            self._give_up(worker, queue, add, Loss(ending=ending, text=f"not tried: {why} in {_MOST_LOST} others"))
        self._replace(worker, queue, done)

    def _give_up(
        self, worker: _Worker, queue: list[Batch[Item, Result]], add: Callable[[Result], None], loss: Loss
    ) -> None:
        """Once too many of somebody's items were lost: the rest of this batch, and of the queue, without a worker."""
        assert worker.batch is not None
        if self._whose is None:
            return
        name = self._whose(worker.batch)
        self._losses[name] += 1
        if self._losses[name] < _MOST_LOST:
            return
        waiting = [batch for batch in queue if self._whose(batch) == name]
        queue[:] = [batch for batch in queue if self._whose(batch) != name]
        for batch in (replace(worker.batch, items=worker.batch.items[worker.next :]), *waiting):
            for item in batch.items:
                add(self._lost(batch, item, loss))
        worker.next = len(worker.batch.items)

    def _replace(self, worker: _Worker, queue: list[Batch[Item, Result]], done: Done[Result]) -> None:
        """End a worker, put the rest of its batch back, and start another if there is work."""
        self._stop(worker)
        self._workers.remove(worker)
        if worker.batch and (rest := worker.batch.items[worker.next :]):
            queue.append(replace(worker.batch, items=rest))
        if done.replaced_workers < _MAX_REPLACEMENTS and queue:
            done.replaced_workers += 1
            self._workers.append(self._start())

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._setup, self._worn, self._leads)
        # A process that leads others must be allowed to start them.
        process = self._context.Process(target=_serve, args=arguments, daemon=not self._leads)
        with environment(self._environment), deaf():
            process.start()
        theirs.close()
        return _Worker(process=process, connection=ours, since=time.monotonic())

    def _stop(self, worker: _Worker) -> None:
        worker.connection.close()
        if self._leads:
            # A group that has ended, or has not been made yet, needs no ending.
            with suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signal.SIGKILL)
        worker.process.kill()
        worker.process.join(timeout=10)


def _serve(
    connection: Connection,
    setup: Callable[[], None] | None,
    worn: Callable[[Any], bool] | None,
    leads: bool,
) -> None:
    """A worker: receive a batch, send (traceback or "", result, worn) per item, until the other end closes."""
    if leads:
        os.setsid()
    end_with_parent(group=leads)
    if setup is not None:
        setup()
    connection.send(None)
    while True:
        try:
            batch: Batch[Any, Any] = connection.recv()
        except EOFError:
            return
        for item in batch.items:
            try:
                result = batch.work(item)
            except Exception:
                connection.send((kept_traceback(), None, False))
                continue
            ends = worn is not None and worn(result)
            connection.send(("", result, ends))
            if ends:
                return
