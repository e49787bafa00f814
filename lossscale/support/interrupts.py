"""Ctrl-C: noted when it comes, so that none is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_PLAIN: Final = (signal.default_int_handler, signal.SIG_DFL)
"""Handlers that may be replaced for a while: nobody has chosen them. A process that ignores Ctrl-C goes on doing so."""


class _Noting:
    """Python's own handler, with a memory."""

    noted = False

    def __call__(self, number: int, frame: object) -> None:
        self.noted = True
        raise KeyboardInterrupt


@contextmanager
def noted() -> Iterator[None]:
    """Interrupts raise KeyboardInterrupt as ever, and `check` raises it again if it was swallowed.

    Python drops an exception that comes in a finalizer or a callback, and a library that is being imported may turn it
    into another; such a one becomes KeyboardInterrupt again here.
    """
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or not (before in _PLAIN or isinstance(before, _Noting)):
        yield
        return
    handler = _Noting()
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    except Exception as error:
        if handler.noted:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def check() -> None:
    """Raises an interrupt that came since the `noted` around this began.

    Raises:
        KeyboardInterrupt: if one came.
    """
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, _Noting) and handler.noted:
        raise KeyboardInterrupt


def forget() -> None:
    """After an interrupt was answered: lets the process end with its exit code.

    Python takes note when a string in ``exec`` is interrupted, as dataclasses and Numba run them in imports, and ends
    the process by SIGINT though somebody caught the exception; the next such string makes it forget.
    """
    exec("")
