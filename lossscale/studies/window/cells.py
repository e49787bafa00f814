"""What the study looks at: optimizers in their recipes and policies, and the policies in which causes are repaired."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import kernels

from ...design.policies import POLICIES, Policy

NETWORK: Final = "mlp-6-6-1"
LR: Final = 0.01
STEPS: Final = 100


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One optimizer as it is run.

    Attributes:
        optimizer: name in the registry.
        policy: name of a preset.
        recipe: whose rounding; with 16-bit parameters it decides in which arithmetic the denominator is formed.
        lr: learning rate.
    """

    optimizer: str
    policy: str
    recipe: str = "foreach"
    lr: float = LR

    @property
    def name(self) -> str:
        """For a file."""
        return f"{self.optimizer}-{self.recipe}-{self.policy}-lr{self.lr:g}"

    @property
    def formats(self) -> Policy:
        """The policy's."""
        return POLICIES[self.policy]

    @property
    def arithmetic(self) -> str:
        """In which the denominator is formed: eager steps round every operation to the parameters' format."""
        if self.recipe == "fused":
            return "fp64" if kernels.get_algorithm(self.optimizer).recipes["fused"].double else "fp32"
        return self.formats.params

    @cached_property
    def base(self) -> Any:
        """The hyperparameters of the unscaled run: torch's defaults but for the learning rate."""
        return kernels.get_algorithm(self.optimizer).hyperparameters(lr=self.lr)

    @property
    def columns(self) -> dict[str, Any]:
        """How the cell stands in a summary."""
        return {
            "network": NETWORK,
            "optimizer": self.optimizer,
            "options": f"lr={self.lr:g}",
            "recipe": self.recipe,
            "policy": self.policy,
        }


OPTIMIZERS: Final = ("adam", "adamw", "rmsprop", "adagrad")
SMALL_LR: Final = Cell(optimizer="adam", policy="bf16-true", lr=1e-4)
FREE: Final = "adam_atan2"
"""The optimizer without eps."""


def cells(*, quick: bool) -> list[Cell]:
    """Every cell that has thresholds, the default optimizer's first."""
    if quick:
        plain = [Cell(optimizer="adam", policy=policy) for policy in ("fp32", "bf16-true", "bf16-mixed", "fp16-mixed")]
        return [*plain, Cell(optimizer="adam", policy="bf16-true", recipe="fused"), SMALL_LR]
    found = []
    for optimizer in OPTIMIZERS:
        recipes = kernels.get_algorithm(optimizer).recipes
        for policy, formats in POLICIES.items():
            found.append(Cell(optimizer=optimizer, policy=policy))
            if formats.params != "fp32" and "fused" in recipes:
                found.append(Cell(optimizer=optimizer, policy=policy, recipe="fused"))
    return [*found, SMALL_LR]


def diagrams(*, quick: bool) -> list[Cell]:
    """Every cell that has a phase diagram."""
    if quick:
        return [Cell(optimizer="adam", policy="bf16-true")]
    return [*(Cell(optimizer=optimizer, policy=policy) for optimizer in OPTIMIZERS for policy in POLICIES), SMALL_LR]


def repaired(formats: Policy, causes: frozenset[str]) -> Policy:
    """The policy with float32 states for V, and float32 gradients, from the backward pass on, for G.

    An optimizer takes its gradients in the parameters' format, so where that has 16 bits G brings a float32 copy of the
    parameters with it, and with that the arithmetic of its step.
    """
    if "V" in causes:
        formats = dataclasses.replace(formats, state="fp32")
    if "G" in causes:
        formats = dataclasses.replace(formats, params="fp32", grads="fp32", compute="fp32")
    return formats
