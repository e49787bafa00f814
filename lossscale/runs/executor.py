"""Executors: what trains the cohorts of a run, each on one thread or one GPU and each with a shard of its own."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from ..design.spec import Cohort, RunSpec
from ..support.errors import InputError, check_choice
from .workers import in_processes
from .writers import Origin

if TYPE_CHECKING:
    from ..design.study import Study
    from .planning import Choices
    from .records import Manifest

AUTO: Final = "auto"
HERE: Final = "here"
PROCESSES: Final = "processes"
RAY: Final = "ray"
EXECUTORS: Final = (AUTO, HERE, PROCESSES, RAY)
"""As they are typed; ``auto`` is worker processes, but this process for a small run and on a GPU."""

BY_WORKERS: Final = "workers"
BY_DRIVER: Final = "driver"
SHARDS_BY: Final = (BY_WORKERS, BY_DRIVER)
"""Who writes the shards, where that can be chosen."""

INTERPRET: Final = "TRITON_INTERPRET"

_MODEL_WORK: Final = 40
"""What a model's step costs beyond its parameters, in parameters (measured: both networks on one AVX-512 core)."""

_SMALL_RUN: Final = 4_000_000
"""Work times steps below which starting workers, each of which imports torch, takes longer than the run: about 3 s."""


@dataclass(frozen=True)
class Ended:
    """A cohort whose shard is written.

    Attributes:
        cohort: which.
        digest: the shard's SHA-256.
        origin: of the process that trained it, where that may be on another machine.
    """

    cohort: Cohort
    digest: str
    origin: Origin | None = None


class Executor(Protocol):
    """Trains cohorts. Whatever it is, how many work for it and which of them are lost: the shards are the same."""

    def plan(self, study: Study, choices: Choices) -> Manifest:
        """The manifest of the run as it is where cohorts are trained, which decides device, machine and sources.

        Raises:
            InputError: as `planning.planned_manifest`.
        """

    def check(self, run: Path, manifest: Manifest) -> None:
        """Looks at those that will train, before anything is written.

        Raises:
            InputError: for one whose resume key is not the manifest's, or that cannot write to the directory.
        """

    def train(self, run: Path, manifest: Manifest, cohorts: Sequence[Cohort]) -> Generator[Ended]:
        """Trains the cohorts and has their shards written. All work for them stops when the executor is closed.

        Yields:
            Each cohort when its shard is written, in the order they end.
        """


@contextmanager
def open_executor(choices: Choices, note: Callable[[str], None]) -> Iterator[Executor]:
    """The executor that was chosen, ready to work.

    Args:
        choices: as the user gave them.
        note: where lines for people go.

    Raises:
        InputError: for one that is not to be had, or an option of another's.
    """
    check_choice("--executor", choices.executor, EXECUTORS)
    check_choice("--shards-by", choices.shards_by, SHARDS_BY)
    if choices.executor == RAY:
        from .cluster import open_cluster

        with open_cluster(choices, note) as cluster:
            yield cluster
        return
    if choices.address is not None:
        raise InputError("--address", choices.address, "is for a Ray cluster; add --executor ray or leave it out")
    if choices.shards_by != BY_WORKERS:
        raise InputError("--shards-by", choices.shards_by, "is for --executor ray; add that or leave it out")
    yield Local(choices.executor, choices.workers)


@dataclass(frozen=True)
class Local:
    """Trains in this process or on worker processes of this machine.

    Attributes:
        kind: ``here``, ``processes`` or ``auto``.
        workers: processes; by default one per core.
    """

    kind: str = AUTO
    workers: int | None = None

    def plan(self, study: Study, choices: Choices) -> Manifest:
        """As `Executor`."""
        from .planning import planned_manifest

        manifest = planned_manifest(study, choices)
        spec = manifest.run_spec
        if self.kind == HERE and spec is not None and _elsewhere(spec):
            remedy = f"needs {INTERPRET}=1 where the interpreter is the backend; set it, or give processes"
            raise InputError("--executor", HERE, remedy)
        return manifest

    def check(self, run: Path, manifest: Manifest) -> None:
        """As `Executor`: this machine has made the manifest, and `run_study` tries the directory."""

    def train(self, run: Path, manifest: Manifest, cohorts: Sequence[Cohort]) -> Generator[Ended]:
        """As `Executor`."""
        spec = manifest.run_spec
        assert spec is not None, "only a grid has cohorts"
        workers = min(self._workers(spec, cohorts), len(cohorts))
        elsewhere = _elsewhere(spec)
        if self.kind == PROCESSES or workers > 1 or elsewhere:
            yield from processes(run, spec, cohorts, max(workers, 1), interpret=elsewhere)
        else:
            yield from here(run, spec, cohorts)

    def _workers(self, spec: RunSpec, cohorts: Sequence[Cohort]) -> int:
        if self.kind == HERE:
            return 1
        if self.workers is not None:
            return self.workers
        small = self.kind == AUTO and sum(map(work, cohorts)) * spec.steps < _SMALL_RUN
        return 1 if small or spec.device == "cuda" else len(os.sched_getaffinity(0))


def _elsewhere(spec: RunSpec) -> bool:
    """Whether this process cannot train the cohorts, since its kernels are compiled."""
    return spec.backend == "interpreter" and os.environ.get(INTERPRET) != "1"


def here(run: Path, spec: RunSpec, cohorts: Sequence[Cohort]) -> Iterator[Ended]:
    """In this process: one cohort after the other. Results as `Executor.train`."""
    for cohort in cohorts:
        yield Ended(cohort, write_cohort(run, spec, cohort))


def processes(
    run: Path, spec: RunSpec, cohorts: Sequence[Cohort], workers: int, *, interpret: bool = False
) -> Generator[Ended]:
    """On worker processes, which interpret the kernels if told to. Results and errors as `workers.in_processes`."""
    # Triton reads the variable when a worker imports the kernels; this process has compiled ones.
    environment = {INTERPRET: "1"} if interpret else {}
    train = functools.partial(write_cohort, run, spec)
    on_cpu = spec.device == "cpu"
    if on_cpu and not environment:
        _import_for_cohorts()
    trained = in_processes(train, cohorts, workers, environment, name=lambda cohort: cohort.name, copies=on_cpu)
    with closing(trained):
        for cohort, digest in trained:
            yield Ended(cohort, digest)


def _import_for_cohorts() -> None:
    """What training a cohort and writing its shard import, and what the run's summary imports afterwards."""
    import pandas as pd
    import pyarrow.parquet as pq

    from ..engines import engine

    del pd, pq, engine


def work(cohort: Cohort) -> int:
    """What a step of the cohort costs, in parameters of one model per arm."""
    from ..models.modules import get_module

    return cohort.size * (get_module(cohort.key.network).parameters + _MODEL_WORK)


def write_cohort(run: Path, spec: RunSpec, cohort: Cohort) -> str:
    """Trains one cohort, writes its shard and returns the shard's SHA-256."""
    from .records import place_shard

    return place_shard(run, cohort, train_cohort(spec, cohort))


def train_cohort(spec: RunSpec, cohort: Cohort) -> bytes:
    """Trains one cohort and returns its shard; an exception says which cohort it was."""
    from ..engines.engine import run_cohort
    from .records import shard_bytes

    try:
        return shard_bytes(spec.study, cohort, run_cohort(spec, cohort))
    except Exception as error:
        error.add_note(f"in cohort {cohort.name}; the shards before it are whole, and --resume goes on from there")
        raise
