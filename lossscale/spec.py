"""What a run consists of: its spec, and the cohorts, arms and pairs that follow from it. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .studies import SCALED_ARMS, Grid, NetworkPlan, OptimizerSpec


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing done to every family: an arm's name and its scale (1 where it has none)."""

    name: str
    scale: float = 1.0

    @property
    def loss_factor(self) -> float:
        """What the loss of this arm is multiplied by."""
        return self.scale if self.name in ("loss", "mapped") else 1.0


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Two arms of a family by their index among its arms."""

    arm: int
    against: int


@dataclass(frozen=True, kw_only=True)
class CellKey:
    """What all pairs of one series of cohorts share."""

    network: str
    optimizer: str
    options: str
    recipe: str
    policy: str


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Families that advance together and share a shard.

    Attributes:
        key: what its pairs share.
        optimizer: the same optimizer with its options as values.
        first: its first initialisation; it has ``size`` of them in a row.
        kept: how many of them the run asked for; the others fill the cohort up and are dropped.
        size: initialisations that advance together.
    """

    key: CellKey
    optimizer: OptimizerSpec
    first: int
    kept: int
    size: int

    @property
    def name(self) -> str:
        """A file name without its ending."""
        key = self.key
        optimizer = f"{key.optimizer}.{key.options}" if key.options else key.optimizer
        return f"{key.network}.{optimizer}.{key.recipe}.{key.policy}.{self.first:06d}"

    @property
    def inits(self) -> range:
        """Its initialisations, those that are dropped included."""
        return range(self.first, self.first + self.size)


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything that decides a run's pairs, bit for bit, on one machine."""

    study: str
    networks: tuple[NetworkPlan, ...]
    optimizers: tuple[OptimizerSpec, ...]
    scales: tuple[float, ...]
    arms: tuple[str, ...]
    against: tuple[tuple[str, str], ...]
    policies: tuple[str, ...]
    checkpoints: tuple[int, ...]
    lr: float
    recipe: str
    seed: int
    device: str
    backend: str

    @classmethod
    def of(cls, study: str, grid: Grid, *, seed: int, device: str, backend: str) -> RunSpec:
        """The spec of a study's whole grid."""
        shared = {field.name: getattr(grid, field.name) for field in dataclasses.fields(grid)}
        return cls(study=study, seed=seed, device=device, backend=backend, **shared)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> RunSpec:
        """The inverse of `as_dict`."""
        values = dict(document)
        values["networks"] = tuple(NetworkPlan(**plan) for plan in values["networks"])
        values["optimizers"] = tuple(
            OptimizerSpec(**{**item, "options": tuple((name, value) for name, value in item["options"])})
            for item in values["optimizers"]
        )
        values["against"] = tuple((arm, other) for arm, other in values["against"])
        for name in ("scales", "arms", "policies", "checkpoints"):
            values[name] = tuple(values[name])
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """The spec as JSON will hold it."""
        document = dataclasses.asdict(self)
        for plan in document["networks"]:
            plan["quick_inits"] = 0  # says what another run would do
        for optimizer in document["optimizers"]:
            if not optimizer["recipe"]:
                del optimizer["recipe"]
        plain: dict[str, Any] = _as_lists(document)
        return plain

    @property
    def steps(self) -> int:
        """Steps of every model."""
        return max(self.checkpoints)

    @property
    def family(self) -> tuple[Arm, ...]:
        """The arms of every family; ``base`` is the first."""
        arms = [Arm(name="base")]
        for name in self.arms:
            if name in SCALED_ARMS:
                arms += [Arm(name=name, scale=scale) for scale in self.scales]
            elif name != "base":
                arms.append(Arm(name=name))
        return tuple(arms)

    @property
    def pairings(self) -> tuple[Pairing, ...]:
        """The pairs of every family: each arm against base, then the arms that are compared at equal scale."""
        family = self.family
        pairs = [Pairing(arm=index, against=0) for index in range(1, len(family))]
        place = {(arm.name, arm.scale): index for index, arm in enumerate(family)}
        for arm, against in self.against:
            pairs += [
                Pairing(arm=place[arm, scale], against=place[against, scale])
                for scale in self.scales
                if (arm, scale) in place and (against, scale) in place
            ]
        return tuple(pairs)

    def cohorts(self) -> Iterator[Cohort]:
        """Every cohort, cell by cell."""
        for policy in self.policies:
            for plan in self.networks:
                for optimizer in self.optimizers:
                    key = CellKey(
                        network=plan.network,
                        optimizer=optimizer.algorithm,
                        options=optimizer.text,
                        recipe=optimizer.recipe or self.recipe,
                        policy=policy,
                    )
                    for first in range(0, plan.inits, plan.cohort_inits):
                        kept = min(plan.cohort_inits, plan.inits - first)
                        yield Cohort(key=key, optimizer=optimizer, first=first, kept=kept, size=plan.cohort_inits)

    @property
    def pairs(self) -> int:
        """How many pairs the whole run has."""
        inits = sum(plan.inits for plan in self.networks)
        return inits * len(self.optimizers) * len(self.policies) * len(self.pairings)


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_lists(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_as_lists(item) for item in value]
    return value
