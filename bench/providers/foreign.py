"""Other people's optimizers: packages that may be installed.

An entry names the package's classes, and its states under torch's names where they mean the same. What a package does
not have is `Unsupported`: an outcome and not a failure.
"""

from __future__ import annotations

import importlib
import inspect
import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import torch

from ..tracebacks import first_line
from .base import Provider, Traits, Unsupported, build_or_unsupported
from .contained import contained

_NAMES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg", "sum", "step")
SAME = dict(zip(_NAMES, _NAMES, strict=True))
_MOMENTS = dict.fromkeys(("Adam", "AdamW", "SGD", "Adagrad"), SAME)
_STATES_8BIT = {
    "Adam": {"state1": "exp_avg", "state2": "exp_avg_sq"},
    "AdamW": {"state1": "exp_avg", "state2": "exp_avg_sq"},
    "SGD": {"state1": "momentum_buffer"},
    "RMSprop": {"state1": "square_avg"},
    "Adagrad": {"state1": "sum"},
}


@dataclass(frozen=True, kw_only=True)
class Foreign(Provider):
    """The optimizers of a package.

    Attributes:
        label: the provider's name, as written in results.
        module: what to import.
        classes: torch's class name to the package's.
        states: per optimizer the package's states to torch's names; other states are its own affair.
        arguments: constructor arguments to add.
        devices: where it runs at all.
        slow: it compiles for every shape, and gets few cases and much time.
        lacks: options that it spells like torch's but gives another meaning.
    """

    label: str
    module: str
    classes: Mapping[str, str]
    states: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu", "cuda")
    slow: bool = False
    lacks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As the entry says."""
        return self.label

    @property
    def traits(self) -> Traits:
        """As the entry says."""
        return Traits(slow=self.slow)

    def offers(self, optimizer: str) -> bool:
        """Whether the package has a class for it."""
        return optimizer in self.classes

    def states_of(self, optimizer: str) -> Mapping[str, str]:
        """The states of an optimizer that can be compared, under torch's names."""
        return self.states.get(optimizer, {})

    def missing(self, device: torch.device) -> str:
        """Why the package cannot be used on `device`; empty when it can."""
        if device.type not in self.devices:
            return f"runs on {' and '.join(self.devices)} only"
        try:
            with _silence(), contained():
                importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            return f"not installed: {error}"
        except Exception as error:
            # A package that breaks while it is imported is missing here, whatever broke.
            return f"cannot be imported: {type(error).__name__}: {first_line(error)}"
        return ""

    def build(self, optimizer: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The package's class; options that its constructor lacks are refused unless they are off."""
        if optimizer not in self.classes:
            raise Unsupported(f"{self.name} has no {optimizer}")
        made = getattr(importlib.import_module(self.module), self.classes[optimizer], None)
        if made is None:
            raise Unsupported(f"{self.module} has no {self.classes[optimizer]}")
        accepted = accepted_options(made, optimizer, options, groups=groups, lacks=self.lacks)
        return build_or_unsupported(made, groups, {**self.arguments, **accepted})


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing is printed or warned inside, by compiled code neither: what packages say when they load is not asked."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(nowhere)


def accepted_options(
    made: Any,
    optimizer: str,
    options: Mapping[str, Any],
    *,
    groups: Sequence[Mapping[str, Any]] = (),
    lacks: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The options that the constructor takes, torch's defaults among them: a package's own may be others.

    Args:
        made: the class.
        optimizer: torch's class name, whose defaults and option names count.
        options: to be passed on.
        groups: parameter groups, whose own options the constructor must take too.
        lacks: options that it spells like torch's but gives another meaning.

    Raises:
        Unsupported: if it lacks one that is not off, or the learning rate, or does not say what it takes.
    """
    try:
        parameters = inspect.signature(made).parameters
    except (TypeError, ValueError) as error:
        raise Unsupported(f"its constructor does not say what it takes: {error}") from error
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(options)
    taken = {name for name in parameters if name not in lacks}
    asked = [*options.items(), *(item for group in groups for item in group.items() if item[0] != "params")]
    lacking = dict.fromkeys(name for name, value in asked if name not in taken and value not in (0, False, None))
    if lacking:
        raise Unsupported(f"no option {', '.join(lacking)}")
    every = {**_torch_defaults(optimizer), **options}
    if "lr" in every and "lr" not in taken:
        # Whatever it does then, it does at a learning rate of its own.
        raise Unsupported("no option lr")
    return {name: value for name, value in every.items() if name in taken}


def _torch_defaults(optimizer: str) -> dict[str, Any]:
    """The constructor's defaults under torch's names; nothing for an optimizer that torch lacks."""
    made = getattr(torch.optim, optimizer, None)
    if made is None:
        return {}
    switches = {"foreach", "fused", "capturable", "differentiable", "params"}
    return {
        name: parameter.default
        for name, parameter in inspect.signature(made).parameters.items()
        if name not in switches and parameter.default is not inspect.Parameter.empty
    }


PACKAGES: tuple[Foreign, ...] = (
    Foreign(
        label="optimi",
        module="optimi",
        classes={"Adam": "Adam", "AdamW": "AdamW", "SGD": "SGD"},
        # Its Adam keeps averages that are already free of their bias: other quantities under torch's names.
        states={"SGD": {"exp_avg": "momentum_buffer"}},
        # Plain arithmetic in the parameter's dtype: the same question for all. Kahan sums are another optimizer.
        arguments={"kahan_sum": False, "triton": False},
        lacks=("dampening",),
    ),
    Foreign(
        label="optimi-kahan",
        module="optimi",
        classes={"Adam": "Adam", "AdamW": "AdamW", "SGD": "SGD"},
        states={"SGD": {"exp_avg": "momentum_buffer"}},
        arguments={"kahan_sum": True, "triton": False},
        lacks=("dampening",),
    ),
    Foreign(
        label="bitsandbytes",
        module="bitsandbytes.optim",
        classes={name: name for name in _STATES_8BIT},
        states=_STATES_8BIT,
    ),
    Foreign(label="torchao", module="torchao.optim", classes={"AdamW": "_AdamW"}, states=_MOMENTS, slow=True),
    Foreign(
        label="apex",
        module="apex.optimizers",
        classes={"Adam": "FusedAdam", "AdamW": "FusedAdam", "SGD": "FusedSGD", "Adagrad": "FusedAdagrad"},
        states=_MOMENTS,
        devices=("cuda",),
    ),
    Foreign(
        label="flag_gems",
        module="flag_gems.optim",
        classes={"Adam": "Adam", "AdamW": "AdamW", "SGD": "SGD", "Adagrad": "Adagrad"},
        states=_MOMENTS,
        devices=("cuda",),
    ),
)
