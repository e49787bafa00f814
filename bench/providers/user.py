"""A user's own class, standing for one of torch's optimizers."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lossscale.support.output import printed_as_errors

from ..tracebacks import first_line
from .base import Provider, Traits, Unsupported, build_or_unsupported
from .contained import Ended, contained
from .foreign import SAME, accepted_options

_IMPORT_LIMIT_S = 120.0
"""Of a module of a user's: others take half a minute from a cold disk."""


class _Standing(Provider):
    """A class of somebody's that stands for whatever optimizer it is said to."""

    def states_of(self, optimizer: str) -> Mapping[str, str]:
        """Compared under torch's names; states of the class's own making are left alone."""
        del optimizer
        return SAME

    def offers(self, optimizer: str) -> bool:
        """Whatever it is said to stand for."""
        del optimizer
        return True

    @property
    def traits(self) -> Traits:
        """Whoever points at a class of theirs wants to know whether it is right."""
        return Traits(claims_identity=True, keeps_gradients=True)

    def against(self, device: torch.device) -> str:
        """Torch itself: what the class was written after has the same square root."""
        return "torch-foreach" if device.type == "cuda" else "torch-for-loop"


@dataclass(frozen=True, kw_only=True)
class OneClass(_Standing):
    """A class that is at hand, standing for one of torch's optimizers."""

    made: type[torch.optim.Optimizer]

    @property
    def name(self) -> str:
        """The class's own name."""
        return self.made.__name__

    def build(self, optimizer: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The class, whatever the optimizer it stands for."""
        # Without any option its own defaults are asked for.
        accepted = accepted_options(self.made, optimizer, options, groups=groups) if options else {}
        built = build_or_unsupported(self.made, groups, accepted)
        # A constructor that takes everything does not say what it knows in a group; its defaults do.
        known = getattr(built, "defaults", None)
        lacking = [name for group in groups for name in group if known and name not in ("params", *known)]
        if lacking:
            raise Unsupported(f"no option {', '.join(dict.fromkeys(lacking))} in a group")
        return built


@dataclass(frozen=True, kw_only=True)
class UserClass(_Standing):
    """A user's `module:Class`, standing for one of torch's optimizers."""

    target: str

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return self.target

    def load(self) -> Any:
        """The class.

        Raises:
            ValueError: if the text is no `module:Class`, or the class is not there or is no torch.optim.Optimizer.
        """
        module, _, name = self.target.partition(":")
        if not all(map(str.isidentifier, (*module.split("."), name))):
            raise ValueError("give module:Class, a module's full name with dots and a class's")
        try:
            with printed_as_errors(), contained(_IMPORT_LIMIT_S):
                made = getattr(importlib.import_module(module), name, None)
        except ImportError as error:
            raise ValueError(f"cannot be imported: {error}; is its directory on PYTHONPATH?") from error
        except Exception as error:
            # Whatever a user's module does when it is imported is that module's to mend.
            reason = first_line(error)
            said = reason if isinstance(error, Ended) else f"{type(error).__name__}: {reason}"
            raise ValueError(f"cannot be imported: {said}; mend {module} first") from error
        if made is None:
            raise ValueError(f"{module} has no {name}")
        if not (isinstance(made, type) and issubclass(made, torch.optim.Optimizer)):
            raise ValueError(f"{name} is not a subclass of torch.optim.Optimizer")
        return made

    def build(self, optimizer: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The user's class, whatever the optimizer it stands for."""
        return OneClass(made=self.load()).build(optimizer, groups, options)
