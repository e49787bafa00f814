"""The root that divides a step with eps, the update that it takes, and the share of the update that eps decides.

Notation: r is the root of the second moment as it divides (bias-corrected; of the largest one under AMSGrad), u the
update, delta = eps / r.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kernels import Algorithm


def root(algorithm: Algorithm, states: Mapping[str, Tensor], hyper: Any, step: float | Tensor) -> Tensor | None:
    """The root r in float64, of the states' shape; None without one.

    NaN where a centered second moment rounded below 0.

    Args:
        algorithm: from the registry.
        states: by torch's names, after the step.
        hyper: the algorithm's record.
        step: how many steps they have seen; a tensor broadcasts against the states.
    """
    if algorithm.denominator is None:
        return None
    return algorithm.denominator({name: state.double() for name, state in states.items()}, hyper, step)


def update(
    algorithm: Algorithm,
    states: Mapping[str, Tensor],
    hyper: Any,
    step: float | Tensor,
    *,
    grads: Tensor | None = None,
    params: Tensor | None = None,
) -> Tensor | None:
    """The parameters' change by this step in float64, before it is rounded and without decoupled decay.

    Args:
        algorithm: from the registry.
        states: by torch's names, after the step.
        hyper: the algorithm's record.
        step: how many steps they have seen.
        grads: of the loss, not scaled; None if they are not known.
        params: before the step, for L2 decay; None leaves it out.

    Returns:
        None where the algorithm has no such function, or needs gradients and there are none.
    """
    if algorithm.update is None:
        return None
    seen = None if grads is None else _as_seen(algorithm, hyper, grads.double(), params)
    return algorithm.update({name: state.double() for name, state in states.items()}, seen, hyper, step)


def _as_seen(algorithm: Algorithm, hyper: Any, grads: Tensor, params: Tensor | None) -> Tensor:
    """The gradient as the rule takes it up."""
    if getattr(hyper, "maximize", False):
        grads = -grads
    coupled = algorithm.degrees_of(hyper).get("weight_decay", 0) == 1
    if coupled and params is not None:
        grads = grads + hyper.weight_decay * params.double()
    return grads


def eps_over_r(r: Tensor, eps: float | Tensor) -> Tensor:
    """The quotient eps / r; NaN where r is 0."""
    return torch.where(r > 0, eps / r, torch.nan)


def decided_by_eps(updates: Tensor, r: Tensor, eps: float | Tensor) -> Tensor:
    """|u| · eps / (r + eps), elementwise: how much of each update's size eps decides.

    Summed over elements and divided by the sum of |u| it is rho, the share of the update that eps decides; rho is also
    the exponent d log sum|u| / d log s with which the update follows the loss scale (0: not at all, 1: like SGD).
    """
    return torch.where(r + eps > 0, updates.abs() * eps_part(r, eps), 0.0)


def eps_part(r: Any, eps: Any) -> Any:
    """The part eps / (r + eps) that eps has in what divides an update; of tensors, arrays and numbers."""
    return eps / (r + eps)


def eps_share(updates: Tensor, r: Tensor, eps: float | Tensor, dim: int = -1) -> Tensor:
    """Of one dimension, rho; NaN where nothing is updated."""
    return decided_by_eps(updates, r, eps).sum(dim) / updates.abs().sum(dim)


def memory(hyper: Any) -> float:
    """Over how many steps the second moment averages, 1 / (1 - beta2); 0 where it does not forget."""
    betas = getattr(hyper, "betas", None)
    decay = float(betas[1]) if betas is not None else float(getattr(hyper, "alpha", 0.0))
    return 1.0 / (1.0 - decay) if decay else 0.0
