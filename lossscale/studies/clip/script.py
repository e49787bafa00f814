"""torch's clip_grad_norm_ on real gradients under scaled losses, and networks that train with clipping on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from kernels import bits, get_algorithm

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.arms import FLOOR as FLOOR_ARM
from ...design.claims import EPS_FREE, NULL
from ...design.study import StudyContext
from ...engines.stepwise import Arms
from ...engines.threads import one_thread
from ...models.networks import Network, get_network
from ...runs.controls import pair_lines
from ...runs.summary import write_lines
from . import BY_VALUE, ERROR, EXACT, HIDDEN, LARGE, MAPPED_EPS, TRAINED

TORCH_EPS: Final = 1e-6
"""What torch's clip_grad_norm_ adds to the norm."""
NORMS: Final = (1e-3, 1e-2, 1e-1)
"""Norms at which the error of the fixed 1e-6 is far over the rounding of float32."""
SCALES: Final = (2.0**-8, 2.0**-4, 2.0**-1, 2.0, 2.0**4, 2.0**8)
_STEPS: Final = 200
_MAX_NORM: Final = 2.0**-8
"""Far below the network's gradient norm at first: nearly every step is clipped."""


def execute(context: StudyContext) -> None:
    """Clip single gradients and train networks; write summary.csv."""
    lines = Lines(context.study)
    network = get_network("mlp-6-6-1")
    inits = range(128 if context.quick else 1024)
    with one_thread():
        gradients = _gradients(network, context.seed, inits)
        _gradient_lines(lines, network, gradients)
        for name in ("sgd", "adam", "adam_atan2"):
            _trained_lines(lines, network, name, context, inits)
    write_lines(context.run, lines.frame().drop_duplicates())


def _gradients(network: Network, seed: int, inits: Sequence[int]) -> Tensor:
    """[inits, n] float32: each network's first gradient."""
    params = network.initial(seed, inits)
    grads = torch.empty_like(params)
    stream = network.stream(seed=seed, inits=inits, device=params.device)
    network.gradients(params, stream.batch(1), torch.ones(len(params)), grads)
    return grads


def parts_of(network: Network) -> list[slice]:
    """The network's parameter tensors: weight and bias of every layer."""
    return [part for layer in network.layers for part in (layer.weight, layer.bias)]


def torch_clipped(grads: Tensor, parts: Sequence[slice], max_norm: float) -> Tensor:
    """[models, n]: each row clipped by torch.nn.utils.clip_grad_norm_, as a model of these tensors."""
    out = torch.empty_like(grads)
    for place, row in enumerate(grads):
        tensors = [torch.nn.Parameter(torch.empty(row[part].shape)) for part in parts]
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.grad = row[part].clone()
        torch.nn.utils.clip_grad_norm_(tensors, max_norm)
        out[place] = torch.cat([tensor.grad for tensor in tensors if tensor.grad is not None])
    return out


def clipped(grads: Tensor, parts: Sequence[slice], max_norm: Tensor, eps: Tensor) -> Tensor:
    """[models, n]: each row clipped to its own norm, with its own constant in the place of torch's 1e-6.

    The arithmetic of `torch.nn.utils.clip_grad_norm_`: the norm of the tensors' norms, then max_norm times the
    reciprocal of (norm + eps), at most 1.

    Args:
        grads: [models, n] float32.
        parts: columns of each tensor.
        max_norm: [models] float32.
        eps: [models] float32.
    """
    norms = torch.stack([torch.linalg.vector_norm(grads[:, part], dim=1) for part in parts], dim=1)
    total = torch.linalg.vector_norm(norms, dim=1)
    return grads * torch.clamp((total + eps).reciprocal() * max_norm, max=1.0).unsqueeze(1)


def _clipped_by_value(grads: Tensor, limit: float) -> Tensor:
    """[models, n]: clipped by torch.nn.utils.clip_grad_value_, element by element."""
    tensor = torch.nn.Parameter(torch.empty_like(grads))
    tensor.grad = grads.clone()
    torch.nn.utils.clip_grad_value_([tensor], limit)
    return tensor.grad


def _gradient_lines(lines: Lines, network: Network, grads: Tensor) -> None:
    parts, models = parts_of(network), len(grads)
    norms = torch.linalg.vector_norm(grads, dim=1, keepdim=True)
    cell: dict[str, Any] = {"network": network.name, "step": 1}
    for norm in (*NORMS, 1.0, 80.0):
        base = grads * (norm / norms)
        limit = min(norm, 1.0) / 4
        plain = torch_clipped(base, parts, limit)
        for scale in SCALES:
            here = {**cell, "arm": "clip", "against": "base", "scale": scale, "options": f"norm={norm:g}"}
            back = torch_clipped(base * scale, parts, limit * scale) / scale
            if norm in NORMS:
                predicted = TORCH_EPS * abs(1 - 1 / scale) / norm
                error = Measured.median(_apart(back, plain))
                lines.add("rel_error", error, ERROR, predicted=predicted, **here)
                exact = predicted * norm / (norm + TORCH_EPS / scale)
                lines.add("rel_error_exact_form", error, EXACT, predicted=exact, **here)
            elif norm * min(scale, 1.0) >= 32:
                lines.add("identical_share", _share_same(back, plain), LARGE, **here)
            if norm * min(scale, 1.0) >= 1.0:
                alone = torch_clipped(base * scale, parts, limit)
                largest = Measured(value=float(_apart(alone, plain).max()), count=models)
                lines.add("largest_rel_error_unmapped_max_norm", largest, HIDDEN, **here)
            same = _share_same(_clipped_by_value(base * scale, limit * scale) / scale, _clipped_by_value(base, limit))
            lines.add("identical_share", same, BY_VALUE, **{**here, "arm": "clip-value"})
            ones = torch.ones(models)
            own = clipped(base * scale, parts, limit * scale * ones, TORCH_EPS * scale * ones) / scale
            mine = clipped(base, parts, limit * ones, TORCH_EPS * ones)
            here["arm"] = "clip-eps-mapped"
            lines.add("identical_share", _share_same(own, mine), MAPPED_EPS, **here)
        same = _share_same(clipped(base, parts, limit * torch.ones(models), TORCH_EPS * torch.ones(models)), plain)
        lines.add("as_torch_share", same, **cell, arm="clip", against="torch", options=f"norm={norm:g}")


def _share_same(a: Tensor, b: Tensor) -> Measured:
    return Measured.share(int((~bits.mismatch_mask(a, b)).all(1).sum()), len(a))


def _apart(a: Tensor, b: Tensor) -> Any:
    """[models] float64: |a − b| / |b|."""
    difference = torch.linalg.vector_norm(a.double() - b.double(), dim=1)
    return (difference / torch.linalg.vector_norm(b.double(), dim=1)).numpy()


_ARMS: Final = ("base", "null", "mapped but clipping’s 1e-6", "mapped", "max_norm left alone", "ulp", "floor")


def _trained_lines(lines: Lines, network: Network, name: str, context: StudyContext, inits: Sequence[int]) -> None:
    """Clipped training under L and 2^k · L."""
    algorithm, device = get_algorithm(name), torch.device(context.device)
    base = algorithm.hyperparameters(lr=0.01)
    parts = parts_of(network)
    for scale in (1 / 16, 16.0):
        factors = [1.0, 1.0, scale, scale, scale, 1.0, FLOOR_ARM.at]
        records = [algorithm.rescale(base, factor) for factor in factors]
        if name == "sgd":  # clipped to one norm, the gradient has lost its scale, and lr has none to follow
            records[4] = base
        arms = Arms(
            network,
            name,
            records,
            stream=network.stream(seed=context.seed, inits=inits, device=device),
            seed=context.seed,
            inits=inits,
            device=device,
            backend=context.backend,
            moved_by_one_ulp=[_ARMS.index("ulp")],
        )
        limits = torch.tensor([_MAX_NORM * factor for factor in (*factors[:4], 1.0, *factors[5:])], device=device)
        eps = torch.tensor([TORCH_EPS * factor for factor in (1.0, 1.0, 1.0, scale, 1.0, *factors[5:])], device=device)
        limits, eps = limits.repeat(len(inits)), eps.repeat(len(inits))
        active = 0
        for step in range(1, _STEPS + 1):
            grads = arms.gradients(step, factors)
            active += int((torch.linalg.vector_norm(arms.of(0, grads), dim=1) > _MAX_NORM).sum())
            arms.population.step(clipped(grads, parts, limits, eps))
        cell: dict[str, Any] = {"network": network.name, "optimizer": name, "step": _STEPS}
        cell["recipe"] = algorithm.default_recipe
        share = Measured.share(active, _STEPS * len(inits))
        lines.add("clipped_share", share, **cell, arm="base")
        claims = {"null": NULL, "mapped": EPS_FREE if name == "adam_atan2" else TRAINED}
        for place, arm in enumerate(_ARMS):
            if place:
                pair_lines(lines, arms, place, claims.get(arm), arm=arm, scale=factors[place], **cell)
