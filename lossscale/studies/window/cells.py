"""What the study looks at: optimizers in their recipes and policies, and the policies in which causes are repaired."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import kernels

from ...design.policies import POLICIES, Policy
from ...design.scales import Value, value_text

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
        options: hyperparameters that are not torch's defaults, and not the learning rate.
    """

    optimizer: str
    policy: str
    recipe: str = "foreach"
    lr: float = LR
    options: tuple[tuple[str, Value], ...] = ()

    @property
    def text(self) -> str:
        """The options, as ``amsgrad=True``; empty for none."""
        return ",".join(f"{name}={value_text(value)}" for name, value in self.options)

    @property
    def typed(self) -> str:
        """The optimizer with its options."""
        return f"{self.optimizer}:{self.text}" if self.options else self.optimizer

    @property
    def name(self) -> str:
        """For a file."""
        return f"{self.typed.replace(':', '-')}-{self.recipe}-{self.policy}-lr{self.lr:g}"

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
        """The hyperparameters of the unscaled run: torch's defaults but for the learning rate and the options."""
        return kernels.get_algorithm(self.optimizer).hyperparameters(lr=self.lr, **dict(self.options))

    @property
    def columns(self) -> dict[str, Any]:
        """How the cell stands in a summary."""
        return {
            "network": NETWORK,
            "optimizer": self.optimizer,
            "options": ",".join(filter(None, (f"lr={self.lr:g}", self.text))),
            "recipe": self.recipe,
            "policy": self.policy,
        }


AMSGRAD: Final[tuple[tuple[str, Value], ...]] = (("amsgrad", True),)
OPTIMIZERS: Final[tuple[tuple[str, tuple[tuple[str, Value], ...]], ...]] = (
    ("adam", ()),
    ("adam", AMSGRAD),
    ("adamw", ()),
    ("rmsprop", ()),
    ("adagrad", ()),
)
"""With their options. Under AMSGrad the largest second moment divides, so its borders are not Adam's."""

PLAIN: Final = Cell(optimizer="adam", policy="fp32")
PLAIN_TRUE: Final = Cell(optimizer="adam", policy="bf16-true")
SMALL_LR: Final = Cell(optimizer="adam", policy="bf16-true", lr=1e-4)
FREE: Final = "adam_atan2"
"""The optimizer without eps."""


def cells(*, quick: bool) -> list[Cell]:
    """Every cell that has thresholds, the default optimizer's first."""
    if quick:
        plain = [Cell(optimizer="adam", policy=policy) for policy in ("fp32", "bf16-true", "bf16-mixed", "fp16-mixed")]
        return [*plain, Cell(optimizer="adam", policy="bf16-true", recipe="fused"), SMALL_LR]
    found = []
    for optimizer, options in OPTIMIZERS:
        recipes = kernels.get_algorithm(optimizer).recipes
        for policy, formats in POLICIES.items():
            found.append(Cell(optimizer=optimizer, policy=policy, options=options))
            if formats.params != "fp32" and "fused" in recipes:
                found.append(Cell(optimizer=optimizer, policy=policy, recipe="fused", options=options))
    return [*found, SMALL_LR]


def diagrams(*, quick: bool) -> list[Cell]:
    """Every cell that has a phase diagram."""
    if quick:
        return [PLAIN_TRUE]
    every = [
        Cell(optimizer=name, policy=policy, options=options) for name, options in OPTIMIZERS for policy in POLICIES
    ]
    return [*every, SMALL_LR]


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
