"""Runs on a Ray cluster of this machine: nodes lost without grace, refused nodes, interrupts (`make test-scale`)."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lossscale import studies
from lossscale.runs import records
from lossscale.runs.planning import Choices
from lossscale.runs.run import run_study
from lossscale.support.output import Output

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: make test-scale"),
]

TYPED = ("--network", "mlp-64-32-10", "--optimizer", "sgd", "--scale", "4", "--inits", "24", "--steps", "400")
CHOICES = Choices(networks=("mlp-64-32-10",), optimizers=("sgd",), scales=("4",), inits=24, steps=400, device="cpu")
SHARDS = 24

CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster
small = {"object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
print(cluster.address, flush=True)
for line in sys.stdin:
    if line == "kill\\n":
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    elif line == "other\\n":
        os.environ["ATEN_CPU_CAPABILITY"] = "default"
        nodes.append(cluster.add_node(num_cpus=1, **small))
    print("done", flush=True)
cluster.shutdown()
"""


class Cluster:
    """A head without cores and two nodes of one core each."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.address = self._line()

    def do(self, what: str) -> None:
        """``kill`` the youngest node without grace, or add one with ``other`` vector instructions."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        assert self._line() == "done"

    def _line(self) -> str:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line == "done\n" or line[0].isdigit():
                return line.strip()
        raise AssertionError("the cluster did not start")


@contextmanager
def started() -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # Ray's sockets take no long path
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment() | {"RAY_TMPDIR": folder},
    )
    try:
        yield Cluster(process)
    finally:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.wait(60)
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with started() as one:
        yield one


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "here"
    run_study(studies.get("loss-vs-lr"), Choices(**{**vars(CHOICES), "executor": "here"}), run, Output())
    return run


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }


def words(cluster: Cluster, run: Path, typed: tuple[str, ...] = TYPED) -> list[str]:
    own = [*typed, "--device", "cpu", "--out", str(run), "--executor", "ray", "--address", cluster.address]
    return [sys.executable, "-m", "lossscale", "run", "loss-vs-lr", *own]


def start(cluster: Cluster, run: Path, *more: str, typed: tuple[str, ...] = TYPED) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*words(cluster, run, typed), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def end(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == code, output + errors
    return output, errors


def shards(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / records.PAIRS).glob("*.parquet")}


def wait_for_shards(process: subprocess.Popen[str], run: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(shards(run)) < count:
        assert process.poll() is None and time.monotonic() < deadline, "no progress"
        time.sleep(0.01)


def workers(process: int) -> list[int]:
    """The processes below this one that train."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            name = Path(f"/proc/{child}/cmdline").read_bytes()
            found += [child] if name.startswith(b"ray::train_there") else workers(child)
    return found


def test_a_lost_worker_and_a_lost_node_do_not_show(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started() as cluster:
        process = start(cluster, run)
        wait_for_shards(process, run, 3)
        os.kill(workers(cluster.process.pid)[0], signal.SIGKILL)
        wait_for_shards(process, run, 6)
        cluster.do("kill")
        assert len(shards(run)) < SHARDS, "the run was over before the node was"
        end(process)
    assert shards(run) == shards(whole) and len(shards(run)) == SHARDS
    for name in (records.SUMMARY, records.CHECKSUMS):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert records.read_manifest(run).finished


def test_shards_may_come_to_the_driver(cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    end(start(cluster, tmp_path / "run", "--shards-by", "driver"))
    assert shards(tmp_path / "run") == shards(whole)


def test_an_interrupt_leaves_a_run_to_resume(cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(cluster, run)
    wait_for_shards(process, run, 2)
    process.send_signal(signal.SIGINT)
    _, errors = end(process, 130)
    assert "--resume" in errors and "Traceback" not in errors
    time.sleep(1)
    there = len(shards(run))
    time.sleep(2)
    assert len(shards(run)) == there < SHARDS, "tasks go on without their driver"
    run_study(studies.get("loss-vs-lr"), Choices(**{**vars(CHOICES), "resume": True}), run, Output())
    assert shards(run) == shards(whole)


FAILING = """
import dataclasses, sys
from pathlib import Path
from lossscale import studies
from lossscale.runs.executor import open_executor
from lossscale.runs.planning import Choices
choices = Choices(networks=("mlp-64-32-10",), optimizers=("sgd",), scales=("4",), inits=24, steps=400, device="cpu",
                  executor="ray", address=sys.argv[1])
with open_executor(choices, print) as executor:
    manifest = executor.plan(studies.get("loss-vs-lr"), choices)
    cohorts = list(manifest.run_spec.cohorts())
    cohorts[3] = dataclasses.replace(cohorts[3], key=dataclasses.replace(cohorts[3].key, optimizer="nowhere"))
    for one in executor.train(Path(sys.argv[2]), manifest, cohorts):
        print(one.cohort.name)
"""


def test_a_task_that_raises_names_its_cohort_and_stops_the_others(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", FAILING, cluster.address, str(run)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert (
        "ValueError" in done.stderr
        and "During handling" not in done.stderr
        and "in cohort mlp-64-32-10.nowhere." in done.stderr
    )
    there = len(shards(run))
    time.sleep(2)
    assert len(shards(run)) == there < SHARDS - 1


def test_a_node_with_other_bits_is_refused_unless_the_engine_has_none(tmp_path: Path) -> None:
    portable = ("--network", "mlp-6-6-1", "--engine", "trainer", "--optimizer", "sgd", "--scale", "4")
    portable += ("--inits", "2000", "--steps", "20")
    with started() as cluster:
        cluster.do("other")
        _, errors = end(start(cluster, tmp_path / "run"), 2)
        end(start(cluster, tmp_path / "portable", typed=portable))
    assert errors.startswith("error: --address ") and errors.count("\n") == 1
    assert "this node has cpu_capability " in errors and "the bits would mix" in errors
    assert not (tmp_path / "run").exists()
    manifest = records.read_manifest(tmp_path / "portable")
    capabilities = {node["cpu_capability"] for node in (manifest.provenance, *manifest.nodes)}
    assert len(capabilities) == 2 and "DEFAULT" in capabilities
    choices = Choices(
        networks=("mlp-6-6-1",),
        engine="trainer",
        optimizers=("sgd",),
        scales=("4",),
        inits=2000,
        steps=20,
        device="cpu",
    )
    run_study(studies.get("loss-vs-lr"), choices, tmp_path / "here", Output())
    assert shards(tmp_path / "portable") == shards(tmp_path / "here")


def test_a_directory_that_nodes_do_not_share(cluster: Cluster, tmp_path: Path) -> None:
    """The command sees a file system of its own where the nodes see an empty folder."""
    alone = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs none "$0" && exec "$@"',
        str(tmp_path),
    ]
    # A file system of one's own takes mount namespaces, which containers may forbid; the refusal needs nothing else.
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs namespaces")
    command = [*alone, *words(cluster, tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=240, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: --out {tmp_path / 'run'}: on the node ") and done.stderr.count("\n") == 1
    assert done.stderr.endswith(
        "it is another directory, or none; give a path that all nodes share, or --shards-by driver\n"
    )
    command += ["--shards-by", "driver", "--inits", "2", "--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=240, check=False)
    assert done.returncode == 0, done.stderr


PLACES = """
import os, ray
from lossscale.runs.cluster import Cluster
ray.init(address="local", num_cpus=1, num_gpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
for gpu in (True, False):
    task = Cluster(ray, print)._remote(lambda: (os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")), gpu=gpu)
    found = [ray.get(task.remote()) for _ in range(3)]
    print(len({process for process, _ in found}), {len(devices or "") for _, devices in found})
"""


def test_a_gpu_task_has_one_gpu_and_a_process_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLACES], capture_output=True, text=True, env=environment(), timeout=120, check=False
    )
    assert done.stdout.splitlines() == ["3 {1}", "1 {0}"], done.stderr


def test_the_kubernetes_file_is_two_jobs_with_a_pod_for_each_share() -> None:
    yaml = pytest.importorskip("yaml")  # Ray brings it
    text = (Path(__file__).resolve().parents[2] / "examples" / "kubernetes_job.yaml").read_text()
    shares, finish = yaml.safe_load_all(text)
    assert [job["kind"] for job in (shares, finish)] == ["Job", "Job"] and finish["spec"]["suspend"] is True
    assert shares["spec"]["completionMode"] == "Indexed"
    pods = [job["spec"]["template"]["spec"] for job in (shares, finish)]
    names = [{item["name"]: item["value"] for item in pod["containers"][0]["env"]} for pod in pods]
    assert names[0] == {**names[1], "SHARDS": str(shares["spec"]["completions"])}
    assert pods[0]["volumes"] == pods[1]["volumes"]
    assert pods[0]["containers"][0]["volumeMounts"] == pods[1]["containers"][0]["volumeMounts"]
    assert names[0]["OUT"].startswith(pods[0]["containers"][0]["volumeMounts"][0]["mountPath"])
