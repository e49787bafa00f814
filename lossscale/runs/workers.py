"""Worker processes: a pool that an interrupt, a failure or a lost worker ends without leaving a process behind.

A worker is born with SIGINT blocked, since a terminal sends Ctrl-C to all processes of a command: it is this process's
to answer. It answers between two steps of its own, never inside one, so that every process that was started is known.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Generic, TypeVar

from ..support.interrupts import held

Task = TypeVar("Task")
Result = TypeVar("Result")

_PATIENCE_S: Final = 10.0
"""For the kernel to end a process that was killed: one that waits for a file server ends when that answers."""


class WorkerLost(RuntimeError):
    """A worker process ended in the middle of a task."""


class _There(Exception):
    """The traceback in a worker, as the cause of the exception here."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


@dataclass(eq=False)
class _Worker(Generic[Task]):
    process: Any
    connection: Connection
    task: Task


def in_processes(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    count: int,
    environment: Mapping[str, str] | None = None,
) -> Generator[tuple[Task, Result]]:
    """Does the tasks on ``count`` worker processes, which end when this ends or is closed, however that comes about.

    Args:
        work: a function of a module, or a `functools.partial` of one: it is sent to the workers.
        tasks: its arguments. One at a time is with each worker, so memory does not grow with their number.
        count: of workers, each of which begins with a task: no more are started than there are tasks.
        environment: variables that the workers are to see from the start.

    Yields:
        A task and its result, in the order they end.

    Raises:
        Exception: what ``work`` raises, the traceback in the worker as its cause.
        WorkerLost: when a worker dies, of a lack of memory, say.
        KeyboardInterrupt: after Ctrl-C.
    """
    left = iter(tasks)
    workers: list[_Worker[Task]] = []
    with held() as interrupts:
        try:
            for task in itertools.islice(left, count):
                interrupts.check()
                workers.append(_start(work, task, environment or {}))
            while workers:
                ready = wait([interrupts.reader, *(worker.connection for worker in workers)])
                interrupts.check()
                for worker in [one for one in workers if one.connection in ready]:
                    task, result = worker.task, _answer(worker)
                    following = list(itertools.islice(left, 1))
                    if following:
                        _hand(worker, following[0])
                    else:
                        workers.remove(worker)
                        _end(worker)
                    yield task, result
        finally:
            # What is being done is done again by whoever resumes, so nothing is waited for.
            for worker in workers:
                worker.process.kill()
            for worker in workers:
                _end(worker)


def _start(work: Callable[[Task], Any], task: Task, environment: Mapping[str, str]) -> _Worker[Task]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work, task), daemon=True)
    resource_tracker.ensure_running()  # here, since starting it unblocks signals
    with _blocked(signal.SIGINT), _environment(environment):
        process.start()
    theirs.close()
    return _Worker(process, ours, task)


def _answer(worker: _Worker[Any]) -> Any:
    try:
        result, error, text = worker.connection.recv()
    except (EOFError, OSError) as gone:
        raise _lost(worker) from gone
    if error is not None:
        error.__cause__ = _There(text)
        raise error
    return result


def _hand(worker: _Worker[Task], task: Task) -> None:
    worker.task = task
    try:
        worker.connection.send(task)
    except OSError as gone:
        raise _lost(worker) from gone


def _lost(worker: _Worker[Any]) -> WorkerLost:
    worker.process.join(_PATIENCE_S)
    code = worker.process.exitcode
    how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
    return WorkerLost(f"a worker process ended {how} in the middle of {worker.task}")


def _end(worker: _Worker[Any]) -> None:
    worker.connection.close()
    worker.process.kill()
    worker.process.join(_PATIENCE_S)


@contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    """Blocks the signal in this thread and what it starts, which keeps it blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """A worker takes this process's environment over as it is when it is started."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, work: Callable[[Any], Any], task: Any) -> None:
    """A worker: for its first task and each that comes it sends (result, exception, traceback), until the end."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            answer: tuple[Any, Exception | None, str]
            try:
                answer = (work(task), None, "")
            except Exception as error:
                answer = (None, _portable(error), traceback.format_exc())
            connection.send(answer)
            task = connection.recv()


def _portable(error: Exception) -> Exception:
    """The exception, or one with its words where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
