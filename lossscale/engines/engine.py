"""What an engine is, which one a run has, and a cohort from its first step to its measured pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np

from kernels import get_algorithm

from ..design.grid import NetworkInits, OptimizerSpec
from ..design.measures import STANDARD
from ..design.policies import POLICIES, Policy, get_policy
from ..design.spec import AUTO, Cohort, RunSpec
from ..models.modules import get_module
from ..support.errors import InputError
from .arithmetic import Arithmetic
from .batched import Batched
from .module import Module
from .observer import Columns, Observer, Snapshot, join
from .trainer import Trainer


class Engine(Protocol):
    """Advances a cohort to its next checkpoint, under the policy it is given."""

    @property
    def name(self) -> str:
        """As it is typed."""

    @property
    def portable(self) -> bool:
        """Whether its bits are the same on every machine, device and backend."""

    @property
    def arithmetic(self) -> Arithmetic:
        """How its snapshots are measured."""

    @property
    def scalers(self) -> bool:
        """Whether it has GradScalers."""

    def refusal(self, policy: Policy) -> str:
        """Why it cannot run the policy; empty if it can."""

    def networks(self) -> tuple[str, ...]:
        """Those that it has."""

    def check(self, spec: RunSpec, policy: Policy, network: NetworkInits) -> None:
        """Refuse, before a run begins, what cannot be run of a network that it has in a policy that it runs.

        Raises:
            InputError: with the reason.
        """

    def advance(self, spec: RunSpec, cohort: Cohort, policy: Policy, hyper: Sequence[Any]) -> Iterator[Snapshot]:
        """The cohort at each checkpoint in turn; a snapshot holds until the next is asked for."""


ENGINES: Final[Mapping[str, Engine]] = {engine.name: engine for engine in (Trainer(), Batched(), Module())}
"""Every engine, by name; ``auto`` takes the first that has a network and runs a policy."""


def engine_of(spec: RunSpec, policy: str, network: str) -> Engine:
    """The engine that the spec has for the policy and the network."""
    chosen = spec.engine if spec.engine != AUTO else spec.engines_by_cell.get((policy, network))
    if chosen is not None:
        return ENGINES[chosen]
    formats = get_policy(policy)
    scaled = bool(spec.scaler) and formats.takes_scaler
    able = (engine for engine in ENGINES.values() if network in engine.networks() and not engine.refusal(formats))
    return next((engine for engine in able if engine.scalers or not scaled), ENGINES[Module.name])


def engines_of(spec: RunSpec) -> list[Engine]:
    """All engines that the spec has, each once."""
    chosen = (engine_of(spec, policy, item.network) for policy in spec.policies for item in spec.networks)
    return [*{engine.name: engine for engine in chosen}.values()]


def is_portable(spec: RunSpec) -> bool:
    """Whether the run has the same bits on every machine, so that another may go on with it."""
    return all(engine.portable for engine in engines_of(spec))


def choose_engine(spec: RunSpec, policy: str, network: str) -> Engine:
    """The engine that runs the spec's cells of that policy and network.

    Raises:
        InputError: if it cannot run the policy, an arm's own one, or the network.
    """
    engine = engine_of(spec, policy, network)
    formats = get_policy(policy)
    reason = engine.refusal(formats)
    if reason:
        able = [preset for preset, other in POLICIES.items() if not engine.refusal(other)]
        able += [f"--engine {other.name}" for other in ENGINES.values() if not other.refusal(formats)]
        raise InputError("--policy", policy, f"{reason}; give {' or '.join(able)}")
    for arm in (member.arm for member in spec.family if member.arm.policy):
        own = get_policy(arm.policy)
        if own != formats:
            remedy = (
                f"is arm {arm.name}'s own ({own.text}) beside {policy}, and no engine runs two at once; leave it out"
            )
            raise InputError("--policy", arm.policy, remedy)
    if spec.scaler and formats.takes_scaler and not engine.scalers:
        able = [f"--engine {other.name}" for other in ENGINES.values() if other.scalers]
        remedy = f"has no GradScaler, and the study wants a {spec.scaler} one in {policy}; give {' or '.join(able)}"
        raise InputError("--engine", engine.name, remedy)
    if network not in engine.networks():
        remedies = [f"--network {item.network}" for item in spec.networks if item.network in engine.networks()]
        having = [other for other in ENGINES.values() if network in other.networks() and not other.refusal(formats)]
        remedies += [f"--engine {other.name}" for other in having]
        remedy = f"is an engine without network {network}; give {' or '.join(remedies or ['--engine auto'])}"
        raise InputError("--engine", spec.engine, remedy)
    return engine


def run_cohort(spec: RunSpec, cohort: Cohort) -> Columns:
    """Trains a cohort and measures its pairs at the checkpoints.

    Returns:
        The columns of the pairs file that differ within a cohort; checkpoints outermost, then initialisations, then
        pairs.

    Raises:
        InputError: for a policy or a network that the engine cannot run.
    """
    spec = spec.of_network(cohort.key.network)
    engine, policy = choose_engine(spec, cohort.key.policy, cohort.key.network), get_policy(cohort.key.policy)
    algorithm = get_algorithm(cohort.key.optimizer)
    base = base_hyperparameters(cohort.optimizer, spec.lr)
    hyper = [member.hyperparameters(algorithm, base) for member in spec.family]
    observer = Observer(
        algorithm=algorithm,
        hyperparameters=hyper,
        family=spec.family,
        pairings=spec.pairings,
        kept=cohort.kept,
        policy=policy,
        measures=(*STANDARD, *spec.measures),
        arithmetic=engine.arithmetic,
    )
    observations = [
        {**_coordinates(spec, cohort, now.step), **observer.observe(now)}
        for now in engine.advance(spec, cohort, policy, hyper)
    ]
    return join(observations)


def base_hyperparameters(optimizer: OptimizerSpec, lr: float) -> Any:
    """The hyperparameter record of the base arm; the options may name another learning rate.

    Raises:
        ValueError: for a value that the algorithm refuses.
        TypeError: for a hyperparameter that it does not have.
    """
    options: dict[str, Any] = {"lr": lr, **dict(optimizer.options)}
    return get_algorithm(optimizer.algorithm).hyperparameters(**options)


def _coordinates(spec: RunSpec, cohort: Cohort, step: int) -> Columns:
    family, pairings = spec.family, spec.pairings
    rows = cohort.kept * len(pairings)
    return {
        "init": np.repeat(np.arange(cohort.first, cohort.first + cohort.kept, dtype=np.int32), len(pairings)),
        "arm": np.array([family[pairing.arm].name for pairing in pairings] * cohort.kept),
        "against": np.array([family[pairing.against].name for pairing in pairings] * cohort.kept),
        "scale": np.array([family[pairing.arm].scale for pairing in pairings] * cohort.kept),
        "step": np.full(rows, step, dtype=np.int32),
        "params": np.full(rows, get_module(cohort.key.network).parameters, dtype=np.int32),
    }
