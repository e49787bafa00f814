"""Whatever a user's class does, it is one line about that class, and the others go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.__main__ import main
from bench.conformance.cases import Case
from bench.conformance.compare import run_case
from bench.conformance.report.coverage import coverage
from bench.conformance.rows import Outcome, Row
from bench.providers import Ended, Ours, TorchOptim, contained
from bench.providers.user import UserClass
from bench.store.schema import StepRow
from bench.timing import measure
from bench.timing.clock import HostClock
from bench.timing.measure import time_workload
from bench.timing.timed import Timed, measure_once, prepare
from bench.timing.workloads import StepWorkload, many
from bench.workers import Batch, Pool
from tests.bench import light, odd_optimizers

ODD = "tests.bench.odd_optimizers"
FOR_LOOP = TorchOptim(implementation="for-loop")
SMALL = StepWorkload(optimizer="SGD", tensors=many(3, 64))
BROKEN = {
    "ExitsAtConstruction": "it raised SystemExit(planted)",
    "ExitsAtStep": "it raised SystemExit(3)",
    "LeavesAtStep": "it called os._exit(0)",
    "InterruptsItself": "it raised KeyboardInterrupt, which nobody typed",
    "Generates": "it raised GeneratorExit(planted)",
    "Recurses": "maximum recursion depth exceeded",
    "MadeElsewhere": "made 5, which is no torch.optim.Optimizer",
    "StateIsGone": "",
    "GroupsAreGone": "replaced parameters instead of updating them in place",
    "GroupsAreOdd": "'int' object is not iterable",
    "SaysHalf": "ValueError: half ?",
    "Moves": "incompatible tensor type",
}


def user(name: str) -> UserClass:
    return UserClass(target=f"{ODD}:{name}")


def compared(name: str, **around: Any) -> Row:
    case = Case(optimizer="SGD", options={"lr": 0.1, "momentum": 0.9}, layout="one", steps=3, **around)
    return run_case(case, user(name), FOR_LOOP, torch.device("cpu"))


def last(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_is_one_line_in_both_commands(name: str) -> None:
    row = compared(name)
    assert row.outcome is Outcome.ERROR
    assert (BROKEN[name] or "its state is None, not a mapping by parameter") in last(row.detail)
    (broken, sound), lacking = time_workload(SMALL, [user(name), FOR_LOOP], HostClock(), 0.0)
    assert lacking == [] and sound.step_time_ns and broken.step_time_ns is broken.gb_per_s is broken.bytes_moved is None
    assert (BROKEN[name] or "NoneType") in last(broken.error)


def test_a_step_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_CALL_S", 0.2)
    (broken, sound), _ = time_workload(SMALL, [user("TakesForEver"), FOR_LOOP], HostClock(), 0.0)
    assert last(broken.error).endswith("it had not ended after 0.2 s") and sound.step_time_ns
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_constructor_without_a_learning_rate_is_not_offered() -> None:
    assert compared("NoLearningRate").detail == "no option lr"
    rows, lacking = time_workload(SMALL, [user("NoLearningRate")], HostClock(), 0.0)
    assert rows == [] and lacking == [f"{ODD}:NoLearningRate: no option lr"]


def test_a_refusal_that_cannot_be_printed_is_one() -> None:
    row = compared("SaysNothing")
    assert row.outcome is Outcome.UNSUPPORTED and "SaysNothing.Error: <exception str() failed>" in row.detail


def test_a_word_is_no_loss() -> None:
    assert compared("ReturnsAWord").outcome is Outcome.IDENTICAL
    row = compared("ReturnsAWord", closure=True)
    assert row.outcome is Outcome.ERROR and "returned a str, not the loss that its closure returned" in row.detail


@pytest.mark.parametrize("around", [{}, {"reload_at": 1}, {"closure": True}])
def test_states_that_are_no_numbers_are_left_alone_and_said(around: dict[str, Any]) -> None:
    row = compared("StatesAreWords", **around)
    assert row.outcome is Outcome.IDENTICAL
    assert row.detail == "states not compared: step is a str, exp_avg is a list, sum is of torch.int64"
    assert coverage([row], 0)["reasons"] == {f"{ODD}:StatesAreWords": {row.detail: 1}}
    assert compared("EntryIsANumber", **around).outcome is Outcome.MISMATCH


def test_a_counter_that_is_a_word_cannot_be_set() -> None:
    row = compared("StatesAreWords", start_step=5)
    assert row.outcome is Outcome.UNSUPPORTED and row.detail == "its step counter is a str, not a number"


def timed(name: str) -> StepRow:
    (row,), _ = time_workload(SMALL, [user(name)], HostClock(), 0.0)
    return row


def test_bytes_are_those_of_what_the_class_keeps() -> None:
    each = 4 * SMALL.tensors.elements
    (ours,), _ = time_workload(SMALL, [Ours(recipe="foreach")], HostClock(), 0.0)
    assert (ours.state_bytes, ours.bytes_moved) == (each, 5 * each)
    assert (timed("Prints").state_bytes, timed("Prints").bytes_moved) == (each, 5 * each)
    # In a list of its own, and twice as much.
    row = timed("KeepsItsOwnBuffers")
    assert (row.state_bytes, row.bytes_moved) == (2 * each, 7 * each)
    assert row.step_time_ns and row.gb_per_s == 7 * each / row.step_time_ns
    # It keeps none where torch's SGD with momentum has one: nobody knows what it moves.
    row = timed("EntryIsANumber")
    assert row.step_time_ns and row.state_bytes is row.bytes_moved is row.gb_per_s is row.share_of_copy is None
    StepRow.from_dict(row.as_dict())


def test_what_a_class_does_to_gradients_is_its_own_affair() -> None:
    """It had the others' gradients in its hands, and ours lost their time for wrong bits."""
    everybody = [user("ScalesGradients"), Ours(recipe="foreach"), FOR_LOOP, user("TakesGradients")]
    (scales, ours, torchs, takes), _ = time_workload(SMALL, everybody, HostClock(), 0.0)
    assert ours.differing_elements == 0 and ours.step_time_ns and torchs.step_time_ns
    assert scales.step_time_ns and not scales.error
    assert "its steps take gradients away" in last(takes.error) and takes.step_time_ns is None


def test_a_class_that_frees_gradients_has_no_time_and_ends_no_process() -> None:
    (frees, torchs), _ = time_workload(SMALL, [user("FreesGradients"), FOR_LOOP], HostClock(), 0.0)
    assert "its steps take gradients away" in last(frees.error) and frees.step_time_ns is None
    assert torchs.step_time_ns


def test_every_step_of_a_class_that_scales_gradients_does_the_same() -> None:
    one = Timed(user("ScalesGradients"))
    gradients = SMALL.gradients(torch.device("cpu"))
    prepare(one, SMALL, gradients, HostClock())
    for _ in range(3):
        measure_once(one, HostClock(), queued=False)
        for p, gradient in zip(one.parameters, gradients, strict=True):
            assert p.grad is not None and torch.equal(p.grad, 0.25 * gradient)


def test_what_a_class_sets_for_all_of_torch_is_set_back() -> None:
    before = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    (row, _), _ = time_workload(SMALL, [user("SetsForAll"), FOR_LOOP], HostClock(), 0.0)
    assert row.step_time_ns
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == before


def test_what_providers_print_and_leave_running_is_no_part_of_the_answer(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--device", "cpu", "--quick", "--workload", "3x64", "--optimizer", "SGD"]
    arguments += [f"--provider={ODD}:{name}" for name in ("Prints", "LeavesThreads")]
    try:
        assert main(["time", "step", *arguments]) == 0
    finally:
        odd_optimizers.RELEASED.set()
    out, err = capfd.readouterr()
    assert "a step" in err and "another line" in err and "a step" not in out and "another line" not in out
    assert "left running beside the timings: 1, such as left" in out


def test_threads_that_are_left_do_not_hold_the_process() -> None:
    text = (
        "import threading, time; from bench.__main__ import leave; import atexit; atexit.register(print, 'cleaned')\n"
    )
    text += "threading.Thread(target=time.sleep, args=(600,)).start(); print('said'); leave(3)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\ncleaned\n", "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import os\nos._exit(0)", "it called os._exit(0)"),
        ("raise SystemExit('bye')", "it raised SystemExit(bye)"),
        ("raise KeyboardInterrupt", "it raised KeyboardInterrupt, which nobody typed"),
        ("def f(): return f()\nf()", "RecursionError"),
        ("def __getattr__(name): raise SystemExit", "it raised SystemExit()"),
        ("class E(Exception):\n    def __str__(self): return 1 / 0\nraise E", "<exception str() failed>"),
    ],
)
def test_a_module_that_ends_its_importer_is_bad_input(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "planted_module.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for command in (["time", "step"], ["conform"]):
        monkeypatch.delitem(sys.modules, "planted_module", raising=False)
        assert main([*command, "--device", "cpu", "--optimizer", "SGD", "--provider", "planted_module:Mine"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and reason in err and "mend planted_module first" in err


def test_what_is_typed_is_an_interrupt_and_what_others_do_is_theirs() -> None:
    with pytest.raises(KeyboardInterrupt), contained():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    with pytest.raises(ZeroDivisionError), contained():
        raise ZeroDivisionError
    real, ended = os._exit, []
    with pytest.raises(Ended, match=r"os\._exit"), contained():
        # Those of other threads and processes end what they are called in.
        child = os.posix_spawn(sys.executable, [sys.executable, "-c", "import os; os._exit(5)"], {})
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os._exit(1)
    assert ended == [5] and os._exit is real


def test_who_kills_every_worker_is_given_up_and_the_others_go_on() -> None:
    pool: Pool[int, Any] = Pool(
        count=1,
        limit_s=60,
        lost=light.lost,
        setup=None,
        whose=lambda batch: "sound" if batch.items[0] < 0 else "killer",
    )
    batches = [Batch(work=light.kills, items=items) for items in ((1, 2), (3, 4, 5), (-1, -2), (6,), (-3,))]
    done = pool.run(batches)
    assert [one for one in done.results if isinstance(one, int)] == [-1, -2, -3]
    killed = [one for one in done.results if not isinstance(one, int)]
    assert [number for number, _, _ in killed] == [1, 2, 3, 4, 5, 6]
    assert ["not tried" in text for _, _, text in killed] == [False] * 3 + [True] * 3
    assert done.not_run == 0 and done.replaced_workers == 3
