"""What is counted over the elements of a group, in all and layer by layer.

Counting is numpy's: its calls cost a fraction of torch's on few elements, and a probe lives on that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from . import steps
from .elements import Array, Elements, Layers
from .rounding import absorbs_from

QUANTILES: Final = (0.05, 0.5, 0.95)
"""Levels of eps / r that are told."""

HALF_NORMAL: Final = 2.0**-14
"""The smallest normal number of float16."""

MEANING: Final = {
    "rho": "share of the update that eps decides",
    "eps_absorbed": "share of v > 0 where r + eps rounds to r",
    "v_zero_still": "share of v = 0 that is not updated",
    "v_zero_moving": "share of v = 0 with an update",
    "v_zero_update": "share of the update where v = 0",
    "v_subnormal": "share of v that is subnormal in its dtype",
    "v_unchanged": "share of v > 0 that the step left unchanged",
    "v_stall": "share of v > 0 that a step with gradients N(0, v) would leave unchanged",
    "update_lost": "share of updates below half an ulp of the parameter",
    "grad_zero": "share of gradients that are 0",
    "fp16_underflow": "share of gradients other than 0 with |g·scale| < 2^-14",
    "nonfinite_state": "share of states that are infinite or NaN",
    "v_negative": "share of v below 0, which no step makes",
    "nonfinite_update": "share of updates that are infinite or NaN",
    "root_negative": "share of centered second moments below 0",
    **{f"eps_over_r_q{round(100 * level):02d}": f"{level:.0%} quantile of eps/r over v > 0" for level in QUANTILES},
    "decay_per_step": "lr · weight_decay, decoupled",
}
"""Every number of a group by its name, in the order of tables. Layers have the shares."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers by the names of `MEANING`; one that does not apply is not there.

    Attributes:
        group: of all elements.
        layers: of each layer.
    """

    group: dict[str, float]
    layers: tuple[dict[str, float], ...]


_ALL: Final = "all"
_NONE: Final = "none"
_Column = Array | str
"""[n], or `_ALL` or `_NONE` of the elements, which need not be counted."""

_Shares = Iterator[tuple[str, tuple[_Column, _Column]]]
"""Each share by its name, as the two columns whose sums are divided."""


@np.errstate(all="ignore")
def count(elements: Elements) -> Numbers:
    """The numbers of a group's elements: infinities of both signs and NaN among them are counted, not warned of."""
    shares = dict(_shares(elements))
    names = list(shares)
    sums = _sums(elements.layers, [part for pair in shares.values() for part in pair])
    group = _quotients(names, sums.sum(0).tolist())
    group.update(_quantiles(elements))
    decay = decoupled_decay(elements)
    if decay:
        group["decay_per_step"] = decay
    return Numbers(
        group={name: group[name] for name in MEANING if name in group},
        layers=_quotients_by_row(names, sums),
    )


def _sums(layers: Layers, columns: Sequence[_Column]) -> Array:
    """[layers, columns] float64: each layer's sum of each column, for all of the layer's elements."""
    found = np.zeros((len(layers), len(columns)))
    known: dict[int, Array] = {}
    for place, column in enumerate(columns):
        if isinstance(column, str):
            found[:, place] = layers.counts if column == _ALL else 0.0
            continue
        if id(column) not in known:
            known[id(column)] = np.add.reduceat(column, layers.starts, dtype=np.float64)
        found[:, place] = known[id(column)]
    scaled: Array = found * layers.factors[:, None]
    return scaled


def decoupled_decay(elements: Elements) -> float:
    """Lr · weight_decay where the decay does not pass through the gradient, else 0."""
    coupled = elements.algorithm.degrees_of(elements.hyper).get("weight_decay") != 0
    return 0.0 if coupled else float(elements.hyper.lr) * float(elements.hyper.weight_decay)


def settled(elements: Elements) -> bool:
    """Whether the second moment has seen as many steps as it remembers; before that its quantiles say little."""
    fewest = elements.step.min().item() if isinstance(elements.step, Tensor) else elements.step
    return fewest > steps.memory(elements.hyper)


def weighted_quantiles(values: Array, weights: Tensor | None, levels: Sequence[float]) -> list[float]:
    """Values below which these shares of the weight lie; NaN without values.

    Args:
        values: [n] float64, NaN where there is none.
        weights: [n] float64, None for the same everywhere.
        levels: from 0 to 1.
    """
    there = ~np.isnan(values)
    return _quantiles_of(values[there], None if weights is None else weights.numpy()[there], levels)


def _quantiles_of(kept: Array, weights: Array | None, levels: Sequence[float]) -> list[float]:
    """As `weighted_quantiles`, of numbers."""
    if not len(kept):
        return [math.nan] * len(levels)
    found: list[float]
    if weights is None:
        places = [max(math.ceil(level * len(kept)) - 1, 0) for level in levels]
        found = np.partition(kept, places)[places].tolist()
        return found
    order = _order(kept)
    reached = weights[order].cumsum()
    places = reached.searchsorted([level * reached[-1] for level in levels]).tolist()
    found = kept[order[[min(place, len(kept) - 1) for place in places]]].tolist()
    return found


def _order(values: Array) -> Array:
    """[n] int64: the places of normal numbers and 0 from the smallest on; those equal to 2^-30 stand in any order.

    Numbers that are not below 0 are ordered as their bits are: with their places for the last bits they are sorted in
    one go, in half of the time.
    """
    low = (1 << len(values).bit_length()) - 1
    if low >> 22 or not values.min() >= 0.0:
        return values.argsort()
    packed = (values.view(np.int64) & ~low) | np.arange(len(values))
    packed.sort()
    return packed & low


def _shares(e: Elements) -> _Shares:
    yield from _of_the_states(e)
    update = None if e.update is None else e.update.numpy()
    size = None
    if update is not None:
        size = np.abs(update)
        bad: _Column = _NONE
        if not math.isfinite(size.sum()):
            bad = ~np.isfinite(update)
            size = np.where(bad, 0.0, size)
        yield "nonfinite_update", (bad, _ALL)
    if e.r is not None:
        yield from _of_the_root(e, e.r, update, size)
    if e.v is not None:
        yield from _of_the_moment(e, e.v)
    if e.params is not None and size is not None and not e.update_is_typical:
        moved = size > 0
        yield "update_lost", (moved & (size < e.half_ulp(e.params, "param").numpy()), moved)
    if e.grads is not None:
        grads = np.abs(e.grads.numpy())
        some = grads != 0
        yield "grad_zero", (~some, _ALL)
        scaled = grads if e.backward_scale == 1.0 else grads * e.backward_scale
        yield "fp16_underflow", (some & (scaled < HALF_NORMAL), some)


def _of_the_states(e: Elements) -> _Shares:
    bad: _Column = _NONE
    negative: _Column = _NONE
    for kept in e.algorithm.states:
        if kept.name not in e.states:
            continue
        array = e.states[kept.name].numpy()
        # Finite numbers of 32 bits have a finite sum in 64.
        if not math.isfinite(array.sum()):
            bad = ~np.isfinite(array) | (False if isinstance(bad, str) else bad)
        if kept.degree == 2 and not array.min() >= 0:  # a NaN hides the smallest
            below = array < 0
            negative = below | (False if isinstance(negative, str) else negative)
    yield "nonfinite_state", (bad, _ALL)
    if not isinstance(negative, str) and negative.any():
        yield "v_negative", (negative, _ALL)


def _of_the_moment(e: Elements, moment: Tensor) -> _Shares:
    v = moment.numpy()
    positive = v > 0
    small = v < e.layers.of("state", "smallest_normal")
    yield "v_subnormal", (positive & small if small.any() else _NONE, _ALL)
    if e.v_before is not None:
        before = e.v_before.numpy()
        seen = positive | (before > 0)
        yield "v_unchanged", (seen & (v == before), seen)
    elif steps.memory(e.hyper) and settled(e):
        yield "v_stall", (_stalls(e, moment), positive)


def _stalls(e: Elements, v: Tensor) -> Array:
    """[n]: probability that v stays as it is when a gradient of N(0, v) is averaged in with one rounding; 0 where v is.

    v moves by (1 - beta2)(g² - v), which is lost below half an ulp: |g²/v - 1| < x with x = half ulp / (v (1 - beta2)).
    """
    alive = (v > 0) & v.isfinite()
    some = torch.where(alive, v, 1.0)
    x = e.half_ulp(some, "state") / some * steps.memory(e.hyper)
    within = torch.erf(torch.sqrt((1 + x) / 2)) - torch.erf(torch.sqrt((1 - x).clamp(min=0) / 2))
    return torch.where(alive, within, 0.0).numpy()


def _of_the_root(e: Elements, root: Tensor, update: Array | None, size: Array | None) -> _Shares:
    r = root.numpy()
    alive = r > 0
    negative = np.isnan(r) if math.isnan(r.sum()) else None
    if getattr(e.hyper, "centered", False):
        broken = _NONE if negative is None else negative & np.isfinite(e.states["square_avg"].numpy())
        yield "root_negative", (broken, _ALL)
    if e.eps is not None:
        yield "eps_absorbed", (r >= _absorbing(e, e.eps), alive)
        if size is not None:
            whole = size if negative is None else np.where(negative, 0.0, size)
            if negative is None and e.eps > 0:
                yield "rho", (whole * steps.eps_part(r, e.eps), whole)
            else:
                yield "rho", (steps.decided_by_eps(torch.from_numpy(whole), root, e.eps).numpy(), whole)
    if update is not None and size is not None and not e.update_is_typical:
        if negative is None and alive.all():
            yield "v_zero_still", (_NONE, _ALL)
            yield "v_zero_moving", (_NONE, _ALL)
            yield "v_zero_update", (_NONE, size)
            return
        empty = r == 0
        # 0 / 0 is NaN: nothing was to be moved.
        still = (update == 0) | np.isnan(update)
        yield "v_zero_still", (empty & still, _ALL)
        yield "v_zero_moving", (empty & ~still, _ALL)
        yield "v_zero_update", (np.where(empty, size, 0.0), size)


def _absorbing(e: Elements, eps: float) -> float | Array:
    """The smallest root that eps is lost beside, in the format of each layer."""
    of = e.layers.of
    bits, smallest = of("compute", "significant_bits"), of("compute", "smallest")
    if isinstance(bits, np.ndarray) or isinstance(smallest, np.ndarray):
        several: Array = np.vectorize(absorbs_from, otypes=[np.float64])(eps, bits, smallest)
        return several
    return absorbs_from(eps, bits, smallest)


def _quantiles(e: Elements) -> dict[str, float]:
    if e.r is None or e.eps is None or not settled(e):
        return {}
    r, weights = e.r.numpy(), None if e.layers.weights is None else e.layers.weights.numpy()
    alive = r > 0
    if not alive.all():
        r, weights = r[alive], None if weights is None else weights[alive]
    found = _quantiles_of(e.eps / r, weights, QUANTILES)
    return {name: value for name, value in zip(_QUANTILES, found, strict=True) if not math.isnan(value)}


_QUANTILES: Final = tuple(f"eps_over_r_q{round(100 * level):02d}" for level in QUANTILES)


def _quotients_by_row(names: Sequence[str], sums: Array) -> tuple[dict[str, float], ...]:
    """As `_quotients`, of every row."""
    part, whole = sums[:, ::2], sums[:, 1::2]
    there = whole > 0
    found = np.divide(part, whole, out=np.zeros_like(part), where=there).tolist()
    if there.all():
        return tuple(dict(zip(names, row, strict=True)) for row in found)
    return tuple(
        {name: value for name, value, known in zip(names, row, row_there, strict=True) if known}
        for row, row_there in zip(found, there.tolist(), strict=True)
    )


def _quotients(names: Sequence[str], sums: Sequence[float]) -> dict[str, float]:
    pairs = zip(names, sums[::2], sums[1::2], strict=True)
    return {name: part / whole for name, part, whole in pairs if whole > 0}
