"""The dtypes of a launch: those of its tensors, and those to which an eager rule's lines round."""

from __future__ import annotations

import torch

from ..algorithm import Recipe
from ..rounding.flags import DECAY, MAXIMIZE, NESTEROV
from ..rounding.reference import promoted

Dtypes = tuple[torch.dtype, torch.dtype, torch.dtype, torch.dtype | None]
"""Of parameters, gradients, states, and the low-precision copy if there is one."""


def line_dtypes(recipe: Recipe, flags: int, dtypes: Dtypes) -> tuple[torch.dtype, torch.dtype]:
    """The dtypes to which an eager rule's lines round where they make a gradient, and where they make a state.

    As torch promotes: L2 decay adds the parameter to the gradient, Nesterov's look ahead the buffer. What is added in
    place keeps its dtype. The parameters of a step with copies are masters, which are stepped as if all were float32.
    """
    param, grad, state, copy = dtypes
    if copy is not None:
        return param, param
    if flags & DECAY.value and not (recipe.in_place and flags & MAXIMIZE.value):
        grad = promoted(param, grad)
    if flags & NESTEROV.value and not recipe.in_place:
        grad = promoted(grad, state)
    return grad, state
