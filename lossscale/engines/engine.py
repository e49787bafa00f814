"""What an engine is, which one a run has, and a cohort from its first step to its measured pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np

from kernels import get_algorithm

from ..design.grid import OptimizerSpec
from ..design.measures import STANDARD
from ..design.policies import POLICIES, Policy, get_policy
from ..design.spec import AUTO, Cohort, RunSpec
from ..models.networks import get_network
from ..support.errors import InputError
from .arithmetic import Arithmetic
from .batched import Batched
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

    def refusal(self, policy: Policy) -> str:
        """Why it cannot run the policy; empty if it can."""

    def networks(self) -> tuple[str, ...]:
        """Those that it has."""

    def advance(self, spec: RunSpec, cohort: Cohort, policy: Policy, hyper: Sequence[Any]) -> Iterator[Snapshot]:
        """The cohort at each checkpoint in turn; a snapshot holds until the next is asked for."""


ENGINES: Final[Mapping[str, Engine]] = {engine.name: engine for engine in (Batched(), Trainer())}
"""Every engine, by name; ``auto`` takes the first that runs a policy."""


def engine_of(spec: RunSpec, policy: str) -> Engine:
    """The engine that the spec has for the policy."""
    if spec.engine != AUTO:
        return ENGINES[spec.engine]
    formats = get_policy(policy)
    return next((engine for engine in ENGINES.values() if not engine.refusal(formats)), ENGINES[Batched.name])


def is_portable(spec: RunSpec) -> bool:
    """Whether the run has the same bits on every machine, so that another may go on with it."""
    return all(engine_of(spec, policy).portable for policy in spec.policies)


def choose_engine(spec: RunSpec, policy: str) -> Engine:
    """The engine that runs the spec's cells of that policy.

    Raises:
        InputError: if it cannot run the policy, an arm's own one, or a network of the spec.
    """
    engine = engine_of(spec, policy)
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
    missing = [item.network for item in spec.networks if item.network not in engine.networks()]
    if missing:
        raise _lacking(spec, policy, engine, missing[0])
    return engine


def _lacking(spec: RunSpec, policy: str, engine: Engine, network: str) -> InputError:
    """Why a policy cannot be run on a network, and what can."""
    remedies = [f"--network {item.network}" for item in spec.networks if item.network in engine.networks()]
    having = [other for other in ENGINES.values() if network in other.networks()]
    remedies += [f"--engine {other.name}" for other in having if not other.refusal(get_policy(policy))]
    if spec.engine == AUTO:
        able = (preset for preset, formats in POLICIES.items() if any(not other.refusal(formats) for other in having))
        remedies += [f"--policy {preset}" for preset in able]
    argument, value = ("--policy", policy) if spec.engine == AUTO else ("--engine", spec.engine)
    remedy = f"runs on the {engine.name} engine" if spec.engine == AUTO else "is an engine"
    return InputError(
        argument, value, f"{remedy} without network {network}; give {' or '.join(remedies or ['--engine auto'])}"
    )


def run_cohort(spec: RunSpec, cohort: Cohort) -> Columns:
    """Trains a cohort and measures its pairs at the checkpoints.

    Returns:
        The columns of the pairs file that differ within a cohort; checkpoints outermost, then initialisations, then
        pairs.

    Raises:
        InputError: for a policy or a network that the engine cannot run.
    """
    engine, policy = choose_engine(spec, cohort.key.policy), get_policy(cohort.key.policy)
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
        "params": np.full(rows, get_network(cohort.key.network).parameters, dtype=np.int32),
    }
