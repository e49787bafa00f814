"""What a run consists of: its spec, and the cohorts, arms and pairs that follow from it. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .arms import BASE, Member, get_arm
from .grid import Grid, NetworkInits, OptimizerSpec

AUTO: Final = "auto"
"""An engine for every network and policy: the first that runs them."""


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Two members of a family by their index in it."""

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
    """Everything that decides a run's pairs, bit for bit, on one machine.

    Attributes:
        engine: of every cell, or ``auto``.
        engines: where ``auto`` has taken several: policy, network and the engine of their cells.
    """

    study: str
    networks: tuple[NetworkInits, ...]
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
    measures: tuple[str, ...] = ()
    engine: str = AUTO
    scaler: str = ""
    engines: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def of(cls, study: str, grid: Grid, *, seed: int, device: str, backend: str, engine: str = AUTO) -> RunSpec:
        """The spec of a study's whole grid; ``engine`` is the one asked for, else the grid's own."""
        shared = {field.name: getattr(grid, field.name) for field in dataclasses.fields(grid)}
        own = shared.pop("engine")
        return cls(
            study=study, seed=seed, device=device, backend=backend, engine=own if engine == AUTO else engine, **shared
        )

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> RunSpec:
        """The inverse of `as_dict`."""
        values = dict(document)
        values["networks"] = tuple(NetworkInits(**item) for item in values["networks"])
        values["optimizers"] = tuple(
            OptimizerSpec(
                **{
                    **item,
                    "options": tuple((name, value) for name, value in item["options"]),
                    "networks": tuple(item.get("networks", ())),
                }
            )
            for item in values["optimizers"]
        )
        values["against"] = tuple((arm, other) for arm, other in values["against"])
        values["measures"] = values.get("measures", ())
        values["engine"] = values.get("engine", "batched")  # all that there was
        values["engines"] = tuple(map(tuple, values.get("engines", ())))
        for name in ("scales", "arms", "policies", "checkpoints", "measures"):
            values[name] = tuple(values[name])
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """The spec as JSON will hold it."""
        document = dataclasses.asdict(self)
        for network in document["networks"]:
            network["quick_inits"] = 0  # says what another run would do
            if not network["last_step"]:
                del network["last_step"]
        for optimizer in document["optimizers"]:
            for name in ("recipe", "networks"):
                if not optimizer[name]:
                    del optimizer[name]
        for name in ("measures", "scaler", "engines"):
            if not getattr(self, name):
                del document[name]
        plain: dict[str, Any] = _as_lists(document)
        return plain

    def of_network(self, name: str) -> RunSpec:
        """What one of its networks is run by: its own checkpoints."""
        last = next(network.last_step for network in self.networks if network.network == name)
        kept = tuple(step for step in self.checkpoints if step <= last)
        return dataclasses.replace(self, checkpoints=kept or self.checkpoints[:1]) if last else self

    @property
    def engines_by_cell(self) -> dict[tuple[str, str], str]:
        """`engines` by policy and network."""
        return {(policy, network): engine for policy, network, engine in self.engines}

    @property
    def steps(self) -> int:
        """Steps of every model."""
        return max(self.checkpoints)

    @property
    def family(self) -> tuple[Member, ...]:
        """The members of every family; the base arm is the first."""
        members = [Member(arm=BASE)]
        for arm in map(get_arm, self.arms):
            if arm.scaled:
                members += [Member(arm=arm, scale=scale) for scale in self.scales]
            elif arm.name != BASE.name:
                members.append(Member(arm=arm, scale=arm.at))
        return tuple(members)

    @property
    def pairings(self) -> tuple[Pairing, ...]:
        """The pairs of every family: arms against base, but those that say no, then arms compared at equal scale."""
        family = self.family
        pairs = [Pairing(arm=index, against=0) for index in range(1, len(family)) if family[index].arm.beside_base]
        place = {(member.name, member.scale): index for index, member in enumerate(family)}
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
            for network in self.networks:
                for optimizer in self.optimizers:
                    if not optimizer.trains(network.network):
                        continue
                    key = CellKey(
                        network=network.network,
                        optimizer=optimizer.algorithm,
                        options=optimizer.text,
                        recipe=optimizer.recipe or self.recipe,
                        policy=policy,
                    )
                    for first in range(0, network.inits, network.cohort_inits):
                        kept = min(network.cohort_inits, network.inits - first)
                        yield Cohort(key=key, optimizer=optimizer, first=first, kept=kept, size=network.cohort_inits)

    @property
    def pairs(self) -> int:
        """How many pairs the whole run has."""
        return sum(cohort.kept for cohort in self.cohorts()) * len(self.pairings)


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_lists(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_as_lists(item) for item in value]
    return value
