"""Ctrl-C: none is lost."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lossscale.support.interrupts import check, noted

ROOT = Path(__file__).resolve().parents[1]


def press() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def test_a_swallowed_interrupt_is_raised_again() -> None:
    with pytest.raises(KeyboardInterrupt), noted():
        check()
        with suppress(KeyboardInterrupt):  # as Python does where a finalizer is interrupted
            press()
        check()
    check()


def test_an_interrupt_that_became_another_exception_is_one_again() -> None:
    with pytest.raises(KeyboardInterrupt), noted():
        try:
            press()
        except KeyboardInterrupt as interrupt:
            raise ImportError("numpy is broken") from interrupt
    with pytest.raises(ImportError), noted():
        raise ImportError("numpy is broken")


def test_handlers_that_somebody_chose_stay() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with noted():
            press()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with noted():
            press()
            check()
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


def test_other_threads_note_nothing() -> None:
    failed: list[BaseException] = []

    def body() -> None:
        try:
            with noted():
                check()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert failed == []


@pytest.mark.parametrize("package", ["lossscale", "bench"])
def test_a_command_that_is_still_importing_ends_without_a_traceback(package: str) -> None:
    """The first thing that it imports presses Ctrl-C."""
    code = f"""
import os, runpy, signal, sys
class Pressing:
    def find_spec(self, name, path=None, target=None):
        if name == "{package}.__main__.press" or name == "lossscale.support.cli":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Pressing())
runpy.run_module("{package}", run_name="__main__", alter_sys=True)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT and done.stdout == done.stderr == ""
