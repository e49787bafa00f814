"""What is counted over the elements of a group, in all and layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from . import steps
from .elements import Elements

Array = np.ndarray
"""Counting is numpy's: its calls cost a fraction of torch's on few elements, and a probe lives on that."""

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


def count(elements: Elements) -> Numbers:
    """The numbers of a group's elements."""
    shares = dict(_shares(elements))
    names = list(shares)
    sums = _sums(elements, [part for pair in shares.values() for part in pair])
    group = _quotients(names, sums.sum(0).tolist())
    group.update(_quantiles(elements))
    decay = decoupled_decay(elements)
    if decay:
        group["decay_per_step"] = decay
    return Numbers(
        group={name: group[name] for name in MEANING if name in group},
        layers=tuple(_quotients(names, row) for row in sums.tolist()),
    )


def _sums(elements: Elements, columns: Sequence[Array]) -> Array:
    """[layers, columns] float64: each layer's sum of each column, for all of the layer's elements."""
    starts = np.cumsum([0, *(layer.count for layer in elements.layers[:-1])])
    known: dict[int, Array] = {}
    for column in columns:
        if id(column) not in known:
            known[id(column)] = np.add.reduceat(column, starts, dtype=np.float64)
    weights = np.array([layer.size / layer.count for layer in elements.layers])
    found: Array = np.stack([known[id(column)] for column in columns], 1) * weights[:, None]
    return found


def decoupled_decay(elements: Elements) -> float:
    """Lr · weight_decay where the decay does not pass through the gradient, else 0."""
    coupled = elements.algorithm.degrees_of(elements.hyper).get("weight_decay") != 0
    return 0.0 if coupled else float(elements.hyper.lr) * float(elements.hyper.weight_decay)


def settled(elements: Elements) -> bool:
    """Whether the second moment has seen as many steps as it remembers; before that its quantiles say little."""
    fewest = elements.step.min().item() if isinstance(elements.step, Tensor) else elements.step
    return fewest > steps.memory(elements.hyper)


def weighted_quantiles(values: Array, weights: Array, levels: Sequence[float]) -> list[float]:
    """Values below which these shares of the weight lie; NaN without values.

    Args:
        values: [n] float64, NaN where there is none.
        weights: [n] float64.
        levels: from 0 to 1.
    """
    there = ~np.isnan(values)
    kept = values[there]
    if not len(kept):
        return [math.nan] * len(levels)
    order = np.argsort(kept)
    reached = weights[there][order].cumsum()
    places = np.searchsorted(reached, np.array(levels) * reached[-1]).clip(max=len(kept) - 1)
    found: list[float] = kept[order][places].tolist()
    return found


def _shares(e: Elements) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """Each share as the two columns whose sums are divided."""
    every = np.ones(e.count, dtype=bool)
    bad = np.zeros_like(every)
    for state in e.states.values():
        array = state.numpy()
        # Finite numbers of 32 bits have a finite sum in 64.
        if not math.isfinite(array.sum()):
            bad |= ~np.isfinite(array)
    yield "nonfinite_state", (bad, every)
    negative = np.zeros_like(every)
    for kept in e.algorithm.states:
        if kept.degree == 2 and kept.name in e.states:
            negative |= e.states[kept.name].numpy() < 0
    if negative.any():
        yield "v_negative", (negative, every)
    update = None if e.update is None else e.update.numpy()
    size = None
    if update is not None:
        finite = np.isfinite(update)
        size = np.where(finite, np.abs(update), 0.0)
        yield "nonfinite_update", (~finite, every)
    if e.r is not None:
        yield from _of_the_root(e, e.r, update, size)
    if e.v is not None:
        v = e.v.numpy()
        yield "v_subnormal", ((v > 0) & (v < e.per_layer(lambda layer: layer.state.smallest_normal)), every)
        if e.v_before is not None:
            before = e.v_before.numpy()
            seen = (v > 0) | (before > 0)
            yield "v_unchanged", (seen & (v == before), seen)
        elif steps.memory(e.hyper) and settled(e):
            yield "v_stall", (_stalls(e, e.v), v > 0)
    if e.params is not None and size is not None and not e.update_is_typical:
        moved = size > 0
        lost = moved & (size < e.half_ulp(e.params, lambda layer: layer.param).numpy())
        yield "update_lost", (lost, moved)
    if e.grads is not None:
        grads = e.grads.numpy()
        zero = grads == 0
        yield "grad_zero", (zero, every)
        yield "fp16_underflow", (~zero & (np.abs(grads) * e.backward_scale < HALF_NORMAL), ~zero)


def _stalls(e: Elements, v: Tensor) -> Array:
    """[n]: probability that v stays as it is when a gradient of N(0, v) is averaged in with one rounding; 0 where v is.

    v moves by (1 - beta2)(g² - v), which is lost below half an ulp: |g²/v - 1| < x with x = half ulp / (v (1 - beta2)).
    """
    alive = (v > 0) & v.isfinite()
    some = torch.where(alive, v, 1.0)
    x = e.half_ulp(some, lambda layer: layer.state) / some * steps.memory(e.hyper)
    within = torch.erf(torch.sqrt((1 + x) / 2)) - torch.erf(torch.sqrt((1 - x).clamp(min=0) / 2))
    return torch.where(alive, within, 0.0).numpy()


def _of_the_root(
    e: Elements, root: Tensor, update: Array | None, size: Array | None
) -> Iterator[tuple[str, tuple[Array, Array]]]:
    r = root.numpy()
    every = np.ones(e.count, dtype=bool)
    negative = np.isnan(r)
    if getattr(e.hyper, "centered", False):
        yield "root_negative", (negative & np.isfinite(e.states["square_avg"].numpy()), every)
    if e.eps is not None:
        alive = r > 0
        yield "eps_absorbed", (alive & (e.half_ulp(root, lambda layer: layer.compute).numpy() > e.eps), alive)
        if size is not None:
            whole = np.where(negative, 0.0, size) if negative.any() else size
            yield "rho", (steps.decided_by_eps(torch.from_numpy(whole), root, e.eps).numpy(), whole)
    if update is not None and size is not None and not e.update_is_typical:
        empty = r == 0
        # 0 / 0 is NaN: nothing was to be moved.
        still = (update == 0) | np.isnan(update)
        yield "v_zero_still", (empty & still, every)
        yield "v_zero_moving", (empty & ~still, every)
        yield "v_zero_update", (np.where(empty, size, 0.0), size)


def _quantiles(e: Elements) -> dict[str, float]:
    if e.r is None or e.eps is None or not settled(e):
        return {}
    found = weighted_quantiles(steps.eps_over_r(e.r, e.eps).numpy(), e.weights.numpy(), QUANTILES)
    named = ((f"eps_over_r_q{round(100 * level):02d}", value) for level, value in zip(QUANTILES, found, strict=True))
    return {name: value for name, value in named if not math.isnan(value)}


def _quotients(names: Sequence[str], sums: Sequence[float]) -> dict[str, float]:
    pairs = zip(names, sums[::2], sums[1::2], strict=True)
    return {name: part / whole for name, part, whole in pairs if whole > 0}
