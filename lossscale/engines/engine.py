"""What an engine is, which one a run has, and a cohort from its first step to its measured pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np

from kernels import get_algorithm

from ..design.grid import OptimizerSpec
from ..design.measures import STANDARD
from ..design.policies import POLICIES, Policy, get_policy
from ..design.spec import Cohort, RunSpec
from ..models.networks import get_network
from ..support.errors import InputError
from .batched import Batched
from .observer import Columns, Observer, Snapshot, join


class Engine(Protocol):
    """Advances a cohort to its next checkpoint, under the policy it is given."""

    name: str

    def refusal(self, policy: Policy) -> str:
        """Why it cannot run the policy; empty if it can."""

    def advance(self, spec: RunSpec, cohort: Cohort, policy: Policy, hyper: Sequence[Any]) -> Iterator[Snapshot]:
        """The cohort at each checkpoint in turn; a snapshot holds until the next is asked for."""


ENGINES: Final[Mapping[str, Engine]] = {engine.name: engine for engine in (Batched(),)}
"""Every engine, by name."""


def choose_engine(spec: RunSpec) -> Engine:
    """The engine that runs the spec.

    Raises:
        InputError: if it cannot run a policy of the spec's cells or arms.
    """
    engine = ENGINES[Batched.name]
    own = [member.arm.policy for member in spec.family if member.arm.policy]
    for name in dict.fromkeys((*spec.policies, *own)):
        reason = engine.refusal(get_policy(name))
        if reason:
            able = [preset for preset, formats in POLICIES.items() if not engine.refusal(formats)]
            raise InputError("--policy", name, f"{reason}; give {' or '.join(able)}")
    return engine


def run_cohort(spec: RunSpec, cohort: Cohort) -> Columns:
    """Trains a cohort and measures its pairs at the checkpoints.

    Returns:
        The columns of the pairs file that differ within a cohort; checkpoints outermost, then initialisations, then
        pairs.

    Raises:
        InputError: for a policy that the engine cannot run.
    """
    engine, policy = choose_engine(spec), get_policy(cohort.key.policy)
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
