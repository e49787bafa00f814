"""Precision policies: which format holds what during a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final

import torch

from ..names import check_name
from ..rounding.dtypes import DTYPES


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Formats, each ``fp32``, ``bf16`` or ``fp16``.

    Attributes:
        params: the parameters that the optimizer updates (the master copy, where forward and backward use a cast).
        grads: the gradients as the optimizer receives them; the parameters' format.
        state: the optimizer's states.
        compute: forward and backward.

    Raises:
        TypeError: for what is no name.
        ValueError: for a name that is no format, or gradients in another format than the parameters.
    """

    params: str = "fp32"
    grads: str = "fp32"
    state: str = "fp32"
    compute: str = "fp32"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            check_name(f"policy: {field.name}", value, f"choose one of {', '.join(DTYPES)}")
            if value not in DTYPES:
                raise ValueError(f"policy: {field.name} {value!r} is no format; choose one of {', '.join(DTYPES)}")
        if self.grads != self.params:
            raise ValueError(
                f"policy: gradients in {self.grads} for parameters in {self.params}; an optimizer takes them in the "
                "parameters' format"
            )

    def dtype(self, what: str) -> torch.dtype:
        """Torch's dtype of ``params``, ``grads``, ``state`` or ``compute``."""
        return DTYPES[getattr(self, what)].torch


def _presets() -> dict[str, Policy]:
    presets = {"fp32": Policy()}
    for name in ("bf16", "fp16"):
        presets[f"{name}-true"] = Policy(params=name, grads=name, state=name, compute=name)
        presets[f"{name}-mixed"] = Policy(compute=name)
        presets[f"{name}-state"] = Policy(state=name)
    return presets


POLICIES: Final[Mapping[str, Policy]] = MappingProxyType(_presets())
"""The named policies."""


def get_policy(policy: str | Policy) -> Policy:
    """A policy as it is, or the preset of that name.

    Raises:
        TypeError: for what is neither.
        ValueError: if there is none.
    """
    if isinstance(policy, Policy):
        return policy
    check_name("policy", policy, f"choose one of {', '.join(POLICIES)}, or give a Policy")
    if policy not in POLICIES:
        raise ValueError(f"policy {policy!r}: no such policy; choose one of {', '.join(POLICIES)}")
    return POLICIES[policy]
