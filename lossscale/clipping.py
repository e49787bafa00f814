"""Clipping of the gradient's norm with an eps that follows the loss scale."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    eps: float = 1e-6,
) -> Tensor:
    """Clips the norm of all gradients together, in place: ``g *= min(1, max_norm / (norm + eps))``.

    Bit-identical to ``torch.nn.utils.clip_grad_norm_`` with the default eps, a constant there. Both max_norm and eps
    are of degree 1: with the loss multiplied by s and both multiplied by s too, the clipped gradients are s times what
    they were, in every bit where s is a power of two and nothing under- or overflows.

    Args:
        parameters: whose gradients are clipped; those without one are passed over.
        max_norm: the largest norm that is let through, in units of the gradient.
        norm_type: of the p-norm, ``math.inf`` for the largest magnitude.
        error_if_nonfinite: whether a norm that is infinite or NaN raises.
        foreach: torch's choice of implementation: None, or False for one tensor after the other. The same bits.
        eps: added to the norm before the division, in units of the gradient.

    Returns:
        The norm of the gradients before they were clipped, of no dimension.

    Raises:
        ValueError: eps is negative or not finite.
        RuntimeError: as torch's function.
    """
    import torch

    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps {eps!r}: must be finite and at least 0; give torch's 1e-6, times s for a loss times s")
    several = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    grads = [p.grad for p in several if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads, norm_type, error_if_nonfinite, foreach)
    with torch.no_grad():
        factor = torch.clamp(float(max_norm) / (norm + eps), max=1.0)
        alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for grad in grads:
            alike.setdefault((grad.device, grad.dtype), []).append(grad)
        for (device, _), tensors in alike.items():
            there = factor.to(device)
            if foreach is False:
                for tensor in tensors:
                    tensor.mul_(there)
            else:
                torch._foreach_mul_(tensors, there)
    return norm
