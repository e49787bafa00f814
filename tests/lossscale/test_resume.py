"""Kills, interrupts and resumes: a resumed run has the bytes of an uninterrupted one. And the bound on memory."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lossscale import studies
from lossscale.runs import records
from lossscale.runs.planning import Choices, planned_manifest
from lossscale.runs.run import run_study
from lossscale.runs.state import RunState, run_state
from lossscale.support.errors import InputError
from lossscale.support.output import Output

CHOICES = Choices(optimizers=("sgd", "adagrad"), scales=("4", "0.01"), inits=11, steps=60, device="cpu", workers=1)
SHARDS = 4 * (1 + 3)

SCRIPT = """
import dataclasses, sys
from pathlib import Path
from lossscale import studies
from lossscale.runs.planning import Choices
from lossscale.runs.run import run_study
from lossscale.support.output import Output
choices = Choices({choices})
run_study(studies.get("loss-vs-lr"), choices, Path(sys.argv[1]), Output())
"""


def start(run: Path, **changes: object) -> subprocess.Popen[str]:
    values = {**vars(CHOICES), "resume": True, **changes}
    script = SCRIPT.format(choices=", ".join(f"{name}={value!r}" for name, value in values.items()))
    return subprocess.Popen(
        [sys.executable, "-c", script, str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def shards(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / records.PAIRS).glob("*.parquet"))}


def wait_for_shards(process: subprocess.Popen[str], run: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list((run / records.PAIRS).glob("*.parquet"))) < count and process.poll() is None:
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.002)


def children(process: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{process}/task").glob("*/children") for child in task.read_text().split()
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    run_study(studies.get("loss-vs-lr"), CHOICES, run, Output())
    assert len(shards(run)) == SHARDS
    return run


def test_the_state_of_a_directory(uninterrupted: Path, tmp_path: Path) -> None:
    manifest = planned_manifest(studies.get("loss-vs-lr"), CHOICES)
    run = tmp_path / "run"
    assert run_state(run, manifest, resume=False) is RunState.NEW
    run.mkdir()
    (run / ".manifest.json.0123abcd.tmp").write_text("")  # of a writer that was killed
    assert run_state(run, manifest, resume=False) is RunState.NEW
    records.write_manifest(run, manifest)
    with pytest.raises(InputError, match="--resume"):
        run_state(run, manifest, resume=False)
    assert run_state(run, manifest, resume=True) is RunState.BEGUN
    records.write_manifest(run, dataclasses.replace(manifest, finished=True))
    assert run_state(run, manifest, resume=False) is RunState.UNCOUNTED
    assert run_state(uninterrupted, manifest, resume=False) is RunState.FINISHED
    script = dataclasses.replace(manifest, spec=None)
    records.write_manifest(run, dataclasses.replace(script, finished=True))
    assert run_state(run, script, resume=False) is RunState.BEGUN  # a script's summary comes of running it


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_bytes(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    draw = random.Random(7)
    for workers, reached in ((1, 1), (2, 4), (2, 9)):
        process = start(run, workers=workers)
        wait_for_shards(process, run, reached)
        time.sleep(draw.uniform(0, 0.3))
        workers_left = children(process.pid)
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{child}").exists() for child in workers_left):
            assert time.monotonic() < deadline, "a worker outlived its parent"
            time.sleep(0.02)
        if (run / records.PAIRS).exists():  # as if the kill had come in the middle of a write
            (run / records.PAIRS / f".part.parquet.{draw.randrange(16**8):08x}.tmp").write_bytes(b"PAR1")
    assert not (run / records.SUMMARY).exists() or not records.read_manifest(run).finished
    run_study(studies.get("loss-vs-lr"), Choices(**{**vars(CHOICES), "resume": True}), run, Output())
    assert shards(run) == shards(uninterrupted)
    assert (run / records.SUMMARY).read_bytes() == (uninterrupted / records.SUMMARY).read_bytes()
    assert (run / records.CHECKSUMS).read_bytes() == (uninterrupted / records.CHECKSUMS).read_bytes()
    assert records.read_manifest(run).finished
    assert not list(run.rglob("*.tmp"))


def test_the_number_of_workers_does_not_show(uninterrupted: Path, tmp_path: Path) -> None:
    process = start(tmp_path / "run", workers=2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert shards(tmp_path / "run") == shards(uninterrupted)


def test_an_interrupt_leaves_a_run_to_resume(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--optimizer", "sgd", "--inits", "64", "--steps", "2000", "--device", "cpu", "--out", str(run))
    process = subprocess.Popen(
        [sys.executable, "-m", "lossscale", "run", "loss-vs-lr", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (run / records.PAIRS).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, errors = process.communicate(timeout=240)  # until the last process has closed the pipe
    assert process.returncode == 130, errors
    assert "--resume" in errors and "Traceback" not in errors
    assert not records.read_manifest(run).finished


MEMORY = """
import resource, sys
from pathlib import Path
from lossscale import studies
from lossscale.runs.planning import Choices
from lossscale.runs.run import run_study
from lossscale.support.output import Output
for inits in (16, 160):
    choices = Choices(optimizers=("rmsprop:eps=1e-3",), inits=inits, steps=1, device="cpu", workers=1)
    run_study(studies.get("loss-vs-lr"), choices, Path(sys.argv[1]) / str(inits), Output(as_json=True))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_pairs(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    few, many = map(float, done.stdout.split())
    assert many < 1.15 * few, f"{few:.0f} MiB for 16 inits, {many:.0f} MiB for ten times as many"
