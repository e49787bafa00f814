"""Clipping of the gradient's norm with an eps that follows the loss scale."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .support.arguments import real_number, shown, switch

if TYPE_CHECKING:
    from torch import Tensor


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float | str = 2.0,
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
        max_norm: the largest norm that is let through, in units of the gradient; at least 0, ``math.inf`` for all.
        norm_type: p of the p-norm, above 0; ``math.inf`` (or torch's ``'inf'``) for the largest magnitude.
        error_if_nonfinite: whether a norm that is infinite or NaN raises.
        foreach: torch's choice of implementation: None, or False for one tensor after the other. The same bits.
        eps: added to the norm before the division, in units of the gradient.

    Returns:
        The norm of the gradients before they were clipped, of no dimension.

    Raises:
        TypeError: an argument is of the wrong kind, or ``parameters`` holds something that is no tensor.
        ValueError: max_norm or eps is negative or NaN, eps is infinite, norm_type is not above 0, a gradient is sparse.
        RuntimeError: as torch's function.
    """
    import torch

    most = real_number("max_norm", max_norm, lambda x: x >= 0, "must be at least 0; give the largest norm, such as 1.0")
    must = "must be above 0; give the p of the norm, 2.0 or math.inf"
    order = math.inf if isinstance(norm_type, str) and norm_type == "inf" else norm_type
    p_norm = real_number("norm_type", order, lambda x: x > 0, must)
    must = "must be finite and at least 0; give torch's 1e-6, times s for a loss times s"
    added = real_number("eps", eps, lambda x: 0 <= x < math.inf, must)
    switch("error_if_nonfinite", error_if_nonfinite)
    switch("foreach", foreach, optional=True)
    grads = _grads(parameters)
    norm = torch.nn.utils.get_total_norm(grads, p_norm, error_if_nonfinite, foreach)
    with torch.no_grad():
        factor = torch.clamp(most / (norm + added), max=1.0)
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


def _grads(parameters: Any) -> list[Tensor]:
    """The gradients that there are.

    Raises:
        TypeError: it is neither a tensor nor an iterable of tensors.
        ValueError: a gradient is sparse.
    """
    import torch

    if isinstance(parameters, torch.Tensor):
        several = [parameters]
    elif isinstance(parameters, Iterable):
        several = list(parameters)
    else:
        raise TypeError(f"parameters {shown(parameters)}: must be a tensor or several; give model.parameters()")
    for item in several:
        if not isinstance(item, torch.Tensor):
            raise TypeError(f"parameters: must hold tensors, and one item is {shown(item)}; give model.parameters()")
    grads = [p.grad for p in several if p.grad is not None]
    if any(grad.layout != torch.strided for grad in grads):
        raise ValueError("parameters: the gradient of one is sparse, whose norm torch does not compute; leave it out")
    return grads
