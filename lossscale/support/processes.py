"""What is to be done around the start and the end of a process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """While this is open, variables have other values: a process takes them over as they are when it is started."""
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


@contextmanager
def deaf() -> Iterator[None]:
    """Processes started inside do not hear Ctrl-C, which a terminal sends to all: who started them will end them.

    One that comes meanwhile is answered at the end.
    """
    # Where multiprocessing starts its own helper, it lets the signal through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(*, group: bool = False) -> None:
    """In a worker: it does not outlive the process that started it, however that one ends.

    Args:
        group: it leads a process group, which ends with it.
    """

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is None:
            return
        connection.wait([parent.sentinel])
        if group:
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
