"""Which elements of a parameter are looked at, and how they are taken without touching anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

FEWEST = 64
"""Elements of a parameter that are looked at however small its share of the group is (all, where it has fewer)."""
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def local(tensor: Tensor) -> Tensor:
    """A tensor without its history; of a distributed one this process's part."""
    if type(tensor) is not Tensor or tensor.requires_grad:
        tensor = tensor.detach()
    if type(tensor) is Tensor:
        return tensor
    part = getattr(tensor, "to_local", None)
    return part() if part is not None else tensor


def size_of(tensor: Tensor) -> int:
    """How many elements `local` has."""
    return tensor.numel() if type(tensor) in _PLAIN else local(tensor).numel()


_PLAIN = (Tensor, torch.nn.Parameter)


def counts(sizes: Sequence[int], limit: int) -> list[int]:
    """How many elements of each parameter are looked at: in proportion to the limit for all, and `FEWEST` at least."""
    total = max(sum(sizes), 1)
    if total <= limit:
        return list(sizes)
    return [min(size, max(FEWEST, size * limit // total)) for size in sizes]


def places(size: int, count: int) -> Tensor | None:
    """[count] int64: spread evenly over ``range(size)``; None for all of them.

    One element from each of count equal parts, at a place that the golden ratio moves on from part to part: a constant
    stride would see one column of a matrix only. No random numbers are drawn.
    """
    if count >= size:
        return None
    part = torch.arange(count, dtype=torch.float64, device="cpu")
    inside = torch.remainder(part * _GOLDEN, 1.0)
    return ((part + inside) * (size / count)).long().clamp(max=size - 1)


def take(tensor: Tensor, where: Tensor | None) -> Tensor:
    """[count]: the elements at these places, in the tensor's own order of dimensions; perhaps a view of them."""
    part = local(tensor)
    return part.reshape(-1) if where is None else torch.take(part, where)


def copied(parts: Sequence[Tensor]) -> Tensor:
    """[n]: the parts one after another, where they are: on one device, else on the CPU; in a dtype that holds all."""
    if len({part.device for part in parts}) > 1:
        parts = [part.cpu() for part in parts]
    return torch.cat(list(parts))


def doubled(parts: Sequence[Tensor]) -> Tensor | None:
    """[n] float64: float32 parts on the CPU one after another, by numpy, which wakes no threads; None for others."""
    if not all(part.is_cpu and part.dtype == torch.float32 for part in parts):
        return None
    return torch.from_numpy(np.concatenate([part.numpy() for part in parts], dtype=np.float64))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """[n] float64 on the CPU: the parts one after another."""
    return copied(parts).cpu().double()
