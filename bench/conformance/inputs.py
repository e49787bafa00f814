"""Deterministic inputs of a case: the same bits on every machine and device."""

from __future__ import annotations

import math
import zlib
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from kernels import DTYPES

from .cases import LAYOUTS, Case

_SPECIAL = (0.0, -0.0, float("inf"), float("-inf"), float("nan"))


@lru_cache(maxsize=8)
def _draw(layout: str, values: str, dtype: str, seed: int, count: int, role: str) -> torch.Tensor:
    """`count` values of a class, drawn in float64 and rounded once to the dtype. Shared: not to be written to."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{layout}/{values}/{role}".encode())])
    drawn, known = rng.standard_normal(count), DTYPES[dtype]
    if values == "wide":
        # Squares of float32 must not overflow; in fp16 the whole range is used.
        reach = min(60, round(math.log2(known.largest)) - 4)
        drawn = np.ldexp(drawn, rng.integers(-reach, reach + 1, count))
    elif values == "subnormal":
        drawn = drawn * known.smallest_normal * (2.0**-4 if known.significant_bits > 16 else 2.0**-2)
    elif values == "special":
        chosen = rng.integers(0, 3 * len(_SPECIAL), count)
        for index, special in enumerate(_SPECIAL):
            drawn[chosen == index] = special
    return torch.from_numpy(drawn).to(known.torch)


def _fill(case: Case, role: str) -> torch.Tensor:
    """Values for every element of the case's layout; both sides of a comparison get the same ones."""
    count = sum(math.prod(shape) for shape in case.shapes())
    return _draw(case.layout, case.values, "fp32" if case.mixed else case.dtype, case.seed, count, role)


def _split(flat: torch.Tensor, case: Case, device: torch.device, *, gradients: bool = False) -> list[torch.Tensor]:
    """The tensors of the layout, each in a storage of its own on `device`."""
    flat = flat.to(device)
    tensors, start = [], 0
    for number, shape in enumerate(case.shapes()):
        count = math.prod(shape)
        piece = flat[start : start + count].to(DTYPES[case.dtype_of(number)].torch)
        start += count
        if "offset" in case.layout:
            storage = torch.zeros(count + 1, dtype=piece.dtype, device=device)
            storage[1:].copy_(piece)
            tensors.append(storage[1:])
        elif case.layout == "transposed" or (case.layout == "strides" and not gradients):
            tensors.append(_laid_apart(piece, shape))
        else:
            tensors.append(piece.reshape(shape).clone())
    return tensors


def _laid_apart(piece: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor whose memory is in another order than its elements: channels last, or a matrix column by column."""
    if len(shape) == 4:
        images, channels, *places = shape
        return piece.reshape(images, *places, channels).clone().movedim(-1, 1)
    return piece.reshape(shape[::-1]).clone().t()


def make_parameters(case: Case, device: torch.device) -> list[torch.Tensor]:
    """Fresh leaf tensors, requiring gradients, with the case's initial values."""
    return [t.requires_grad_() for t in _split(_fill(case, "params"), case, device)]


def make_gradients(case: Case, step: int, device: torch.device) -> list[torch.Tensor]:
    """Fresh gradients of step `step` (from 0), multiplied by the loss scale when the case has one."""
    flat = _fill(case, f"grads {0 if case.repeated else step}")
    if case.grad_scale is not None:
        flat = (flat.double() * case.grad_scale).to(flat.dtype)
    return _split(flat, case, device, gradients=True)


def make_groups(case: Case, parameters: list[torch.Tensor]) -> list[dict[str, Any]]:
    """Parameter groups of the case: one, or several whose hyperparameters differ from the constructor's."""
    count = len(LAYOUTS[case.layout])
    filled, empty = parameters[:count], parameters[count:]
    filled = filled[::-1] if case.order == "reversed" else filled
    members = [filled[i :: case.groups] for i in range(case.groups)]
    if case.empty in ("first", "last"):
        members = [[e, *own] if case.empty == "first" else [*own, e] for e, own in zip(empty, members, strict=True)]
    if case.empty == "group":
        members = [empty, *members]
    return [{"params": own, **options} for own, options in zip(members, case.group_options(), strict=True)]
