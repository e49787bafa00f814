"""What a provider is: a name, a reason when it is missing, and a way to build an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch


class Unsupported(Exception):
    """The provider does not offer what was asked for; the message is the reason. An outcome, not a failure."""


@runtime_checkable
class Provider(Protocol):
    """An implementation of optimizers."""

    @property
    def name(self) -> str:
        """Stable, as written in results, e.g. "torch-foreach"."""

    def missing(self, device: torch.device) -> str:
        """Why the provider cannot be used on `device`; empty when it can."""

    def build(self, optimizer: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
        """An optimizer over `groups` with torch's option names.

        Raises:
            Unsupported: this provider has no such optimizer or option.
        """


def build_or_unsupported(make: Any, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Call a constructor; what it refuses (TypeError, ValueError, RuntimeError, …) becomes `Unsupported`."""
    try:
        optimizer: torch.optim.Optimizer = make(groups, **options)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        # The ways in which packages refuse an option. Any other exception is a fault and keeps its traceback.
        raise Unsupported(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error
    return optimizer
