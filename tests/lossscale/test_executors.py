"""Executors without a cluster: the same bytes, what each refuses, and what the one on Ray asks of Ray."""

import dataclasses
import io
import itertools
import os
import subprocess
import sys
import types
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lossscale import studies
from lossscale.__main__ import main
from lossscale.design.spec import Cohort
from lossscale.runs import records
from lossscale.runs.cluster import Cluster
from lossscale.runs.cluster_worker import Order, Probe, probe_there, train_there
from lossscale.runs.executor import Ended, Local, open_executor
from lossscale.runs.planning import Choices, planned_manifest
from lossscale.runs.records import Manifest
from lossscale.runs.run import run_share, run_study
from lossscale.runs.share import Share
from lossscale.support.errors import InputError, WorkerLost
from lossscale.support.output import Output

STUDY = studies.get("loss-vs-lr")
CHOICES = Choices(optimizers=("sgd",), scales=("4",), inits=4, steps=2, device="cpu")


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return planned_manifest(STUDY, CHOICES)


@pytest.fixture(scope="module")
def cohorts(manifest: Manifest) -> list[Cohort]:
    assert manifest.run_spec is not None
    return list(manifest.run_spec.cohorts())


def shards(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / records.PAIRS).glob("*.parquet")}


def nowhere(cohort: Cohort) -> Cohort:
    """A cohort that raises where it is trained."""
    return dataclasses.replace(cohort, key=dataclasses.replace(cohort.key, optimizer="nowhere"))


class FakeRay(types.SimpleNamespace):
    """What `Cluster` uses of Ray, in this process; counts the tasks that wait."""

    def __init__(self, *, cores: int = 2, gpus: int = 0) -> None:
        super().__init__(
            exceptions=types.SimpleNamespace(RayError=RuntimeError, RayTaskError=ZeroDivisionError),
            cluster_resources=lambda: {"CPU": float(cores), "GPU": float(gpus)},
            put=lambda value: value,
            asked={},
            running=set(),
            most=0,
        )

    def remote(self, **asked: Any) -> Any:
        self.options = asked
        return self.task

    def task(self, function: Callable[..., Any]) -> Any:
        names = itertools.count()

        def submit(*arguments: Any) -> int:
            reference = next(names)
            self.asked[reference] = (function, arguments)
            self.running.add(reference)
            self.most = max(self.most, len(self.running))
            return reference

        return types.SimpleNamespace(remote=submit)

    def wait(self, references: Sequence[int], **options: Any) -> tuple[list[int], list[int]]:
        return list(references)[-1:], list(references)[:-1]  # the last one ends first

    def get(self, reference: int) -> Any:
        function, arguments = self.asked.pop(reference)
        self.running.discard(reference)
        return function(*arguments)


def test_here_and_processes_write_the_same_bytes(tmp_path: Path, manifest: Manifest, cohorts: list[Cohort]) -> None:
    for kind in ("here", "processes"):
        ended = list(Local(kind, 2).train(tmp_path / kind, manifest, cohorts))
        assert {one.cohort.name for one in ended} == {cohort.name for cohort in cohorts}
        assert all(
            one.digest == records.digest_of(shards(tmp_path / kind)[f"{one.cohort.name}.parquet"]) for one in ended
        )
    assert shards(tmp_path / "here") == shards(tmp_path / "processes")


@pytest.mark.parametrize("by_driver", [False, True])
def test_a_cluster_writes_the_same_bytes(
    tmp_path: Path, manifest: Manifest, cohorts: list[Cohort], by_driver: bool
) -> None:
    list(Local("here").train(tmp_path / "here", manifest, cohorts))
    cluster = Cluster(FakeRay(), lambda text: None, by_driver=by_driver)
    ended = list(cluster.train(tmp_path / "ray", manifest, cohorts))
    assert shards(tmp_path / "ray") == shards(tmp_path / "here")
    assert {one.origin[1]["torch_build"] for one in ended if one.origin} == {manifest.resume_key["torch_build"]}


@pytest.mark.parametrize(("gpus", "tasks"), [(0, 1000), (4, 63), (40, 334)])
def test_few_of_many_cohorts_wait_in_the_cluster(
    tmp_path: Path, manifest: Manifest, cohorts: list[Cohort], monkeypatch: pytest.MonkeyPatch, gpus: int, tasks: int
) -> None:
    trained: list[int] = []
    monkeypatch.setattr(
        "lossscale.runs.cluster.train_there", lambda order, batch: trained.append(len(batch)) or [ENDED] * len(batch)
    )
    many = [dataclasses.replace(cohorts[0], first=index) for index in range(1000)]
    spec = dataclasses.replace(manifest.run_spec, device="cuda" if gpus else "cpu")
    ray = FakeRay(cores=4, gpus=gpus)
    ended = list(Cluster(ray, print).train(tmp_path, dataclasses.replace(manifest, spec=spec.as_dict()), many))
    assert sorted(one.cohort.first for one in ended) == list(range(1000))
    assert ray.most == 2 * (gpus or 4) and len(trained) == tasks and sum(trained) == 1000
    assert ray.options["num_gpus"] == ray.options["max_calls"] == (1 if gpus else 0) and ray.options["num_cpus"] == 1


ENDED = types.SimpleNamespace(digest="", data=None, origin=None)


class Refusing(Local):
    def check(self, run: Path, manifest: Manifest) -> None:
        raise InputError("--out", run, "will not do")


@pytest.mark.parametrize("share", [None, Share(1, 2)])
def test_what_is_refused_leaves_the_disk_as_it_was(tmp_path: Path, share: Share | None) -> None:
    (tmp_path / "empty").mkdir()
    runner = run_study if share is None else run_share
    for run in (tmp_path / "new" / "deep" / "run", tmp_path / "empty"):
        with pytest.raises(InputError, match="will not do"):
            runner(STUDY, dataclasses.replace(CHOICES, share=share), run, Output(), executor=Refusing())
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["empty"]


def test_an_exception_names_its_cohort(tmp_path: Path, manifest: Manifest, cohorts: list[Cohort]) -> None:
    for executor in (Local("here"), Cluster(FakeRay(), print)):
        with pytest.raises(ValueError) as caught:
            list(executor.train(tmp_path, manifest, [cohorts[0], nowhere(cohorts[1])]))
        assert f"in cohort {nowhere(cohorts[1]).name}; " in caught.value.__notes__[0]


def test_a_task_that_keeps_losing_its_workers_names_its_cohort(
    tmp_path: Path, manifest: Manifest, cohorts: list[Cohort], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(order: Order, batch: Sequence[Cohort]) -> None:
        raise RuntimeError("the worker died")  # Ray's own error here

    monkeypatch.setattr("lossscale.runs.cluster.train_there", lose)
    ray = FakeRay()
    words = (
        f"a worker or node of the cluster was lost in cohort {cohorts[3].name}, after up to 5 more tries: the worker"
    )
    with pytest.raises(WorkerLost, match=f"^{words} died$"):
        list(Cluster(ray, print).train(tmp_path, manifest, cohorts))
    assert ray.options["max_retries"] == 5


class Losing(Local):
    def train(self, run: Path, manifest: Manifest, cohorts: Sequence[Cohort]) -> Generator[Ended]:
        yield from super().train(run, manifest, cohorts[:1])
        raise WorkerLost("a worker died")


def test_a_lost_worker_is_one_line_and_leaves_a_run_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "loss-vs-lr", "--optimizer", "sgd", "--scale", "4", "--inits", "4", "--steps", "2"]
    words += ["--device", "cpu", "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patched:
        patched.setattr("lossscale.runs.executor.Local", Losing)
        assert main([*words, "--shard", "1/1"]) == 1
        assert capsys.readouterr().err.endswith(
            f"; continue with the same command (run directory {tmp_path / 'run'})\n"
        )
        assert main([*words, "--resume"]) == 1
        errors = capsys.readouterr().err.splitlines()
        assert errors[-1] == f"error: a worker died; continue with --resume (run directory {tmp_path / 'run'})"
    assert main([*words, "--resume"]) == 0


def test_a_node_is_looked_at(tmp_path: Path, manifest: Manifest, cohorts: list[Cohort]) -> None:
    token = tmp_path / "token"
    order = Order(manifest, tmp_path / "run")
    assert probe_there(order, token).unwritable == "is another directory, or none"
    token.touch()
    assert probe_there(order, token) == Probe(tmp_path / "run", "", "")
    (tmp_path / "file").touch()
    assert probe_there(Order(manifest, tmp_path / "file"), token).unwritable == "cannot be written (File exists)"
    assert probe_there(Order(manifest, None), tmp_path / "nothing").unwritable == ""
    other = dataclasses.replace(manifest, resume_key={**manifest.resume_key, "cpu_capability": "ANOTHER"})
    own = manifest.resume_key["cpu_capability"]
    assert probe_there(Order(other, None), token).difference == f"has cpu_capability {own}, the run ANOTHER"
    with pytest.raises(
        InputError, match=f"^--address .*: this node has cpu_capability {own}, the run ANOTHER: the bits"
    ):
        train_there(Order(other, tmp_path / "other"), cohorts[:1])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (
            Probe(Path("/runs/x"), "has torch_build 1, the run 2", ""),
            "--address 10.0.0.7: this node has torch_build 1, the run 2",
        ),
        (
            Probe(Path("/runs/x"), "", "cannot be written"),
            "--out /runs/x: on the node 10.0.0.7 it cannot be written; give a path",
        ),
    ],
)
def test_a_node_that_will_not_do_is_refused(probe: Probe, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Cluster(FakeRay(), print)._judge({"NodeManagerAddress": "10.0.0.7"}, probe)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--executor", "cloud"), "--executor cloud: unknown; choose from auto, here, processes, ray"),
        (("--shards-by", "me"), "--shards-by me: unknown"),
        (("--address", "10.0.0.5:6379"), "--address 10.0.0.5:6379: is for a Ray cluster; add --executor ray"),
        (("--shards-by", "driver"), "--shards-by driver: is for --executor ray"),
        (
            ("--executor", "ray"),
            "--executor ray: needs Ray, which is not installed; install the extra: pip install -e '.[scale]'",
        ),
        (("--executor", "here", "--backend", "interpreter"), "--executor here: needs TRITON_INTERPRET=1"),
    ],
)
def test_bad_choices(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    out = tmp_path / "out"
    assert main(["run", "loss-vs-lr", "--device", "cpu", *arguments, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not out.exists()


def test_a_script_has_no_executor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "origin", "--executor", "here"]) == 2
    assert "--executor here: the study origin is a script" in capsys.readouterr().err


def test_an_old_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(__version__="2.49.1"))
    with (
        pytest.raises(InputError, match=r"needs Ray 2\.50 or later, here is 2\.49\.1"),
        open_executor(Choices(executor="ray"), print),
    ):
        pass


@pytest.mark.parametrize("user", [None, "1"])
def test_telemetry_is_off_unless_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, user: str | None) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", user or "")
    if user is None:
        monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    started: list[dict[str, Any]] = []
    fake = types.SimpleNamespace(
        __version__="2.50.0", init=lambda **options: started.append(options), shutdown=lambda: None
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with open_executor(Choices(executor="ray", workers=3), print):
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == (user or "0")
    (options,) = started
    assert options["address"] == "local" and options["num_cpus"] == 3 and not options["include_dashboard"]


@pytest.mark.parametrize("argument", ["--address", "RAY_ADDRESS"])
@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "10.0.0.5:port", "ray://head:10001", ":6379"])
def test_addresses_that_nobody_answers(monkeypatch: pytest.MonkeyPatch, argument: str, address: str) -> None:
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(__version__="2.50.0"))
    monkeypatch.setenv("RAY_ADDRESS", address if argument == "RAY_ADDRESS" else "10.0.0.5:6379")
    with (
        pytest.raises(InputError, match=f"^{argument} {address}: .*HOST:PORT"),
        open_executor(Choices(executor="ray", address=address if argument == "--address" else None), print),
    ):
        pass


def test_what_answers_and_is_no_ray_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(__version__="2.50.0"))
    given: list[float] = []

    def connect(where: tuple[str, int], timeout: float) -> io.BytesIO:
        given.append(timeout)
        return io.BytesIO()

    def run(command: Sequence[str], *, timeout: float, **options: Any) -> None:
        given.append(timeout)
        raise subprocess.TimeoutExpired(command, timeout)

    clock = itertools.count(0.0, 12.0)
    monkeypatch.setattr("lossscale.runs.cluster.time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.setattr("subprocess.run", run)
    with (
        pytest.raises(InputError, match=r"^--address 10\.0\.0\.5:80: no Ray cluster answers there"),
        open_executor(Choices(executor="ray", address="10.0.0.5:80"), print),
    ):
        pass
    assert given == [30.0, 18.0]
