"""Precision policies: which number format holds what during training."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from .support.errors import InputError, check_choice


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Formats of a training run, each ``fp32``, ``bf16`` or ``fp16``.

    Attributes:
        name: as typed on the command line.
        params: the parameters that the optimizer updates (the master copy, where there are two).
        grads: the gradients as the optimizer receives them.
        state: the optimizer's moments.
        compute: forward and backward.
        rounding: ``operation`` when the optimizer rounds to its format after every operation, ``storage`` when it
            computes in float32 and rounds only what it stores.
    """

    name: str
    params: str
    grads: str
    state: str
    compute: str
    rounding: str


def _policy(name: str, params: str, grads: str, state: str, compute: str, rounding: str) -> Policy:
    return Policy(name=name, params=params, grads=grads, state=state, compute=compute, rounding=rounding)


PRESETS: Final = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            _policy("fp32", "fp32", "fp32", "fp32", "fp32", "storage"),
            _policy("bf16-true", "bf16", "bf16", "bf16", "bf16", "operation"),
            _policy("fp16-true", "fp16", "fp16", "fp16", "fp16", "operation"),
            _policy("bf16-mixed", "fp32", "fp32", "fp32", "bf16", "storage"),
            _policy("fp16-mixed", "fp32", "fp32", "fp32", "fp16", "storage"),
            _policy("bf16-state", "fp32", "fp32", "bf16", "fp32", "storage"),
            _policy("fp16-state", "fp32", "fp32", "fp16", "fp32", "storage"),
        )
    }
)
"""The named policies."""

RUNNABLE: Final = ("fp32",)
"""The policies that the engine can run."""


def get_policy(name: str, argument: str = "--policy") -> Policy:
    """The preset of that name, if the engine can run it.

    Raises:
        InputError: for an unknown name, and for a preset that no engine runs.
    """
    check_choice(argument, name, PRESETS)
    if name not in RUNNABLE:
        raise InputError(argument, name, f"no engine runs this policy; give {', '.join(RUNNABLE)}")
    return PRESETS[name]
