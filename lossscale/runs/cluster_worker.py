"""What the workers of a Ray cluster do: plan a run, be looked at, train cohorts."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..design.spec import Cohort
from ..support.errors import InputError
from .executor import INTERPRET, train_cohort
from .writers import Origin

if TYPE_CHECKING:
    from ..design.study import Study
    from .planning import Choices
    from .records import Manifest


@dataclass(frozen=True)
class Order:
    """What every task of a run is told.

    Attributes:
        manifest: of the run.
        run: its directory, into which workers write shards; None where they return them.
    """

    manifest: Manifest
    run: Path | None

    @property
    def gpu(self) -> bool:
        """Whether its tasks take a GPU each."""
        spec = self.manifest.run_spec
        return spec is not None and spec.device == "cuda"


@dataclass(frozen=True)
class Probe:
    """What a node says of itself: empty texts where nothing is wrong.

    Attributes:
        run: the directory that it was to write to.
        difference: in what its resume key differs from the run's.
        unwritable: why the shards cannot be written from there.
    """

    run: Path | None
    difference: str
    unwritable: str


@dataclass(frozen=True)
class Trained:
    """A cohort that has been trained: the SHA-256 of its shard, or the shard for the driver to write."""

    digest: str
    data: bytes | None
    origin: Origin


def plan_there(study: Study, choices: Choices) -> Manifest:
    """The manifest of the run as this worker makes it."""
    from .planning import planned_manifest

    _interpret(choices.backend)
    return planned_manifest(study, choices)


def probe_there(order: Order, token: Path) -> Probe:
    """Looks at this node for the run; ``token`` is a file that the driver has made in the run's directory."""
    from ..support.files import make_directory

    _prepare(order)
    unwritable = ""
    if order.run is not None:
        if not token.exists():
            unwritable = "is another directory, or none"
        else:
            try:
                make_directory(order.run)
            except InputError as error:
                unwritable = error.remedy.partition(";")[0]
    return Probe(order.run, _difference(order), unwritable)


def train_there(order: Order, cohorts: Sequence[Cohort]) -> list[Trained]:
    """Trains the cohorts and writes their shards, or returns them.

    Raises:
        InputError: if this node's resume key is not the run's; nothing is trained then.
    """
    from .records import digest_of, place_shard

    _prepare(order)
    difference = _difference(order)
    if difference:
        raise InputError("--address", platform.node(), f"this node {difference}: the bits would mix; take it out")
    spec = order.manifest.run_spec
    assert spec is not None, "only a grid has cohorts"
    trained = []
    for cohort in cohorts:
        data = train_cohort(spec, cohort)
        digest = digest_of(data) if order.run is None else place_shard(order.run, cohort, data)
        trained.append(Trained(digest, data if order.run is None else None, _own_origin(order)))
    return trained


def _difference(order: Order) -> str:
    """How this process differs from what the run's bits come from; empty if it does not."""
    _, own = _own_origin(order)
    for name, value in order.manifest.resume_key.items():
        if own.get(name) != value:
            return f"has {name} {own.get(name) or 'none'}, the run {value or 'none'}"
    return ""


def _own_origin(order: Order) -> Origin:
    from ..engines.engine import is_portable

    spec = order.manifest.run_spec
    if spec is None:
        return _origin(order.manifest.study, "cpu", False, ())
    return _origin(order.manifest.study, spec.device, is_portable(spec), tuple(item.network for item in spec.networks))


@functools.cache
def _origin(study: str, device: str, portable: bool, networks: tuple[str, ...]) -> Origin:
    """Git, packages and sources are read once by every worker."""
    from .planning import origin_of

    return origin_of(study, device, portable=portable, networks=networks)


def _prepare(order: Order) -> None:
    """Before the kernels are imported, which this process does for one run."""
    spec = order.manifest.run_spec
    if spec is not None:
        _interpret(spec.backend)


def _interpret(backend: str) -> None:
    if backend == "interpreter":
        os.environ[INTERPRET] = "1"
