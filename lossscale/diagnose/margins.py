"""How far a group's states stand from the borders of their formats, in binades, and from where eps takes over."""

from __future__ import annotations

import math

import torch

from . import steps
from .elements import Elements
from .numbers import weighted_quantiles

_NEAR, _FAR = 0.01, 0.99
_BISECTIONS = 60
_LARGEST_EXPONENT = 200.0


def eps_for_share(e: Elements, share: float) -> float | None:
    """The eps at which it would decide this share of the update, by the states as they are; None where none would.

    Args:
        e: elements with a root and an update.
        share: between 0 and 1.
    """
    if e.r is None or e.update is None or not e.eps:
        return None
    there = e.update.isfinite() & (e.r > 0)
    r = e.r[there]
    # What the root divides: the update without its own eps.
    divided = e.update[there].abs() * (r + e.eps) * e.weights[there]
    if not bool((divided > 0).any()):
        return None
    low, high = -_LARGEST_EXPONENT, _LARGEST_EXPONENT
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        eps = 2.0**middle
        found = float(steps.eps_share(divided / (r + eps), r, eps))
        low, high = (middle, high) if found < share else (low, middle)
    return float(2.0**low)


def margins(e: Elements) -> dict[str, tuple[float, str]]:
    """Distances in binades with the quantile that each is of; negative ones are beyond the border.

    ``loss_down`` and ``loss_up`` say by which powers of two the loss may still be divided or multiplied.
    """
    found: dict[str, tuple[float, str]] = {}
    half = eps_for_share(e, 0.5)
    if half is not None and e.eps:
        found["eps_below_half"] = (math.log2(half / e.eps), "of rho = 1/2, all updates weighed")
    v = e.v
    if v is None:
        return found
    alive = torch.where((v > 0) & v.isfinite(), v, torch.nan).numpy()
    normal = e.layers.of("state", "smallest_normal")
    largest = e.layers.of("state", "largest")
    low = weighted_quantiles(alive / normal, e.layers.weights, (_NEAR,))[0]
    high = weighted_quantiles(alive / largest, e.layers.weights, (_FAR,))[0]
    if not math.isnan(low):
        found["v_above_subnormal"] = (math.log2(low), "1% quantile of v > 0")
        found["v_below_overflow"] = (-math.log2(high), "99% quantile of v > 0")
        found["loss_down"] = (math.log2(low) / 2, "1% quantile of v > 0 turns subnormal")
        found["loss_up"] = (-math.log2(high) / 2, "99% quantile of v > 0 overflows")
    return found
