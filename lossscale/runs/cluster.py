"""The executor on a Ray cluster: cohorts as tasks, which survive the loss of workers and nodes."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..design.spec import Cohort
from ..support.errors import InputError, WorkerLost
from . import records
from .cluster_worker import Order, Probe, Trained, plan_there, probe_there, train_there
from .executor import BY_DRIVER, Ended

if TYPE_CHECKING:
    from ..design.study import Study
    from .planning import Choices
    from .records import Manifest

_ANSWER_S: Final = 30.0
"""How long the head of a cluster has to answer, the import of Ray by the process that asks it included."""

_PROBE_S: Final = 120.0
"""How long the nodes have to be looked at, torch's import included; one that is busy is looked at by its first task."""

_PATIENCE_S: Final = 15.0
"""After this long without a free place in the cluster a line says so."""

_LOSSES: Final = 5
"""How many workers or nodes a task may lose before the run stops. A node that is going away takes one try from each."""

_STORE_BYTES: Final = 256 * 2**20
"""Object store of a cluster that is started here: it holds shards on their way to the driver, or nothing."""

_GPU_BATCH: Final = 16
"""Most cohorts of a task on a GPU, each of which starts a process of its own: only a new one can take another GPU."""

_TASKS_A_PLACE: Final = 8
"""Fewest tasks for each core or GPU before a task gets several cohorts, so that places fall idle together."""


@contextmanager
def open_cluster(choices: Choices, note: Callable[[str], None]) -> Iterator[Cluster]:
    """Connects to the cluster of ``--address`` or RAY_ADDRESS, or starts one on this machine, until the end.

    Raises:
        InputError: if Ray is missing or too old, or nobody answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry, of clusters that are started here
    ray = _import_ray()
    argument, address = _address(choices)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        cores = choices.workers or len(os.sched_getaffinity(0))
        quiet |= {"num_cpus": cores, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    else:
        _check_answer(argument, address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(argument, address, f"Ray cannot be used there: {_first_line(error)}") from error
    try:
        yield Cluster(ray, note, by_driver=choices.shards_by == BY_DRIVER)
    finally:
        ray.shutdown()


def _address(choices: Choices) -> tuple[str, str]:
    """What says where the cluster is, and where it is."""
    if choices.address is not None:
        if not choices.address.strip():
            remedy = "is empty; give HOST:PORT, or leave it out for this machine"
            raise InputError("--address", repr(choices.address), remedy)
        return "--address", choices.address
    variable = os.environ.get("RAY_ADDRESS")
    return ("RAY_ADDRESS", variable) if variable else ("--address", "local")


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        remedy = "needs Ray, which is not installed; install the extra: pip install -e '.[scale]'"
        raise InputError("--executor", "ray", remedy) from error
    if tuple(map(int, ray.__version__.split(".")[:2])) < (2, 50):
        remedy = f"needs Ray 2.50 or later, here is {ray.__version__}; install the extra: pip install -e '.[scale]'"
        raise InputError("--executor", "ray", remedy)
    return ray


def _check_answer(argument: str, address: str) -> None:
    """Asks the head in a process that can be ended: Ray itself tries for minutes, and then ends the process."""
    if "://" in address:
        remedy = "is a client's address; run this on a node of the cluster (ray job submit) and give HOST:PORT"
        raise InputError(argument, address, remedy)
    host, _, port = address.rpartition(":")
    where = [] if address == "auto" else ["--address", address]
    if where and not (host and port.isdecimal() and int(port) < 2**16):
        remedy = "is no HOST:PORT; give that of the cluster's head, such as 10.0.0.5:6379"
        raise InputError(argument, address, remedy)
    deadline = time.monotonic() + _ANSWER_S
    answered = refused = False
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", *where]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if where:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
        left = max(0.0, deadline - time.monotonic())
        done = subprocess.run(command, capture_output=True, text=True, timeout=left, check=False)
        answered, refused = done.returncode == 0, "uthentication token" in done.stderr
    if refused and not answered:
        remedy = (
            "asks for a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH if it lies elsewhere than in ~/.ray"
        )
        raise InputError(argument, address, remedy)
    if not answered:
        remedy = "no Ray cluster answers there; give HOST:PORT of its head, or nothing to use this machine"
        raise InputError(argument, address, remedy)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@dataclass(frozen=True)
class Cluster:
    """Trains on the nodes of a Ray cluster.

    Attributes:
        ray: the module, connected.
        note: where lines for people go.
        by_driver: whether this process writes the shards, which come as bytes; otherwise the workers do.
    """

    ray: Any
    note: Callable[[str], None]
    by_driver: bool = False

    def plan(self, study: Study, choices: Choices) -> Manifest:
        """As `Executor`, on some node: this one may lack the GPU that the run is for."""
        from .planning import planned_manifest

        if study.grid is None:
            return planned_manifest(study, choices)
        gpu = choices.device == "cuda" or (choices.device == "auto" and self._places("GPU") > 0)
        task = self._remote(plan_there, gpu=gpu)
        manifest: Manifest = self._wait(task.remote(study, choices))
        return manifest

    def check(self, run: Path, manifest: Manifest) -> None:
        """As `Executor`: every node that is there. One that comes later is looked at by its tasks."""
        order = self._order(run, manifest)
        token = run.resolve() / f".probe.{secrets.token_hex(4)}.tmp"
        token.touch()
        try:
            asked = {self._probe(node, order, token): node for node in self._nodes(gpu=order.gpu)}
            answered, _ = self.ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_S) if asked else ([], [])
            for reference in answered:
                self._judge(asked[reference], self._answer(reference))
        finally:
            token.unlink(missing_ok=True)

    def train(self, run: Path, manifest: Manifest, cohorts: Sequence[Cohort]) -> Generator[Ended]:
        """As `Executor`. A few tasks wait for a place, so that memory does not grow with the cohorts."""
        order = self._order(run, manifest)
        task = self._remote(train_there, gpu=order.gpu)
        kind = "GPU" if order.gpu else "CPU"
        shared = self.ray.put(order)
        left = iter(_batches(cohorts, max(1, self._places(kind)), _GPU_BATCH if order.gpu else 1))
        running: dict[Any, tuple[Cohort, ...]] = {}
        # What runs when this is closed ends with the connection, of which it is a job: cancelling each task as well
        # made Ray itself abort now and then.
        while True:
            waiting = 2 * max(1, self._places(kind))
            for batch in itertools.islice(left, max(0, waiting - len(running))):
                running[task.remote(shared, batch)] = batch
            if not running:
                return
            for reference in self.ray.wait(list(running), num_returns=1)[0]:
                trained: list[Trained] = self._get(reference, running[reference])
                for cohort, one in zip(running.pop(reference), trained, strict=True):
                    digest = one.digest if one.data is None else records.place_shard(run, cohort, one.data)
                    yield Ended(cohort, digest, one.origin)

    def _order(self, run: Path, manifest: Manifest) -> Order:
        return Order(manifest=manifest, run=None if self.by_driver else run.resolve())

    def _remote(self, function: Callable[..., Any], *, gpu: bool) -> Any:
        # A process stays on the GPU that it began with, whichever Ray gives its next task: that one gets a new process.
        asked = {"num_cpus": 1, "num_gpus": 1 if gpu else 0, "max_retries": _LOSSES, "max_calls": 1 if gpu else 0}
        return self.ray.remote(**asked)(function)

    def _places(self, kind: str) -> int:
        return int(self.ray.cluster_resources().get(kind, 0))

    def _nodes(self, *, gpu: bool) -> list[dict[str, Any]]:
        """The nodes that can take a task."""
        kinds = ("CPU", "GPU") if gpu else ("CPU",)
        return [
            node
            for node in self.ray.nodes()
            if node["Alive"] and all(node["Resources"].get(kind, 0) >= 1 for kind in kinds)
        ]

    def _probe(self, node: dict[str, Any], order: Order, token: Path) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        return self._remote(probe_there, gpu=order.gpu).options(scheduling_strategy=there).remote(order, token)

    def _answer(self, reference: Any) -> Probe | None:
        """What a node said; nothing if it has gone away since."""
        try:
            answer: Probe = self._get(reference)
        except (WorkerLost, self.ray.exceptions.RayError):
            return None
        return answer

    def _judge(self, node: dict[str, Any], answer: Probe | None) -> None:
        if answer is None:
            return
        where = node["NodeManagerAddress"]
        if answer.difference:
            raise InputError("--address", where, f"this node {answer.difference}: the bits would mix; take it out")
        if answer.unwritable:
            remedy = (
                f"on the node {where} it {answer.unwritable}; give a path that all nodes share, or --shards-by driver"
            )
            raise InputError("--out", answer.run, remedy)

    def _wait(self, reference: Any) -> Any:
        if not self.ray.wait([reference], timeout=_PATIENCE_S)[0]:
            self.note("waiting for a free place in the cluster; Ctrl-C stops")
        return self._get(reference)

    def _get(self, reference: Any, batch: Sequence[Cohort] = ()) -> Any:
        """A task's result, or its own exception, or WorkerLost."""
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as failed:
            # Its text is the traceback there; its cause is the exception, or one of Ray's for what cannot travel.
            failed.cause.add_note(f"on a worker of the cluster: {failed}")
            if isinstance(failed.cause, self.ray.exceptions.RayError):
                failed.cause.add_note(_among(batch))
            raise failed.cause from None
        except self.ray.exceptions.RayError as lost:
            words = f"{_among(batch)}, after up to {_LOSSES} more tries"
            raise WorkerLost(f"a worker or node of the cluster was lost {words}: {_first_line(lost)}") from lost


def _among(batch: Sequence[Cohort]) -> str:
    names = ", ".join(cohort.name for cohort in batch)
    return f"in cohort {names}" if names else "while the run was planned"


def _batches(cohorts: Sequence[Cohort], places: int, most: int) -> Iterator[tuple[Cohort, ...]]:
    size = max(1, min(most, len(cohorts) // (_TASKS_A_PLACE * places)))
    left = iter(cohorts)
    while batch := tuple(itertools.islice(left, size)):
        yield batch
