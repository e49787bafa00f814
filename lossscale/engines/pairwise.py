"""The pairs of a cohort side by side: parameters bit by bit and by distance, states brought to one loss scale.

What a model has by itself is computed once per model, and pairs are compared some families at a time, so that what is
in between stays in the second cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from kernels import bits

_TOGETHER: Final = 1 << 16
"""Elements of pairs that are compared together (half a MiB in float64); no result depends on it."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Who is compared with whom in every family: members of it, by their place.

    Attributes:
        arm: of each pair.
        against: of each pair, what the arm is compared with.
    """

    arm: Sequence[int]
    against: Sequence[int]

    def of(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """[families, pairs, …] twice, of [families, members, …]."""
        arm, against = (torch.tensor(side, device=tensor.device) for side in (self.arm, self.against))
        return tensor.index_select(1, arm), tensor.index_select(1, against)

    def pieces(self, by_family: Tensor) -> Iterator[slice]:
        """Families of [families, members, n] whose pairs are compared together."""
        together = max(1, _TOGETHER // max(1, len(self.arm) * by_family.shape[2]))
        for first in range(0, len(by_family), together):
            yield slice(first, first + together)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Parameters of pairs, every tensor [families, pairs].

    Attributes:
        differing_bits: how many bits differ.
        max_ulp: the largest distance of two elements in units in the last place.
        distance: |arm − against|, float64.
    """

    differing_bits: Tensor
    max_ulp: Tensor
    distance: Tensor


@dataclass(frozen=True, kw_only=True)
class States:
    """Whether the states of a pair agree, and how many of their elements were left out of the comparison."""

    identical: Tensor
    left_out: Tensor


def compare_params(params: Tensor, sides: Sides, norm: Callable[[Tensor], Tensor]) -> Compared:
    """The pairs of parameters [families, members, n]; ``norm`` is over the last dimension of float64."""
    found = [_compare(params[some], sides, norm) for some in sides.pieces(params)]
    counted, ulp, distance = (torch.cat(part) for part in zip(*found, strict=True))
    return Compared(differing_bits=counted, max_ulp=ulp, distance=distance)


def _compare(params: Tensor, sides: Sides, norm: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """`bits.differing_bits`, `bits.ulp_distance` and the distance, from what each model has by itself."""
    words, order, values = bits.bit_view(params), bits.ordered(params), params.double()
    differing = torch.bitwise_xor(*sides.of(words))
    apart = torch.sub(*sides.of(order)).abs_()
    if params.amax().isnan():
        arm, against = sides.of(params.isnan())
        differing.masked_fill_(arm & against, 0)
        apart.masked_fill_(arm & against, 0).masked_fill_(arm ^ against, torch.iinfo(torch.int64).max)
    return bits.set_bits(differing).sum(2), apart.amax(2), norm(torch.sub(*sides.of(values)))


def compare_states(states: Sequence[tuple[Tensor, Sequence[float]]], sides: Sides, smallest_normal: float) -> States:
    """Compares the states of pairs once each is brought back to the scale of the unscaled loss.

    Elements that are subnormal, or underflowed to 0, in either run are counted and left out.

    Args:
        states: each [families, members, n], with what multiplies it in each member; at least one.
        sides: who is compared with whom.
        smallest_normal: of the states' format.
    """
    compared = [_compare_state(state, units, sides, smallest_normal) for state, units in states]
    same, left_out = (torch.stack(column) for column in zip(*compared, strict=True))
    return States(identical=same.all(0), left_out=left_out.sum(0))


def _compare_state(
    state: Tensor, units: Sequence[float], sides: Sides, smallest_normal: float
) -> tuple[Tensor, Tensor]:
    """[families, pairs] twice: whether one state agrees, and how many of its elements are left out."""
    column = torch.tensor(units, dtype=torch.float64, device=state.device).unsqueeze(1)
    # What the smaller of a pair's two units makes subnormal is left out, whichever of the two has that unit.
    unit = torch.minimum(*sides.of(column.unsqueeze(0)))
    found = [
        _compare_unscaled(state[some].double() / column, unit, sides, smallest_normal) for some in sides.pieces(state)
    ]
    same, left_out = (torch.cat(part) for part in zip(*found, strict=True))
    return same, left_out


def _compare_unscaled(state: Tensor, unit: Tensor, sides: Sides, smallest_normal: float) -> tuple[Tensor, Tensor]:
    """`_compare_state` at the scale of the unscaled loss; ``unit`` [1, pairs, 1] brings elements back from there."""
    ours, theirs = sides.of(state)
    agree = ours == theirs
    magnitude = state.abs()
    if magnitude.amax().isnan():
        nan = magnitude.isnan()
        agree |= torch.logical_and(*sides.of(nan))
        magnitude.masked_fill_(nan, torch.inf)
    magnitude.masked_fill_(magnitude == 0, torch.inf)
    least = torch.minimum(*sides.of(magnitude.amin(2)))
    some = least * unit.squeeze(2) < smallest_normal
    left_out = torch.zeros_like(some, dtype=torch.int64)
    if some.any():
        # Of most pairs no element is so small.
        families, pairs = some.nonzero(as_tuple=True)
        smaller = torch.minimum(*(side[some] for side in sides.of(magnitude)))
        tiny = smaller * unit[0, pairs] < smallest_normal
        left_out[some] = tiny.sum(1)
        agree[families, pairs] |= tiny
    return agree.all(2), left_out
