"""The grid of a study: which networks, optimizers, scales, arms and policies are combined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..support.errors import InputError, check_choice
from .arms import ARMS, BASE
from .scales import Value, value_text

SCALERS: Final = ("static", "dynamic")
"""Kinds of GradScaler: a scale that stays, and one that grows and shrinks as torch.amp.GradScaler's."""


@dataclass(frozen=True, kw_only=True, order=True)
class OptimizerSpec:
    """An algorithm with the hyperparameters that differ from its defaults (the learning rate is the grid's).

    ``recipe`` is empty where it is the grid's, ``networks`` where it trains all of them.
    """

    algorithm: str
    options: tuple[tuple[str, Value], ...] = ()
    recipe: str = ""
    networks: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Canonical text of the options: ``"eps=0.001"``, ``""`` for the defaults."""
        return ",".join(f"{name}={value_text(value)}" for name, value in self.options)

    @property
    def typed(self) -> str:
        """As it is typed: ``adam:eps=0.001``, or ``adam`` for the defaults."""
        return f"{self.algorithm}:{self.text}" if self.options else self.algorithm

    def trains(self, network: str) -> bool:
        """Whether it trains the network of that name."""
        return not self.networks or network in self.networks


@dataclass(frozen=True, kw_only=True)
class NetworkInits:
    """How many random initialisations a network gets per cell, and how many of them advance together.

    ``cohort_inits`` is part of the run's identity: batched matrix products may change bits with the batch size.
    ``last_step`` ends its training before the grid's last checkpoint; 0 does not.
    """

    network: str
    inits: int
    cohort_inits: int
    quick_inits: int
    last_step: int = 0


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The combinations of a study. Every combination of policy, network and optimizer is one series of cohorts."""

    networks: tuple[NetworkInits, ...]
    optimizers: tuple[OptimizerSpec, ...]
    scales: tuple[float, ...]
    arms: tuple[str, ...] = ("base", "loss", "lr", "mapped", "null", "ulp")
    """Names of arms; ``base`` is always there."""
    against: tuple[tuple[str, str], ...] = (("loss", "lr"),)
    """Pairs beyond "each arm against base": (arm, against) at equal scale."""
    policies: tuple[str, ...] = ("fp32",)
    checkpoints: tuple[int, ...] = (1, 10, 50, 200)
    measures: tuple[str, ...] = ()
    """Names of what is recorded of every pair beyond the standard measures."""
    scaler: str = ""
    """A GradScaler per model where a policy takes one (`Policy.takes_scaler`): static or dynamic; empty for none."""
    lr: float = 0.01
    recipe: str = "foreach"
    engine: str = "auto"
    """The engine that runs it unless another is asked for; ``auto`` takes for every policy the first that has it."""

    def __post_init__(self) -> None:
        """A slip in a study is an error, not a smaller grid.

        Raises:
            InputError: for something named twice or not at all, and numbers out of range.
        """
        for name in ("networks", "optimizers", "scales", "policies", "checkpoints"):
            if not getattr(self, name):
                raise InputError(f"grid: {name}", "()", "is empty; give at least one")
        names = ("scales", "arms", "policies", "checkpoints", "measures", "against", "optimizers")
        given = {name: getattr(self, name) for name in names}
        for name, values in {**given, "networks": [plan.network for plan in self.networks]}.items():
            twice = [value for value in values if list(values).count(value) > 1]
            if twice:
                raise InputError(f"grid: {name}", twice[0], "is given twice; pairs would count twice, give it once")
        networks = [plan.network for plan in self.networks]
        for optimizer in self.optimizers:
            if not any(map(optimizer.trains, networks)):
                elsewhere = f"trains {', '.join(optimizer.networks)} only, which are not among the networks"
                raise InputError("grid: optimizers", optimizer.typed, f"{elsewhere}; leave it out")
        for arm in (*self.arms, *(arm for pair in self.against for arm in pair)):
            check_choice("grid: arm", arm, ARMS)
        for arm, other in self.against:
            if {arm, other} - {*self.arms, BASE.name}:
                raise InputError("grid: against", f"{arm}:{other}", "names an arm that does not run; add it to arms")
            if not (ARMS[arm].scaled and ARMS[other].scaled):
                raise InputError("grid: against", f"{arm}:{other}", "pairs arms at equal scales, and one has none")
        check_choice("grid: scaler", self.scaler, ("", *SCALERS))
        for scale in self.scales:
            if not 0 < scale < float("inf"):
                raise InputError("grid: scales", scale, "is no scale; give finite numbers above 0")
        if list(self.checkpoints) != sorted(self.checkpoints) or self.checkpoints[0] < 1:
            raise InputError("grid: checkpoints", self.checkpoints, "must be steps from 1 on, ascending")
