"""Code of other people's, called so that whatever it does is an exception: it cannot end the command that calls it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import NoReturn
from unittest import mock

from lossscale.support import interrupts


class Ended(Exception):
    """The code that was called would have ended the process, or did not end itself; the message says how."""


class _Exit(BaseException):
    """In place of `os._exit`: no handler of the caller's shall take it for an error of its own."""


@contextmanager
def contained(limit_s: float | None = None) -> Iterator[None]:
    """Exceptions inside are as ever; whatever else would end the process becomes an exception too.

    What it sets for all of torch (threads, the default dtype, whether gradients are recorded) is as before
    afterwards. What kills a process from outside of Python (a broken extension, a signal) still does.

    Args:
        limit_s: after which the body is interrupted, as soon as Python runs again; only in the main thread, where
            nobody else has an alarm.

    Raises:
        Ended: for SystemExit, `os._exit`, a KeyboardInterrupt that nobody typed, any other exception that is no
            Exception, and when the limit is over.
        KeyboardInterrupt: when it was typed.
    """
    with ExitStack() as stack:
        stack.enter_context(_settings_kept())
        stack.enter_context(interrupts.noted())
        stack.enter_context(mock.patch.object(os, "_exit", _exit_of_this_thread()))
        if limit_s is not None:
            stack.enter_context(_alarm(limit_s))
        try:
            yield
        except KeyboardInterrupt as error:
            interrupts.check()
            raise Ended("it raised KeyboardInterrupt, which nobody typed") from error
        except Exception:
            raise
        except BaseException as error:
            said = str(error) if isinstance(error, _Exit) else f"it raised {type(error).__name__}({error})"
            raise Ended(said) from error


@contextmanager
def _settings_kept() -> Iterator[None]:
    import torch

    threads, dtype, recorded = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(recorded)


def _exit_of_this_thread() -> object:
    """An `os._exit` that raises in this thread of this process; in others, a forked child say, it is the real one."""
    process, thread, real = os.getpid(), threading.get_ident(), os._exit

    def leave(status: int) -> NoReturn:
        if (os.getpid(), threading.get_ident()) != (process, thread):
            real(status)
        raise _Exit(f"it called os._exit({status})")

    return leave


@contextmanager
def _alarm(limit_s: float) -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _Exit(f"it had not ended after {limit_s:g} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
