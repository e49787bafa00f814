"""Runs on a Ray cluster of this machine: nodes lost without grace, refused nodes, interrupts (`make test-scale`)."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lossscale import studies
from lossscale.runs import records
from lossscale.runs.planning import Choices
from lossscale.runs.run import run_study
from lossscale.support.output import Output
from tests.lossscale.ray_cluster import COMMAND, LIMIT_S, Cluster, Command, started, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: make test-scale"),
]

STUDY = studies.get("loss-vs-lr")
TYPED = ("--network", "mlp-64-32-10", "--optimizer", "sgd", "--scale", "4", "--inits", "48", "--steps", "3")
CHOICES = Choices(networks=("mlp-64-32-10",), optimizers=("sgd",), scales=("4",), inits=48, steps=3, device="cpu")
SHARDS = 24


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    with started(folder) as one:
        yield one
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "here"
    run_study(STUDY, Choices(**{**vars(CHOICES), "executor": "here"}), run, Output())
    return run


def shards(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / records.PAIRS).glob("*.parquet")}


def test_a_lost_worker_and_a_lost_node_do_not_show(cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    command = Command(cluster, tmp_path / "run", TYPED, shards=3)
    command.wait_for(3)
    wait_until(lambda: cluster.processes(b"ray::train_there"), "a task that waits")
    os.kill(cluster.processes(b"ray::train_there")[0], signal.SIGKILL)
    command.allow(6)
    command.wait_for(6)
    cluster.lose()
    command.allow(SHARDS)
    command.end()
    cluster.add()
    assert shards(command.run) == shards(whole) and len(shards(whole)) == SHARDS
    for name in (records.SUMMARY, records.CHECKSUMS):
        assert (command.run / name).read_bytes() == (whole / name).read_bytes()
    assert records.read_manifest(command.run).finished


def test_shards_may_come_to_the_driver(cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    command = Command(cluster, tmp_path / "run", (*TYPED, "--shards-by", "driver"))
    command.end()
    assert shards(command.run) == shards(whole)


def test_an_interrupt_leaves_a_run_to_resume(cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    command = Command(cluster, tmp_path / "run", TYPED, shards=2)
    command.wait_for(2)
    command.process.send_signal(signal.SIGINT)
    _, errors = command.end(130)
    assert "--resume" in errors and "Traceback" not in errors
    wait_until(lambda: not cluster.processes(b"ray::train_there"), "the end of the tasks, whose driver is gone")
    assert 2 <= len(shards(command.run)) < SHARDS
    run_study(STUDY, Choices(**{**vars(CHOICES), "resume": True}), command.run, Output())
    assert shards(command.run) == shards(whole)


FAILING = """
import dataclasses
from pathlib import Path
from lossscale import studies
from lossscale.runs.executor import open_executor
from lossscale.runs.planning import Choices
choices = Choices(networks=("mlp-64-32-10",), optimizers=("sgd",), scales=("4",), inits=48, steps=3, device="cpu",
                  executor="ray", address=words[0])
with open_executor(choices, print) as executor:
    manifest = executor.plan(studies.get("loss-vs-lr"), choices)
    cohorts = list(manifest.run_spec.cohorts())
    cohorts[3] = dataclasses.replace(cohorts[3], key=dataclasses.replace(cohorts[3].key, optimizer="nowhere"))
    for one in executor.train(Path(SHARDS).parent, manifest, cohorts):
        print(one.cohort.name)
"""


def test_a_task_that_raises_names_its_cohort_and_stops_the_others(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "gate").write_text("8")
    done = subprocess.run(
        [sys.executable, "-c", COMMAND + FAILING, str(tmp_path / "gate"), str(tmp_path / "pairs"), cluster.address],
        capture_output=True,
        text=True,
        env=cluster.environment(),
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 1
    assert "ValueError" in done.stderr and "During handling" not in done.stderr
    assert "in cohort mlp-64-32-10.nowhere." in done.stderr
    wait_until(lambda: not cluster.processes(b"ray::train_there"), "the end of the other tasks")
    assert len(shards(tmp_path)) < SHARDS - 1


def test_a_node_with_other_bits_is_refused_unless_the_engine_has_none(cluster: Cluster, tmp_path: Path) -> None:
    portable = ("--network", "mlp-6-6-1", "--engine", "trainer", "--optimizer", "sgd", "--scale", "4")
    portable += ("--inits", "8000", "--steps", "20")
    cluster.lose()
    cluster.add("ATEN_CPU_CAPABILITY=default")
    _, errors = Command(cluster, tmp_path / "new" / "run", TYPED).end(2)
    assert errors.startswith("error: --address ") and errors.count("\n") == 1
    assert "this node has cpu_capability " in errors and "the bits would mix" in errors
    assert list(tmp_path.iterdir()) == []
    command = Command(cluster, tmp_path / "portable", portable)
    command.end()
    cluster.lose()
    cluster.add("ATEN_CPU_CAPABILITY=")
    manifest = records.read_manifest(command.run)
    capabilities = {node["cpu_capability"] for node in (manifest.provenance, *manifest.nodes)}
    assert len(capabilities) == 2 and "DEFAULT" in capabilities
    choices = Choices(
        networks=("mlp-6-6-1",),
        engine="trainer",
        optimizers=("sgd",),
        scales=("4",),
        inits=8000,
        steps=20,
        device="cpu",
    )
    run_study(STUDY, choices, tmp_path / "here", Output())
    assert shards(command.run) == shards(tmp_path / "here")


def test_a_directory_that_nodes_do_not_share(cluster: Cluster, tmp_path: Path) -> None:
    """The command sees a file system of its own where the nodes see an empty folder."""
    alone = (
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs none "$0" && exec "$@"',
        str(tmp_path),
    )
    # A file system of one's own takes mount namespaces, which containers may forbid; the refusal needs nothing else.
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs namespaces")
    _, errors = Command(cluster, tmp_path / "run", TYPED, before=alone).end(2)  # Ray and the run may print lines
    assert errors.count("\n") == 1
    assert errors.startswith(f"error: --out {tmp_path / 'run'}: on the node ")
    assert errors.endswith(
        "it is another directory, or none; give a path that all nodes share, or --shards-by driver\n"
    )
    small = (*TYPED, "--inits", "2", "--shards-by", "driver")
    Command(cluster, tmp_path / "run", small, before=alone).end()


PLACES = """
import os, ray
from lossscale.runs.cluster import Cluster
ray.init(address="local", num_cpus=1, num_gpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
for gpu in (True, False):
    task = Cluster(ray, print)._remote(lambda: (os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")), gpu=gpu)
    found = [ray.get(task.remote()) for _ in range(3)]
    print(len({process for process, _ in found}), {len(devices or "") for _, devices in found})
"""


def test_a_gpu_task_has_one_gpu_and_a_process_of_its_own(cluster: Cluster) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLACES],
        capture_output=True,
        text=True,
        env=cluster.environment(),
        timeout=LIMIT_S,
        check=False,
    )
    assert done.stdout.splitlines() == ["3 {1}", "1 {0}"], done.stderr
