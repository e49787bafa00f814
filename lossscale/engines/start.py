"""Where the models of a family begin, arm by arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from ..design.arms import Member, Start
from ..models.data import signs


def starting_points(drawn: Tensor, family: Sequence[Member], seed: int, inits: Sequence[int]) -> Tensor:
    """[models, n]: every initialisation [inits, n] once per member, as the member's arm begins, in the same format."""
    models = drawn.repeat_interleave(len(family), 0)
    for index, member in enumerate(family):
        begin = _STARTS[member.arm.start]
        if begin is not None:
            models[index :: len(family)] = begin(drawn, seed, inits)
    return models


def one_ulp(drawn: Tensor, seed: int, inits: Sequence[int]) -> Tensor:
    """[inits, n]: every number moved to a neighbour in its format, up or down by a fair coin."""
    up = torch.from_numpy(signs(seed, "ulp", inits, drawn.shape[1]))
    away = torch.where(up, torch.full_like(drawn, torch.inf), torch.full_like(drawn, -torch.inf))
    return torch.nextafter(drawn, away)


_STARTS: Final[Mapping[Start, Callable[[Tensor, int, Sequence[int]], Tensor] | None]] = {
    Start.DRAWN: None,
    Start.ONE_ULP: one_ulp,
}
