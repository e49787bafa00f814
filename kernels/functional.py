"""One optimizer step as a function: in place, on lists of tensors, with no object to keep.

Every function takes ``params``, ``grads`` and one list per state tensor, all of equal length, and steps all of them in
one launch per (device, dtypes). It advances no counter: ``step`` is the number of this step, 1 for the first.

Shared arguments:
    params: float32, bfloat16 or float16 tensors of any shape; updated in place. None may share memory with another.
    grads: one per parameter, of its shape and device; float32, bfloat16 or float16. Written only with ``grad_scale``.
    states (named after torch's): one per parameter, of its shape and device, all of one dtype; updated in place.
        Zeros before the first step, but for Adagrad's ``sums``.
    step: number of this step, or one per parameter, as floats or a float32 tensor [parameters]. Recipes that read the
        step on the device (``fused`` Adam and Adagrad, capturable Adam) never wait for a CUDA tensor here.
    recipe: whose rounding; None for the algorithm's default, ``foreach``.
    backend: ``auto``, ``triton``, ``simd``, ``interpreter`` or ``reference``.
    grad_scale: float32 tensor of one element; gradients are unscaled first and written back.
    found_inf: float32 tensor of one element; nothing is changed where it is 1.
    copies: low-precision tensors that receive the updated parameters, rounded (``params`` are their master weights).

Tensors that are not dense, or not in their parameter's element order, go through a copy.

Errors of all functions: ValueError for lists of unequal length, shapes or devices that do not fit, parameters that
share memory, hyperparameters out of range, and unknown recipes or backends; TypeError for dtypes that the kernels do
not step; RuntimeError for sparse gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .algorithm import Algorithm, Recipe, get_algorithm
from .backends import resolve_backend, step_bucket
from .launch.buckets import Assembly, Member, assemble
from .launch.checks import check_apart, check_grad, check_param, check_state
from .rounding.powers import power_table

Step = float | Sequence[float] | Tensor


@torch.no_grad()
def step_(
    algorithm: str,
    hyperparameters: Any,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Mapping[str, Sequence[Tensor]],
    *,
    step: Step = 1.0,
    first: bool = False,
    recipe: str | None = None,
    backend: str = "auto",
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    copies: Sequence[Tensor] | None = None,
) -> None:
    """One step of any registered algorithm, in place; the named functions below are this one.

    Beside the module's shared arguments:

    - ``algorithm``: name in the registry.
    - ``hyperparameters``: its record, the same for all tensors.
    - ``states``: a list per state tensor that these hyperparameters keep, by torch's names.
    - ``first``: whether the states hold nothing yet: SGD's momentum then starts as the gradient, undampened.
    """
    record = get_algorithm(algorithm)
    chosen = record.recipe(recipe)
    names = record.state_names(hyperparameters)
    if set(states) != set(names):
        raise ValueError(
            f"states: {sorted(states)} given, these hyperparameters keep {sorted(names)}; give exactly those"
        )
    columns = {"params": params, "grads": grads, **states, **({} if copies is None else {"copies": copies})}
    for name, column in columns.items():
        if len(column) != len(params):
            raise ValueError(f"{name}: {len(column)} tensors for {len(params)} parameters; give one each")
    flags = record.flags(hyperparameters)
    members = [
        Member(param=p, grad=g, states=state, copy=None if copies is None else copies[k], flags=flags)
        for k, (p, g, state) in enumerate(zip(params, grads, _slots(record, states, len(params)), strict=True))
    ]
    for member in members:
        _check(member, record, backend)
    check_apart(params)
    counts = _counts(step, len(params))
    assemblies = list(assemble(members))
    for assembly in assemblies:
        assembly.check(scaled=grad_scale is not None)
    for assembly in assemblies:
        numbers = counts[assembly.positions] if isinstance(counts, Tensor) else counts
        rows, steps = _rows(record, chosen, hyperparameters, assembly, numbers, first)
        assembly.load()
        step_bucket(
            chosen,
            flags,
            assembly.bucket,
            rows=rows,
            steps=steps,
            powers=power_table(assembly.bucket.device).values,
            grad_scale=grad_scale,
            found_inf=found_inf,
            backend=backend,
        )
        assembly.store(scaled=grad_scale is not None)
    increment_version([*params, *(copies or ())])


def _slots(record: Algorithm, states: Mapping[str, Sequence[Tensor]], count: int) -> list[tuple[Tensor | None, ...]]:
    kept = [states.get(state.name) for state in record.states]
    columns = [*kept, *[None] * (3 - len(kept))]
    return [tuple(None if column is None else column[k] for column in columns) for k in range(count)]


def _check(member: Member, record: Algorithm, backend: str) -> None:
    check_param(member.param)
    resolve_backend(backend, member.param.device)
    check_grad(member.param, member.grad, f"{record.name}_")
    for state, tensor in zip(record.states, member.states, strict=False):
        if tensor is not None:
            check_state(member.param, state.name, tensor)
    if member.copy is not None:
        check_state(member.param, "copies", member.copy)


def _counts(step: Step, count: int) -> float | Tensor:
    """The step as one number, or as a float32 tensor [parameters]."""
    if isinstance(step, (int, float)):
        return float(step)
    steps = step if isinstance(step, Tensor) else torch.tensor(list(map(float, step)), dtype=torch.float32)
    steps = steps.to(torch.float32)
    if steps.numel() == 1:
        return steps.reshape(1).expand(count)
    if steps.shape != (count,):
        raise ValueError(f"step of shape {tuple(steps.shape)}: give one number, or one for each of {count} parameters")
    return steps


def _rows(
    record: Algorithm, recipe: Recipe, hyper: Any, assembly: Assembly, numbers: float | Tensor, first: bool
) -> tuple[Tensor, Tensor]:
    """The host scalars of a bucket on its device (with ``row_of`` set), and its steps."""
    bucket = assembly.bucket
    count, device = len(bucket.params), bucket.device
    powers = power_table(device)
    distinct, row_of = np.array([0.0]), np.zeros(count, np.int64)
    if record.step_in_row and not recipe.device_step:
        known = np.array([numbers]) if isinstance(numbers, float) else numbers.numpy(force=True)
        distinct, inverse = np.unique(known, return_inverse=True)
        row_of = np.broadcast_to(inverse, (count,)).astype(np.int64)
    bucket.row_of = row_of
    row = recipe.row_for(bucket.dtypes)
    rows = [row(hyper, float(number), first, powers) for number in distinct]
    if isinstance(numbers, float):
        steps = torch.full((count,), numbers, dtype=torch.float32, device=device)
    else:
        steps = numbers.to(device).contiguous()
    return torch.tensor(rows, dtype=torch.float64).to(device), steps


def sgd_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor] | None = None,
    *,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    first: bool = False,
    recipe: str | None = None,
    backend: str = "auto",
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    copies: Sequence[Tensor] | None = None,
) -> None:
    """One step of SGD, in place: bit-identical to torch.optim.SGD as the recipe says.

    Beside the module's shared arguments:

    - ``momentum_buffers``: the state; needed if and only if ``momentum`` is not 0.
    - ``lr``, ``momentum``, ``dampening``, ``weight_decay``, ``nesterov``, ``maximize``: as in torch.optim.SGD.
    - ``first``: the buffers hold nothing yet and start as the gradient, undampened (torch's first step).
    """
    hyper = get_algorithm("sgd").hyperparameters(
        lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov, maximize=maximize
    )
    states = _named(momentum_buffer=momentum_buffers)
    step_(
        "sgd", hyper, params, grads, states, first=first, recipe=recipe, backend=backend,
        grad_scale=grad_scale, found_inf=found_inf, copies=copies,
    )  # fmt: skip


def adam_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor] | None = None,
    *,
    step: Step,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    maximize: bool = False,
    recipe: str | None = None,
    backend: str = "auto",
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    copies: Sequence[Tensor] | None = None,
) -> None:
    """One step of Adam (L2 decay), in place: bit-identical to torch.optim.Adam as the recipe says.

    Beside the module's shared arguments:

    - ``exp_avgs``, ``exp_avg_sqs``: the states.
    - ``max_exp_avg_sqs``: a third one; needed if and only if ``amsgrad``.
    - ``lr``, ``betas``, ``eps``, ``weight_decay``, ``amsgrad``, ``maximize``: as in torch.optim.Adam.
    """
    hyper = get_algorithm("adam").hyperparameters(
        lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize
    )
    states = _named(exp_avg=exp_avgs, exp_avg_sq=exp_avg_sqs, max_exp_avg_sq=max_exp_avg_sqs)
    step_(
        "adam", hyper, params, grads, states, step=step, recipe=recipe, backend=backend,
        grad_scale=grad_scale, found_inf=found_inf, copies=copies,
    )  # fmt: skip


def adamw_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor] | None = None,
    *,
    step: Step,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    maximize: bool = False,
    recipe: str | None = None,
    backend: str = "auto",
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    copies: Sequence[Tensor] | None = None,
) -> None:
    """One step of AdamW (decoupled decay), in place: bit-identical to torch.optim.AdamW as the recipe says.

    Beside the module's shared arguments:

    - ``exp_avgs``, ``exp_avg_sqs``: the states.
    - ``max_exp_avg_sqs``: a third one; needed if and only if ``amsgrad``.
    - ``lr``, ``betas``, ``eps``, ``weight_decay``, ``amsgrad``, ``maximize``: as in torch.optim.AdamW.
    """
    hyper = get_algorithm("adamw").hyperparameters(
        lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize
    )
    states = _named(exp_avg=exp_avgs, exp_avg_sq=exp_avg_sqs, max_exp_avg_sq=max_exp_avg_sqs)
    step_(
        "adamw", hyper, params, grads, states, step=step, recipe=recipe, backend=backend,
        grad_scale=grad_scale, found_inf=found_inf, copies=copies,
    )  # fmt: skip


def rmsprop_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    square_avgs: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor] | None = None,
    grad_avgs: Sequence[Tensor] | None = None,
    *,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    maximize: bool = False,
    recipe: str | None = None,
    backend: str = "auto",
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    copies: Sequence[Tensor] | None = None,
) -> None:
    """One step of RMSprop, in place: bit-identical to torch.optim.RMSprop as the recipe says.

    Beside the module's shared arguments:

    - ``square_avgs``: the state.
    - ``momentum_buffers``: another one; needed if and only if ``momentum`` is above 0.
    - ``grad_avgs``: another one; needed if and only if ``centered``.
    - ``lr``, ``alpha``, ``eps``, ``weight_decay``, ``momentum``, ``centered``, ``maximize``: as in torch.optim.RMSprop.
    """
    hyper = get_algorithm("rmsprop").hyperparameters(
        lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum, centered=centered, maximize=maximize
    )
    states = _named(square_avg=square_avgs, momentum_buffer=momentum_buffers, grad_avg=grad_avgs)
    step_(
        "rmsprop", hyper, params, grads, states, recipe=recipe, backend=backend,
        grad_scale=grad_scale, found_inf=found_inf, copies=copies,
    )  # fmt: skip


def adagrad_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    sums: Sequence[Tensor],
    *,
    step: Step,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
    recipe: str | None = None,
    backend: str = "auto",
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    copies: Sequence[Tensor] | None = None,
) -> None:
    """One step of Adagrad, in place: bit-identical to torch.optim.Adagrad as the recipe says.

    Beside the module's shared arguments:

    - ``sums``: the state; before the first step every element holds the initial accumulator value.
    - ``lr``, ``lr_decay``, ``weight_decay``, ``eps``, ``maximize``: as in torch.optim.Adagrad.
    """
    hyper = get_algorithm("adagrad").hyperparameters(
        lr=lr, lr_decay=lr_decay, weight_decay=weight_decay, eps=eps, maximize=maximize
    )
    step_(
        "adagrad", hyper, params, grads, {"sum": sums}, step=step, recipe=recipe, backend=backend,
        grad_scale=grad_scale, found_inf=found_inf, copies=copies,
    )  # fmt: skip


def adam_atan2_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    *,
    step: Step,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    maximize: bool = False,
    recipe: str | None = None,
    backend: str = "auto",
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    copies: Sequence[Tensor] | None = None,
) -> None:
    """One step of Adam-atan2 (decoupled decay), in place: the same bits on every backend; torch has no such optimizer.

    Beside the module's shared arguments:

    - ``exp_avgs``, ``exp_avg_sqs``: the states.
    - ``lr``, ``betas``, ``weight_decay``, ``maximize``: as in `kernels.AdamAtan2`.
    """
    hyper = get_algorithm("adam_atan2").hyperparameters(
        lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize
    )
    states = _named(exp_avg=exp_avgs, exp_avg_sq=exp_avg_sqs)
    step_(
        "adam_atan2", hyper, params, grads, states, step=step, recipe=recipe, backend=backend,
        grad_scale=grad_scale, found_inf=found_inf, copies=copies,
    )  # fmt: skip


def _named(**columns: Sequence[Tensor] | None) -> dict[str, Sequence[Tensor]]:
    return {name: column for name, column in columns.items() if column is not None}
