"""Closed forms for what a scaled loss does to an optimizer whose eps was left alone.

Notation, used in every docstring here: g gradient, m and v its first and second moment, ``r = sqrt(v_hat)``, ``delta
= eps / r``, ``u = m_hat / (r + eps)`` the step direction, s the factor on the loss. Multiplying the loss by s
multiplies g and m by s and v by s**2, so the direction becomes ``s * m_hat / (s * r + eps) = m_hat / (r + eps / s)``
(Kingma & Ba 2015, section 2.1, with eps kept).

Scalars and numpy arrays go through plain arithmetic; the functions on tensors compute in float64 whatever they are
given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ARITHMETIC: Final = 5e-7
"""Relative error of one float32 step direction against the closed form: about eight roundings of at most 2**-24."""


@dataclass(frozen=True, kw_only=True)
class Absorption:
    """Where ``fl(r + eps) == r``, as bounds on ``eps / r``; in between, r's place in its binade decides."""

    invisible_below: float
    visible_above: float


def update_ratio(delta: float, scale: float) -> float:
    """Step direction under loss * scale over the one under the loss: ``(1 + delta) / (1 + delta / s)``.

    From ``m_hat / (r + eps / s)`` over ``m_hat / (r + eps)``. It is 1 at eps = 0, saturates at ``1 + delta`` for
    large s and falls like ``s / delta`` for small s (there Adam has become momentum SGD with step ``lr * s / eps``).

    Args:
        delta: eps / r, at least 0; ``math.inf`` stands for r = 0, where the ratio is s.
        scale: the factor s on the loss, greater than 0.
    """
    if math.isinf(delta):
        return scale
    return (1.0 + delta) / (1.0 + delta / scale)


def relative_change(delta: float, scale: float) -> float:
    """How much longer the step becomes, ``update_ratio - 1 = eps (s - 1) / (s r + eps)``.

    For small delta that is about ``delta (1 - 1 / s)``.
    """
    if math.isinf(delta):
        return scale - 1.0
    return delta * (scale - 1.0) / (scale + delta)


def knee(delta: float) -> float:
    """The scale at which ``s * r = eps``: the step is half the one without eps there, and shrinks with s below."""
    return delta


def absorption(dtype: str) -> Absorption:
    """When adding eps to r changes nothing in `dtype` (``fp32``, ``fp16``, ``bf16``; rounding after every operation).

    With p significant bits the spacing at r lies between ``2**(1-p) * r / 2`` (r just under a power of two) and
    ``2**(1-p) * r``, and eps vanishes up to half of it: never visible if ``eps / r < 2**-(p+1)``, always visible if
    ``eps / r > 2**-p``. Fused kernels compute in float32 whatever they store: use ``fp32`` for them.

    Raises:
        ValueError: for an unknown dtype.
    """
    from kernels import DTYPES

    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown: use one of {', '.join(DTYPES)}")
    bits = DTYPES[dtype].significant_bits
    return Absorption(invisible_below=2.0 ** -(bits + 1), visible_above=2.0**-bits)


def predicted_update_norm_ratio(
    updates: Tensor,
    r: Tensor,
    eps: Tensor,
    scale: Tensor,
    *,
    decay: Tensor | None = None,
    norm: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Norm of the whole update under loss * scale over the norm under the loss, from the elements of the unscaled run.

    Element i of the scaled update is ``updates[i] * (1 + delta_i) / (1 + delta_i / s)`` (`update_ratio`); the norms
    are taken over elements with different delta_i, so the ratio needs them all. True for the first step only: later
    the two runs stand elsewhere.

    Args:
        updates: [models, n], the unscaled run's parameter change, learning rate included.
        r: [models, n], sqrt of the bias-corrected second moment of the unscaled run.
        eps: [models, 1].
        scale: [models, 1].
        decay: [models, n], the part of `updates` that does not depend on the loss (decoupled weight decay,
            ``-lr * weight_decay * p``).
        norm: Euclidean norm over the last dimension, by default torch's.

    Returns:
        [models], float64.
    """
    base = updates.double()
    predicted, _ = _scaled_updates(base, r, eps, scale, decay)
    length = norm or _norm
    return length(predicted) / length(base)


def update_norm_ratio_tolerance(
    updates: Tensor,
    params: Tensor,
    arm_params: Tensor,
    r: Tensor,
    eps: Tensor,
    scale: Tensor,
    *,
    grads: Tensor,
    arm_grads: Tensor,
    decay: Tensor | None = None,
    norm: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Bound on ``|measured / predicted - 1|`` of the update-norm ratio when an update is measured as ``p1 - p0``.

    Each stored p1 is rounded: it is off by at most ``e = ulp(p1) / 2`` (twice that with decoupled decay, which rounds
    p once more). Measured over predicted is ``|u_S + e_S| / |w (u + e)|`` with w the per-element closed form, so the
    triangle inequality bounds the deviation by ``(|e_S| + |w e|) / |w (u + e)|``, plus `ARITHMETIC` for the roundings
    of the direction itself. Elements without a gradient (r = 0) get the same bits in both runs and drop out.

    The scaled run's gradient is ``s g (1 + rho)`` and not s g where s is no power of two: backpropagation rounds
    differently, and a sum that cancels can leave any rho. With eps fixed the first direction is ``u = g / (|g| + e)``,
    so ``du/u = e / (|g| + e) dg/g`` with e = eps / s in units of the unscaled run. Without linearizing, rho multiplies
    an element's update by ``(1 + rho) (r + e) / (|1 + rho| r + e)``; its distance from 1, times that element of w u, is
    one more term of the bound. rho is measured, and 0 for s = 2**k. Where g cancelled to 0 in one run alone nothing
    is predicted, and all that the scaled run moved there counts.

    A worst case: typical deviations are sqrt(n) times smaller.

    Args:
        updates: as in `predicted_update_norm_ratio`.
        params: [models, n], float32, the unscaled run's parameters after the step.
        arm_params: [models, n], float32, the scaled run's parameters after the step.
        r: as in `predicted_update_norm_ratio`.
        eps: as in `predicted_update_norm_ratio`.
        scale: as in `predicted_update_norm_ratio`.
        grads: [models, n], the gradients that the unscaled run's optimizer saw.
        arm_grads: [models, n], those that the scaled run's saw.
        decay: as in `predicted_update_norm_ratio`.
        norm: as in `predicted_update_norm_ratio`.

    Returns:
        [models], float64, relative; infinite where the predicted update is 0.
    """
    predicted, ratio = _scaled_updates(updates.double(), r, eps, scale, decay)
    length = norm or _norm
    roundings = 1.0 if decay is None else 2.0
    alive = (r > 0).double()
    rounding = length(_half_ulp(arm_params) * alive) + length(ratio * _half_ulp(params) * alive)
    moved = arm_params.double() - (params.double() - updates.double())
    if decay is not None:
        predicted_by_loss, moved = predicted - decay.double(), moved - decay.double()
    else:
        predicted_by_loss = predicted
    gradients = length(_gradient_deviation(predicted_by_loss, moved, r, eps, scale, grads, arm_grads))
    return (roundings * rounding + gradients) / length(predicted) + ARITHMETIC


def _gradient_deviation(
    predicted: Tensor, moved: Tensor, r: Tensor, eps: Tensor, scale: Tensor, grads: Tensor, arm_grads: Tensor
) -> Tensor:
    """[models, n], float64: how far each element's update is off because the scaled run's gradient is not s·g."""
    import torch

    expected, seen, root, e = grads.double() * scale.double(), arm_grads.double(), r.double(), eps.double() / scale
    factor = torch.where(expected != 0, seen / expected, torch.ones_like(seen))  # 1 + rho
    denominator = factor.abs() * root + e
    off = torch.where(denominator > 0, (factor * (root + e) - denominator) / denominator, torch.zeros_like(root))
    return torch.where((expected == 0) & (seen != 0), moved, predicted * off)


def _scaled_updates(base: Tensor, r: Tensor, eps: Tensor, scale: Tensor, decay: Tensor | None) -> tuple[Tensor, Tensor]:
    """[models, n] predicted update of the scaled run and the element-wise closed form, both float64."""
    import torch

    root, eps64, scale64 = r.double(), eps.double(), scale.double()
    # (r + eps) / (r + eps / s) is the closed form without a division by r; where both are 0 nothing is to be scaled.
    denominator = root + eps64 / scale64
    ratio = torch.where(denominator > 0, (root + eps64) / denominator, torch.ones_like(root))
    if decay is None:
        return base * ratio, ratio
    return decay.double() + (base - decay.double()) * torch.where(root > 0, ratio, torch.ones_like(root)), ratio


def _half_ulp(params: Tensor) -> Tensor:
    """[models, n], float64: half the spacing of float32 numbers at each parameter."""
    from kernels import DTYPES

    from .diagnose.rounding import half_ulp

    return half_ulp(params.double(), DTYPES["fp32"].significant_bits, DTYPES["fp32"].smallest)


def _norm(rows: Tensor) -> Tensor:
    """[models], the Euclidean norm of each row."""
    return rows.square().sum(dim=-1).sqrt()
