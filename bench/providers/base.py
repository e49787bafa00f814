"""What a provider is: a name, its traits, and a way to build an optimizer. Callers ask for nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..tracebacks import first_line


class Unsupported(Exception):
    """The provider does not offer what was asked for; the message is the reason. An outcome, not a failure."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a run has to know of a provider beforehand.

    Attributes:
        recipe: whose rounding it has, as far as that decides which cases make sense for it.
        claims_identity: a difference from its reference is a failed claim, even when no reference was asked for.
        bits_known: its bits are known to the last rounding: a quick run does not measure its distance from float64, and
            it has no time where they are wrong.
        block: its bits are known in tensors of a multiple of so many elements: what torch's vector loops on a CPU do
            with the tail of a tensor is in nobody's recipe.
        interpreted: it runs Triton's interpreter, which has to be switched on before a process starts.
        slow: it compiles for every shape, and gets few cases and much time.
        tables: it keeps tables of addresses whose upkeep can be timed without a launch.
        known: it is this project's or torch's: its states are those of the optimizer that it is asked for, and its
            calls return. Of the others states are measured, and their calls are contained.
        keeps_gradients: whatever else it does, a step is held to leave `p.grad` as it was.
    """

    recipe: str = "foreach"
    claims_identity: bool = False
    bits_known: bool = False
    block: int = 1
    interpreted: bool = False
    slow: bool = False
    tables: bool = False
    known: bool = False
    keeps_gradients: bool = False


class Provider(Protocol):
    """An implementation of optimizers. Subclass it: a name and `build` are enough, the rest has defaults."""

    @property
    def name(self) -> str:
        """Stable, as written in results, e.g. "torch-foreach"."""

    def build(self, optimizer: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
        """An optimizer over `groups` with torch's option names.

        Raises:
            Unsupported: this provider has no such optimizer or option.
        """

    @property
    def traits(self) -> Traits:
        """What a run has to know beforehand."""
        return Traits()

    def missing(self, device: torch.device) -> str:
        """Why the provider cannot be used on `device`; empty when it can."""
        del device
        return ""

    def offers(self, optimizer: str) -> bool:
        """Whether it makes sense to ask for an optimizer: by default torch's, by class name."""
        return hasattr(torch.optim, optimizer)

    def against(self, device: torch.device) -> str:
        """Name of the reference that it is held against when nothing else is asked for."""
        return "torch-foreach" if device.type == "cuda" else "reference-foreach"

    def states_of(self, optimizer: str) -> Mapping[str, str] | None:
        """Its states that can be compared, to torch's names; None: all of them have torch's names."""
        del optimizer
        return None

    def rule_line(self, optimizer: str, quantity: str) -> dict[str, str] | None:
        """Where its source computes a quantity (`where` and `text`), if that is known."""
        del optimizer, quantity
        return None


def build_or_unsupported(make: Any, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Call a constructor; what it refuses (TypeError, ValueError, RuntimeError, …) becomes `Unsupported`."""
    try:
        optimizer: torch.optim.Optimizer = make(groups, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        # The ways in which packages refuse an option. Any other exception is a fault and keeps its traceback.
        raise Unsupported(f"{type(error).__name__}: {first_line(error)}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"{make} made {optimizer!r:.60}, which is no torch.optim.Optimizer")
    return optimizer
