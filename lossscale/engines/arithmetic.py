"""How measures sum and interpolate: as torch does on this machine, or in an order that is the same on every one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """The operations of a measure whose bits an order decides; all others are elementwise.

    Attributes:
        norm: [...] Euclidean norm over the last dimension of float64 [..., n].
        closed_form_norm: the same for the closed forms; None for `theory`'s own.
        quantiles: ``quantiles(values, levels)``: [levels, ...] over the last dimension of float64 [..., n], without its
            NaN; NaN where there is nothing else.
    """

    norm: Callable[[Tensor], Tensor]
    closed_form_norm: Callable[[Tensor], Tensor] | None
    quantiles: Callable[[Tensor, Sequence[float]], Tensor]


def _torch_norm(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return norms


def _torch_quantiles(values: Tensor, levels: Sequence[float]) -> Tensor:
    return torch.nanquantile(values, torch.tensor(levels, dtype=values.dtype, device=values.device), dim=-1)


def ordered_norm(rows: Tensor) -> Tensor:
    """The root of the sum of squares, added in halves: element i takes element i + half, until one is left."""
    total = rows * rows
    while total.shape[-1] > 1:
        half = (total.shape[-1] + 1) // 2
        upper = torch.nn.functional.pad(total[..., half:], (0, 2 * half - total.shape[-1]))
        total = total[..., :half] + upper
    return total.squeeze(-1).sqrt()


def ordered_quantiles(values: Tensor, levels: Sequence[float]) -> Tensor:
    """Linear between the two nearest ranks: low + (high - low) * the rest of the rank."""
    ascending = values.sort(dim=-1).values  # NaN last
    last = (~values.isnan()).sum(-1, keepdim=True) - 1
    found = []
    for level in levels:
        rank = last.double() * level
        low = rank.floor().long().clamp(min=0)
        high = torch.minimum(low + 1, last.clamp(min=0))
        below, above = ascending.gather(-1, low), ascending.gather(-1, high)
        found.append((below + (above - below) * (rank - low)).squeeze(-1))
    return torch.stack(found)


TORCH: Final = Arithmetic(norm=_torch_norm, closed_form_norm=None, quantiles=_torch_quantiles)
"""torch's own sums, whose order follows the CPU's vectors."""

ORDERED: Final = Arithmetic(norm=ordered_norm, closed_form_norm=ordered_norm, quantiles=ordered_quantiles)
"""Sums in a stated order: the same bits on every machine."""
