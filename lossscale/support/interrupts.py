"""Ctrl-C: noted when it comes, so that none is lost, and held back while processes are started and ended."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

_PLAIN: Final = (signal.default_int_handler, signal.SIG_DFL)
"""Handlers that may be replaced for a while: nobody has chosen them. A process that ignores Ctrl-C goes on doing so."""


class _Noting:
    """Python's own handler, with a memory."""

    noted = False

    def __call__(self, number: int, frame: object) -> None:
        self.noted = True
        raise KeyboardInterrupt


class Held:
    """Interrupts that are held back.

    Attributes:
        reader: a file descriptor that an interrupt makes readable.
        noted: whether there was one.
    """

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self.noted = False

    def __call__(self, number: int, frame: object) -> None:
        """As a handler."""
        self.noted = True
        with suppress(BlockingIOError):
            os.write(self._writer, b"\0")

    def check(self) -> None:
        """Raises the interrupt, if there was one.

        Raises:
            KeyboardInterrupt: then.
        """
        if self.noted:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Gives the descriptors back."""
        os.close(self.reader)
        os.close(self._writer)


@contextmanager
def noted() -> Iterator[None]:
    """Interrupts raise KeyboardInterrupt as ever, and `check` raises it again if it was swallowed.

    Python drops an exception that comes in a finalizer or a callback, and a library that is being imported may turn it
    into another; such a one becomes KeyboardInterrupt again here.
    """
    handler = _Noting()
    with _answered_by(handler):
        try:
            yield
        except Exception as error:
            if handler.noted:
                raise KeyboardInterrupt from error
            raise


def check() -> None:
    """Raises an interrupt that came since the `noted` around this began.

    Raises:
        KeyboardInterrupt: if one came.
    """
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, _Noting) and handler.noted:
        raise KeyboardInterrupt


@contextmanager
def held() -> Iterator[Held]:
    """Holds interrupts back; the body looks for them where nothing is half done.

    Yields:
        What tells of them. Outside of the main thread, where Python answers none, it never does.

    Raises:
        KeyboardInterrupt: at the end, if one came that the body did not raise itself.
    """
    check()
    held = Held()
    try:
        with _answered_by(held):
            yield held
        held.check()
    finally:
        held.close()


@contextmanager
def _answered_by(handler: Any) -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or not (before in _PLAIN or isinstance(before, _Noting)):
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
