"""Worker processes: what they do is what one process does, and none is left behind, whenever Ctrl-C comes."""

import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lossscale.runs.workers import in_processes
from lossscale.support.errors import WorkerLost

ROOT = Path(__file__).resolve().parents[2]

MOMENTS = """
import itertools, multiprocessing, os, signal, sys, threading, time
from multiprocessing import popen_fork, util
from pathlib import Path

def press():
    os.killpg(0, signal.SIGINT)  # as a terminal does: to every process of the command

if __name__ == "__mp_main__" and os.environ.get("PRESS") == "import":
    press()

from lossscale.runs import workers
from lossscale.support.interrupts import noted

def blocked(number):
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

def task(number):
    if os.environ.get("PRESS") == "task" and number == 0:
        press()
    if os.environ.get("PRESS") != "none":
        time.sleep(60 if number else 0)
    return number

def pressing(module, name, call, late):
    plain, calls = getattr(module, name), itertools.count()
    def wrapped(*arguments, **named):
        pressed = next(calls) == call
        if pressed and not late:
            press()
        result = plain(*arguments, **named)
        if pressed and late:
            press()
        return result
    setattr(module, name, wrapped)
    return lambda: setattr(module, name, plain)

def read(path):
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return ""

def children():
    found = [each for path in Path("/proc/self/task").glob("*/children") for each in read(path).split()]
    lines = {each: read(Path(f"/proc/{each}/cmdline")) for each in found}
    return [each for each, line in lines.items() if line and "resource_tracker" not in line]

copies = sys.argv[1] == "copies"

def consume(name):
    with noted():  # as every command does: an interrupt inside a lock can come out as another exception
        for number, _ in workers.in_processes(task, range(4), 2, copies=copies):
            if name == "consumer":
                press()

if __name__ == "__main__":
    start = (popen_fork.Popen, "_launch") if copies else (util, "spawnv_passfds")
    patched = {
        "before the fork of the first": (*start, 0, False),
        "after the fork of the first": (*start, 0, True),
        "before the fork of the second": (*start, 1, False),
        "after the fork of the second": (*start, 1, True),
        "before the wait": (workers, "wait", 0, False),
        "after the wait": (workers, "wait", 0, True),
        "before the last end": (workers.ProcessPoolExecutor, "shutdown", 0, False),
        "after the last end": (workers.ProcessPoolExecutor, "shutdown", 0, True),
    }
    # The first start is multiprocessing's tracker's too.
    print(dict(workers.in_processes(blocked, range(2), 2, copies=copies)))
    for name in (*(() if copies else ("import",)), "task", "consumer", *patched):
        # Where the workers are to come to their end they must not be slow.
        os.environ["PRESS"] = "none" if "last" in name else name
        while threading.active_count() > 1:  # the last pool's thread: beside it no copies are made
            time.sleep(0.01)
        undo = pressing(*patched[name]) if name in patched else lambda: None
        try:
            consume(name)
            print(name, "lost")
        except KeyboardInterrupt:
            print(name, "answered", *children())
        undo()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


@pytest.mark.parametrize(("kind", "count"), [("new", 11), ("copies", 10)])
def test_an_interrupt_at_any_moment_leaves_no_process(tmp_path: Path, kind: str, count: int) -> None:
    (tmp_path / "moments.py").write_text(MOMENTS)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "moments.py"), kind],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    first, *moments = done.stdout.splitlines()
    assert first in ("{0: True, 1: True}", "{1: True, 0: True}")
    assert len(moments) == count and all(line.endswith(" answered") for line in moments), done.stdout


def square(number: int) -> tuple[int, int, str | None]:
    time.sleep(0.1)  # the other worker gets some, though it starts later
    return number * number, os.getpid(), os.environ.get("OF_WORKERS")


def fail(number: int) -> int:
    if number == 2:
        error = KeyError("two")
        error.add_note("noted there")
        raise error
    return number


def die(number: int) -> None:
    if number == 0:
        time.sleep(60)
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def test_tasks_are_done_by_processes_of_their_own() -> None:
    found = dict(in_processes(square, range(7), 2, {"OF_WORKERS": "x"}))
    assert {task: result for task, (result, _, _) in found.items()} == {task: task * task for task in range(7)}
    processes = {process for _, process, _ in found.values()}
    assert len(processes) == 2 and os.getpid() not in processes
    assert {value for _, _, value in found.values()} == {"x"} and "OF_WORKERS" not in os.environ
    assert list(in_processes(square, [], 2)) == []


COPIES = """
import os, signal, sys, threading, time
from pathlib import Path

from lossscale.runs import workers
from lossscale.runs.lock import locked

imported = []

def seen(number):
    return bool(imported), threading.active_count()

def lost(number):
    if number:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)

def begun(pipe):
    os.write(pipe, b"begun")
    time.sleep(60)

if __name__ == "__main__":
    imported.append(1)
    print(dict(workers.in_processes(seen, range(3), 2, copies=True)))
    print(dict(workers.in_processes(seen, range(3), 2, {"OF_WORKERS": "x"}, copies=True)))
    ready = threading.Event()
    thread = threading.Thread(target=ready.wait)
    thread.start()
    print(dict(workers.in_processes(seen, range(3), 2, copies=True)))
    ready.set()
    thread.join()
    for variables in ({}, {"OF_WORKERS": "x"}):
        try:
            list(workers.in_processes(lost, range(2), 2, variables, copies=True))
        except workers.WorkerLost as error:
            print(error)
    there, here = os.pipe()
    with locked(Path(sys.argv[1])):
        child = os.fork() or begun(here)
        os.read(there, 5)
    try:
        with locked(Path(sys.argv[1])):
            print("locked again")
    finally:
        os.kill(child, signal.SIGKILL)
"""


def test_copies_have_what_was_imported_and_hold_no_lock(tmp_path: Path) -> None:
    (tmp_path / "copies.py").write_text(COPIES)
    command = [sys.executable, "-W", "error", str(tmp_path / "copies.py"), str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=50, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    copied, changed, threaded, *lost, locked = done.stdout.splitlines()
    assert copied.count("(True, 2)") == 3, "with the thread that ends it with its parent"
    assert changed.count("(False, 2)") == 3, "with other variables it begins anew"
    assert threaded.count("(False, 2)") == 3, "beside other threads it begins anew"
    assert len(lost) == 2 and all(line.startswith("a worker process was killed by SIGKILL") for line in lost)
    assert locked == "locked again"


def test_tasks_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    with closing(in_processes(square, endless(), 1)) as done:
        assert [task for task, _ in itertools.islice(done, 3)] == [0, 1, 2]
    assert len(taken) <= 5


def test_an_exception_comes_with_the_traceback_there() -> None:
    with pytest.raises(KeyError, match="two") as caught:
        list(in_processes(fail, range(9), 1))
    assert caught.value.__notes__ == ["noted there"] and "in fail\n    raise error" in str(caught.value.__cause__)


def leave(number: int) -> None:
    os._exit(3)


def test_a_lost_worker_ends_the_others_and_the_tasks_are_named() -> None:
    words = "a worker process was killed by SIGKILL (no memory left?) while the workers were at task 0, task 2"
    with pytest.raises(WorkerLost, match=f"^{re.escape(words)}$"):
        list(in_processes(die, range(9), 2, name="task {}".format))
    assert not multiprocessing.active_children()
    with pytest.raises(WorkerLost, match=r"^a worker process ended with exit code 3 while the workers were at 0$"):
        list(in_processes(leave, range(9), 1))
    assert not multiprocessing.active_children()
