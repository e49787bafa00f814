"""Worker processes: a pool that an interrupt, a failure or a lost worker ends without leaving a process behind."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Final, TypeVar

from ..support import processes
from ..support.errors import WorkerLost

Task = TypeVar("Task")
Result = TypeVar("Result")

_ANSWER_S: Final = 0.1
"""Until Ctrl-C is answered, at most."""
_PATIENCE_S: Final = 10.0
"""For the kernel to end a process that was killed: one that waits for a file server ends when that answers."""


def in_processes(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    count: int,
    environment: Mapping[str, str] | None = None,
    *,
    name: Callable[[Task], str] = str,
    copies: bool = False,
) -> Generator[tuple[Task, Result]]:
    """Does the tasks on ``count`` worker processes, which end when this ends or is closed, however that comes about.

    Args:
        work: a function of a module, or a `functools.partial` of one: it is sent to the workers.
        tasks: its arguments. Each worker has one and another is waiting for it: memory does not grow with their number.
        count: of workers; no more are started than there are tasks.
        environment: variables that the workers are to see from the start.
        name: of a task, for a message.
        copies: whether workers may begin as copies of this process, which have all that it has imported, where that is
            safe: on Linux, as long as no other thread of Python's runs here and no variable changes. Otherwise each
            begins anew. It must not have used a GPU.

    Yields:
        A task and its result, in the order they end.

    Raises:
        Exception: what ``work`` raises, the traceback in the worker as its cause.
        WorkerLost: when a worker dies; it names the tasks that were being done.
        KeyboardInterrupt: after Ctrl-C.
    """
    left = iter(tasks)
    first = list(itertools.islice(left, count))
    if not first:
        return
    # Here, since starting it unblocks signals.
    resource_tracker.ensure_running()
    others = set(multiprocessing.active_children())
    forks = copies and not environment and sys.platform == "linux" and threading.active_count() == 1
    context = multiprocessing.get_context("fork" if forks else "spawn")
    executor = ProcessPoolExecutor(len(first), context, initializer=_begin)
    running: dict[Future[Result], Task] = {}
    workers: list[BaseProcess] = []
    try:
        # The first task starts all workers. An interrupt inside a start would leave a process that nobody knows; and a
        # terminal sends Ctrl-C to workers too: born with it blocked, they leave the answer to this process.
        with _blocked(signal.SIGINT), processes.environment(environment or {}), _forking_quietly():
            running |= {executor.submit(work, task): task for task in first}
            # The pool looks out for the workers that there were when it was last given something.
            executor.submit(int)
        workers += set(multiprocessing.active_children()) - others
        while True:
            more = list(itertools.islice(left, 2 * len(first) - len(running)))
            # An interrupt just after a lock was taken would leave it taken, and the pool's thread waiting for ever.
            with _blocked(signal.SIGINT):
                running |= {executor.submit(work, task): task for task in more}
                ended = wait(running, _ANSWER_S, return_when=FIRST_COMPLETED).done if running else set()
            if not running:
                break
            for future in [future for future in running if future in ended]:
                with _blocked(signal.SIGINT):
                    result = future.result()
                yield running.pop(future), result
        executor.shutdown()
    except BaseException as error:
        broken = isinstance(error, BrokenProcessPool)
        # A second Ctrl-C does not keep the first from ending them.
        with _blocked(signal.SIGINT):
            end = _end(workers) if broken else ""
            # What is being done is done again by whoever resumes, so nothing is waited for.
            started = set(multiprocessing.active_children()) - others
            for process in started:
                process.kill()
            executor.shutdown(wait=False, cancel_futures=True)
            for process in started:
                _exit_code(process)
        if broken:
            # Workers take tasks in the order they are submitted.
            unfinished = [task for future, task in running.items() if not future.done() or future.exception()]
            doing = ", ".join(map(name, unfinished[: len(first)])) or "no task"
            raise WorkerLost(f"a worker process {end} while the workers were at {doing}") from error
        raise


def _begin() -> None:
    """In a worker, before its first task."""
    gc.freeze()  # what a copy has taken over is not looked at again, and stays shared with the others
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)  # a copy has none of the threads that torch may have had
    processes.end_with_parent()


@contextmanager
def _forking_quietly() -> Iterator[None]:
    """Python 3.12 warns of threads that are no thread of its own: of libraries, which see to forks themselves."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork\\(\\)", category=DeprecationWarning)
        yield


def _end(workers: Sequence[BaseProcess]) -> str:
    """How the first of them ended; the pool ends the others with SIGTERM."""
    gone = connection.wait([worker.sentinel for worker in workers], 0)
    codes = [_exit_code(worker) for worker in workers if worker.sentinel in gone]
    code = next((code for code in codes if code != -signal.SIGTERM), codes[0] if codes else None)
    if code is None:
        return "died"
    if code >= 0:
        return f"ended with exit code {code}"
    hint = " (no memory left?)" if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{hint}"


def _exit_code(process: BaseProcess) -> int | None:
    """Of a process that is ending: polled, since the pool's thread waits for it too and the kernel tells only one."""
    deadline = time.monotonic() + _PATIENCE_S
    while process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return process.exitcode


@contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    """Blocks the signal in this thread and what it starts, which keeps it blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
