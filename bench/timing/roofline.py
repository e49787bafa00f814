"""Bytes a step cannot avoid moving: each input read once, each output written once, counted from the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernels import DTYPES

from ..optimizers import registered


def bytes_per_element(
    optimizer: str, options: Mapping[str, Any], dtype: str, *, state_dtype: str | None = None, scaled: bool = False
) -> int:
    """Fewest bytes moved per parameter element in one step.

    Args:
        optimizer: torch's class name, such as "AdamW".
        options: its constructor arguments; they decide which states exist.
        dtype: of parameters and gradients.
        state_dtype: of the states, by default `dtype`.
        scaled: whether a grad_scale is taken out in the kernel, which writes the gradient back.

    Returns:
        Parameter read and written, gradient read (and written when scaled), every state read and written: 28 for
        float32 Adam, 14 in bfloat16.
    """
    states = len(state_names(optimizer, options))
    each, state = DTYPES[dtype].bytes, DTYPES[state_dtype or dtype].bytes
    return each * (3 + int(scaled)) + 2 * states * state


def state_names(optimizer: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The state tensors that these options keep, from the registry of `kernels`."""
    algorithm = registered(optimizer)
    names: tuple[str, ...] = algorithm.state_names(algorithm.hyperparameters(**options))
    return names
