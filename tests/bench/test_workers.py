import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.conformance.cases import Case
from bench.conformance.execution import by_variant, case_pool
from bench.conformance.report import counts
from bench.conformance.rows import Outcome, Row, row_of
from bench.providers import TorchOptim
from bench.workers import Batch, Done, Ending, Loss, Pool, run_here
from tests.bench import planted
from tests.bench.planted import Planted

ROOT = Path(__file__).resolve().parents[2]
FOREACH = TorchOptim(implementation="foreach")
GOOD = Case(optimizer="SGD", options={"lr": 0.1}, layout="one", steps=1)
BAD = Case(optimizer="SGD", options={"lr": 0.1, "momentum": 0.9}, layout="one", steps=1)


def run(provider: Any, *, case_limit_s: float, seconds: float = 60) -> Done[Row]:
    batches = by_variant([(provider, FOREACH, BAD), (provider, FOREACH, GOOD)], "cpu")
    return case_pool(workers=1, limit_s=case_limit_s).run(batches, deadline=time.monotonic() + seconds)


def test_a_case_that_hangs_is_ended_and_the_rest_goes_on() -> None:
    done = run(Planted(planted.Hangs, only_with_momentum=True), case_limit_s=4)
    assert sorted(row.outcome for row in done.results) == [Outcome.IDENTICAL, Outcome.TIMEOUT]
    assert (done.not_run, done.replaced_workers) == (0, 1)


def test_a_worker_that_dies_costs_one_case() -> None:
    done = run(Planted(planted.Dies, only_with_momentum=True), case_limit_s=30)
    assert sorted(row.outcome for row in done.results) == [Outcome.ERROR, Outcome.IDENTICAL]
    assert "exit code -9" in next(row.detail for row in done.results if row.outcome is Outcome.ERROR)


def test_what_does_not_fit_is_counted() -> None:
    assert run(FOREACH, case_limit_s=30, seconds=-1).not_run == 2
    here = run_here(by_variant([(FOREACH, FOREACH, GOOD)], "cpu"), time.monotonic() - 1, lambda row: None)
    assert (here.not_run, here.results) == (1, [])


def pid_and_child(number: int) -> tuple[int, int, int]:
    """For a worker that leads a group: starts a process of its own, which would outlive it."""
    child = subprocess.Popen(["sleep", "60"])
    if number == 1:
        raise ValueError("planted")
    return number, os.getpid(), child.pid


def is_last(result: tuple[int, int, int]) -> bool:
    return result[0] == 2


def lost(batch: Batch[int, tuple[int, int, int]], number: int, loss: Loss) -> tuple[int, int, int]:
    assert loss.ending is Ending.RAISED and "ValueError: planted" in loss.text
    return number, 0, 0


def test_a_worker_that_is_worn_is_replaced_and_a_group_is_ended_with_its_leader() -> None:
    pool: Pool[int, tuple[int, int, int]] = Pool(count=1, limit_s=30, lost=lost, setup=None, worn=is_last, leads=True)
    done = pool.run([Batch(work=pid_and_child, items=(0, 1, 2, 3))])
    numbers, workers, children = zip(*done.results, strict=True)
    assert numbers == (0, 1, 2, 3) and done.replaced_workers == 1
    assert workers[0] == workers[2] != workers[3] and workers[1] == 0
    for child in (*children[:1], *children[2:]):
        assert not is_running(child)


def run_inside(case: Case) -> list[str]:
    """A part of a campaign, which has workers of its own."""
    return [
        row.outcome
        for row in case_pool(workers=1, limit_s=30).run(by_variant([(FOREACH, FOREACH, case)], "cpu")).results
    ]


def not_lost(batch: Batch[Case, list[str]], case: Case, loss: Loss) -> list[str]:
    raise AssertionError(loss.text)


def test_a_worker_that_leads_may_have_workers() -> None:
    pool: Pool[Case, list[str]] = Pool(count=1, limit_s=60, lost=not_lost, setup=None, leads=True)
    assert pool.run([Batch(work=run_inside, items=(GOOD,))]).results == [["identical"]]


def note_and_wait(path: Path) -> None:
    """For a worker: starts a process of its own, notes both, and does not end."""
    child = subprocess.Popen(["sleep", "60"])
    path.with_suffix(".part").write_text(f"{os.getpid()} {child.pid}")
    path.with_suffix(".part").rename(path)
    time.sleep(60)


def never(batch: Batch[Path, None], path: Path, loss: Loss) -> None:
    raise AssertionError(loss.text)


@pytest.mark.parametrize("leads", [False, True])
def test_workers_end_with_a_command_that_is_killed(leads: bool, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from bench.workers import Batch, Pool\n"
        "from tests.bench.test_workers import never, note_and_wait\n"
        f"if __name__ == '__main__':\n    pool = Pool(count=1, limit_s=60, lost=never, setup=None, leads={leads})\n"
        "    pool.run([Batch(work=note_and_wait, items=(pathlib.Path(sys.argv[1]),))])\n"
    )
    script, noted = tmp_path / "command.py", tmp_path / "noted"
    script.write_text(code)
    command = subprocess.Popen([sys.executable, str(script), str(noted)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert eventually(noted.exists)
    finally:
        command.kill()
        command.wait()
    worker, child = map(int, noted.read_text().split())
    try:
        assert eventually(lambda: not is_running(worker))
        assert not leads or eventually(lambda: not is_running(child))
    finally:
        if is_running(child):
            os.kill(child, signal.SIGKILL)


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether something comes true within half a minute."""
    ends = time.monotonic() + 30
    while not holds() and time.monotonic() < ends:
        time.sleep(0.05)
    return holds()


def is_running(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_counts_name_failures() -> None:
    rows = [
        row_of(GOOD, "mine", "torch-foreach", outcome, "why")
        for outcome in (Outcome.IDENTICAL, Outcome.TIMEOUT, Outcome.TIMEOUT)
    ]
    assert counts.tally(rows) == [
        {"optimizer": "SGD", "recipe": "foreach", "dtype": "fp32", "cases": 3, "identical": 1, "timeout": 2}
    ]
    text = "\n".join(counts.markdown(rows))
    assert "timeout SGD foreach fp32 `lr=0.1` [one/normal] ×2: why" in text
