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
    grad_scale: a number or a float32 tensor of one element; gradients are unscaled first and written back.
    found_inf: a number or a float32 tensor of one element; nothing is changed where it is 1.
    copies: low-precision tensors that receive the updated parameters, rounded (``params`` are their master weights).

Tensors that are not dense, or not in their parameter's element order, go through a copy.

Errors of all functions: ValueError for lists of unequal length, shapes or devices that do not fit, parameters or states
that share memory, hyperparameters and steps out of range, freed memory, and unknown recipes or backends; KeyError for a
state of None; TypeError for dtypes that the kernels do not step; RuntimeError for sparse gradients.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import algorithms as _registered  # noqa: F401  (fills the registry)
from .algorithm import ALGORITHMS, Algorithm, Recipe, State, get_algorithm
from .backends import resolve_backend, step_bucket
from .launch.apart import check_apart, check_written_apart
from .launch.buckets import Assembly, Member, assemble
from .launch.checks import (
    NUMBERS,
    IncompleteState,
    check_grad,
    check_param,
    check_state,
    check_tensor,
    one_number,
)
from .launch.rows import host_rows
from .optim.constructors import constructor_signature
from .rounding.powers import PowerTable, power_table

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
    for position, member in enumerate(members):
        _check(member, record, backend, position, names)
    try:
        check_written_apart([tensor for member in members for tensor in member.written])
    except ValueError:
        check_apart(params)
        raise
    grad_scale = None if grad_scale is None else one_number(grad_scale, "grad_scale")
    found_inf = None if found_inf is None else one_number(found_inf, "found_inf")
    counts = _counts(step, len(params), waits=record.rows_count(chosen))
    assemblies = list(assemble(members))
    for assembly in assemblies:
        assembly.check(scaled=grad_scale is not None)
    for assembly in assemblies:
        numbers = counts[assembly.positions] if isinstance(counts, Tensor) else counts
        powers = power_table(assembly.bucket.device)
        form = partial(_rows, record, chosen, hyperparameters, assembly, numbers, first, powers)
        (rows, steps), values = powers.formed(form)
        assembly.load()
        step_bucket(
            chosen,
            flags,
            assembly.bucket,
            rows=rows,
            steps=steps,
            powers=values,
            grad_scale=grad_scale,
            found_inf=found_inf,
            backend=resolve_backend(backend, assembly.bucket.device),
        )
        assembly.store(scaled=grad_scale is not None)
    increment_version([*params, *(copies or ())])


def _slots(record: Algorithm, states: Mapping[str, Sequence[Tensor]], count: int) -> list[tuple[Tensor | None, ...]]:
    kept = [states.get(state.name) for state in record.states]
    columns = [*kept, *[None] * (3 - len(kept))]
    return [tuple(None if column is None else column[k] for column in columns) for k in range(count)]


def _check(member: Member, record: Algorithm, backend: str, position: int, needed: Sequence[str]) -> None:
    check_param(member.param)
    resolve_backend(backend, member.param.device)
    if member.grad is None:
        raise TypeError(f"grads: None for parameter {position}; leave out parameters without a gradient")
    check_grad(member.param, member.grad, f"{record.name}_")
    for state, tensor in zip(record.states, member.states, strict=False):
        if tensor is None and state.name in needed:
            raise IncompleteState(
                f"state {state.name!r}: None for parameter {position}; these options keep it, give a tensor "
                f"(before the first step one of its initial value)"
            )
        if tensor is not None:
            check_state(member.param, state.name, tensor)
    if member.copy is not None:
        check_state(member.param, "copies", member.copy)


def _counts(step: Step, count: int, *, waits: bool) -> float | Tensor:
    """The step as one number, or as a float32 tensor [parameters]; ``waits`` says whether the host needs it."""
    if isinstance(step, Real):
        _check_counts([float(step)])
        return float(step)
    remedy = f"give one number, or one for each of {count} parameters"
    if isinstance(step, Tensor):
        check_tensor(step, "step", remedy, dtypes=NUMBERS)
        steps = step.to(torch.float32)
    elif isinstance(step, Iterable) and not isinstance(step, str):
        steps = torch.tensor([float(one_number(each, "step")) for each in step], dtype=torch.float32)
    else:
        raise TypeError(f"step: a {type(step).__name__}; {remedy}")
    if waits or steps.device.type == "cpu":
        _check_counts(steps.flatten().tolist())
    if steps.numel() == 1:
        return steps.reshape(1).expand(count)
    if steps.shape != (count,):
        raise ValueError(f"step of shape {tuple(steps.shape)}: {remedy}")
    return steps


def _check_counts(numbers: Sequence[float]) -> None:
    for number in numbers:
        if not 1 <= number < float("inf"):
            raise ValueError(f"step: {number:g}; give the number of this step, 1 for the first")


def _rows(
    record: Algorithm,
    recipe: Recipe,
    hyper: Any,
    assembly: Assembly,
    numbers: float | Tensor,
    first: bool,
    powers: PowerTable,
) -> tuple[Tensor, Tensor]:
    """The host scalars of a bucket on its device (with ``row_of`` set), and its steps."""
    bucket = assembly.bucket
    count, device = len(bucket.params), bucket.device
    distinct, row_of = np.array([0.0]), np.zeros(count, np.int64)
    if record.rows_count(recipe):
        known = np.array([numbers]) if isinstance(numbers, float) else numbers.numpy(force=True)
        distinct, inverse = np.unique(known, return_inverse=True)
        row_of = np.broadcast_to(inverse, (count,)).astype(np.int64)
    bucket.row_of = row_of
    rows = host_rows(recipe, bucket.dtypes, [(hyper, float(number), first) for number in distinct], powers)
    if isinstance(numbers, float):
        steps = torch.full((count,), numbers, dtype=torch.float32, device=device)
    else:
        steps = numbers.to(device).contiguous()
    return torch.tensor(rows, dtype=torch.float64).to(device), steps


def make_function(algorithm: Algorithm) -> Callable[..., None]:
    """`step_` of one algorithm, as a function with its states and hyperparameters as arguments.

    Args:
        algorithm: from the registry. States that only some options keep are optional; hyperparameters that decide the
            initial state, or that the class's constructor fixes, are no arguments.
    """
    name = f"{algorithm.name}_"
    constructor = constructor_signature(algorithm).parameters
    fields = {f.name: f for f in dataclasses.fields(algorithm.hyperparameters)}
    hypers = [name for name in fields if name in constructor and name not in algorithm.initial]
    columns = {f"{state.name}s": state for state in algorithm.states}
    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    required, tensors = inspect.Parameter.empty, Sequence[Tensor]
    parameters = [inspect.Parameter(each, positional, annotation=tensors) for each in ("params", "grads")]
    parameters += [
        inspect.Parameter(column, positional, default=required if state.always else None, annotation=tensors)
        for column, state in columns.items()
    ]
    if algorithm.step_in_row:
        parameters.append(inspect.Parameter("step", keyword, annotation=Step))
    parameters += [inspect.Parameter(each, keyword, default=fields[each].default) for each in hypers]
    if not algorithm.stateful_step:
        parameters.append(inspect.Parameter("first", keyword, default=False))
    shared = ("recipe", "grad_scale", "found_inf", "copies")
    parameters += [inspect.Parameter(each, keyword, default=None) for each in shared]
    parameters.append(inspect.Parameter("backend", keyword, default="auto"))
    signature = inspect.Signature(parameters)

    def function(*args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        bound.apply_defaults()
        given = bound.arguments
        hyper = algorithm.hyperparameters(**{each: given.pop(each) for each in hypers})
        lists = {state.name: given.pop(column) for column, state in columns.items()}
        states = {each: column for each, column in lists.items() if column is not None}
        step_(algorithm.name, hyper, given.pop("params"), given.pop("grads"), states, **given)

    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__name__ = function.__qualname__ = name
    function.__module__ = __name__
    function.__doc__ = _documentation(algorithm, columns, hypers)
    return function


def _documentation(algorithm: Algorithm, columns: Mapping[str, State], hypers: Sequence[str]) -> str:
    in_torch = hasattr(torch.optim, algorithm.title)
    equals = f"bit-identical to torch.optim.{algorithm.title} as the recipe says" if in_torch else "torch has none"
    lines = [f"One step of {algorithm.title}, in place: {equals}.", "", "Beside the module's shared arguments:", ""]
    lines += [
        f"- ``{column}``: a state" + ("." if state.always else "; needed if and only if these options keep it.")
        for column, state in columns.items()
    ]
    names = ", ".join(f"``{each}``" for each in hypers)
    lines.append(f"- {names}: as in {'torch.optim' if in_torch else 'kernels'}.{algorithm.title}.")
    if algorithm.step_in_row:
        lines.append("- ``step``: number of this step, or one per parameter.")
    if not algorithm.stateful_step:
        lines.append("- ``first``: the buffers hold nothing yet and start as the gradient (torch's first step).")
    return "\n".join(lines)


FUNCTIONS = {f"{algorithm.name}_": make_function(algorithm) for algorithm in ALGORITHMS.values()}
"""The function of every registered algorithm, by its name."""

sgd_ = FUNCTIONS["sgd_"]
adam_ = FUNCTIONS["adam_"]
adamw_ = FUNCTIONS["adamw_"]
rmsprop_ = FUNCTIONS["rmsprop_"]
adagrad_ = FUNCTIONS["adagrad_"]
adam_atan2_ = FUNCTIONS["adam_atan2_"]
# Those above have a name that type checkers see; a new algorithm's function is there all the same.
globals().update(FUNCTIONS)
