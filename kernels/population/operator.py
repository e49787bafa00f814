"""The step of one model or many as an operator of torch: ``torch.func.vmap`` and ``torch.compile`` take it.

It is a function of values: nothing is changed in place. Mapped over models it is one step of a `Population`, with the
same bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..algorithm import Algorithm, get_algorithm
from ..backends.dispatch import BACKENDS
from ..launch.checks import check_tensor
from ..names import check_name, shown
from .records import check_held, fitting, is_number
from .step import Population

Hyperparameter = float | bool | Tensor | Sequence[float | Tensor]


def optimizer_step(
    algorithm: str,
    params: Tensor,
    grads: Tensor,
    states: Mapping[str, Tensor],
    step: float | Tensor,
    *,
    hyperparameters: Mapping[str, Hyperparameter] | None = None,
    recipe: str | None = None,
    backend: str = "auto",
    grad_scale: float | Tensor | None = None,
    found_inf: float | Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The parameters and states after one step; what is given stays as it is.

    Under ``torch.func.vmap`` every tensor may be one model's own, hyperparameters, step, scale and flag included.
    Without it all of ``params`` is one model.

    Args:
        algorithm: name in the registry, such as ``"adam"``.
        params: of any shape; float32, bfloat16 or float16.
        grads: of the parameters' shape and dtype.
        states: those that the hyperparameters keep, by torch's names, of the parameters' shape and one dtype.
        step: number of this step, from 1 on.
        hyperparameters: those that differ from the defaults. Tensors of one number are values; options that select
            code (amsgrad, ...) are Python's booleans.
        recipe: whose rounding; None for the algorithm's default.
        backend: as `Population`'s.
        grad_scale: gradients are unscaled first.
        found_inf: 1 gives back what was given.

    Raises:
        TypeError: for hyperparameters that there are not, and for dtypes that the kernels do not step.
        ValueError: for tensors that do not fit each other, and values out of range.
    """
    if not torch.compiler.is_compiling():
        # Traced, this would be looked at once; the operator itself looks at every call.
        _look_at_names(algorithm, states, recipe, backend)
        _look_at_tensors({"params": params, "grads": grads, **{f"state {name!r}": states[name] for name in states}})
        _look_at_hyperparameters(get_algorithm(algorithm), hyperparameters)
        for name, value in {"step": step, "grad_scale": grad_scale, "found_inf": found_inf}.items():
            if value is not None or name == "step":
                _look_at_number(name, value, params.device)
    numbers = _numbers(hyperparameters or {})
    device = params.device
    own = [(name, value) for name, value in numbers.items() if isinstance(value, Tensor)]
    fixed = {name: value for name, value in numbers.items() if not isinstance(value, Tensor)}
    values = torch.zeros(0, dtype=torch.float64, device=device)
    if own:
        values = torch.stack([_scalar(name, value, device, torch.float64) for name, value in own])
    new, *kept = _optimizer_step(
        params.detach(),
        grads.detach(),
        [state.detach() for state in states.values()],
        _scalar("step", step, device),
        values,
        None if grad_scale is None else _scalar("grad_scale", grad_scale, device),
        None if found_inf is None else _scalar("found_inf", found_inf, device),
        algorithm,
        ",".join(states),
        ",".join(fixed),
        [float(value) for value in fixed.values()],
        ",".join(name for name, _ in own),
        recipe or "",
        backend,
    )
    return new, dict(zip(states, kept, strict=True))


def _look_at_names(algorithm: Any, states: Any, recipe: Any, backend: Any) -> None:
    get_algorithm(algorithm).recipe(recipe)
    check_name("backend", backend, f"choose auto or one of {', '.join(BACKENDS)}")
    if not isinstance(states, Mapping) or not all(isinstance(name, str) for name in states):
        raise TypeError(f"states: {shown(states)}; give a mapping of torch's names to tensors")


def _look_at_tensors(tensors: Mapping[str, Any]) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: a {type(tensor).__name__}, no tensor; give one")
    device = tensors["params"].device
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise ValueError(f"{name} on {tensor.device}, params on {device}; move one of them")


def _look_at_hyperparameters(kind: Algorithm, given: Any) -> None:
    if given is None:
        return
    if not isinstance(given, Mapping):
        raise TypeError(
            f"hyperparameters: {shown(given)}; give a mapping of names to numbers, or None for the defaults"
        )
    defaults = {field.name: field.default for field in dataclasses.fields(kind.hyperparameters)}
    for name, value in given.items():
        if name not in defaults:
            raise TypeError(f"hyperparameters: {shown(name)} is none of {kind.name}'s, {', '.join(defaults)}")
        try:
            fitting(value, defaults[name], name)
        except (TypeError, ValueError) as error:
            raise type(error)(f"hyperparameters: {error}") from error


def _look_at_number(what: str, value: Any, device: torch.device) -> None:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"{what} of shape {tuple(value.shape)}: give one number, or map over models")
    if isinstance(value, Tensor) and value.device.type == device.type == "meta":
        return
    if not is_number(value, flag=what == "found_inf"):
        raise TypeError(f"{what}: {shown(value)}; give a number or a tensor of one")
    check_held(value, what)


def _scalar(what: str, value: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """One number of one model, on the device."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{what} of shape {tuple(value.shape)}: give one number, or map over models")
        return value.detach().to(device, dtype).reshape(())
    return torch.full((), float(value), dtype=dtype, device=device)


def _numbers(given: Mapping[str, Any]) -> dict[str, float | Tensor]:
    """The hyperparameters as numbers by name, those of a pair as ``name.0`` and ``name.1``."""
    numbers: dict[str, float | Tensor] = {}
    for name, value in given.items():
        if isinstance(value, (tuple, list)):
            numbers.update({f"{name}.{k}": part for k, part in enumerate(value)})
        else:
            numbers[name] = value
    return numbers


def _record(kind: Algorithm, numbers: Mapping[str, float]) -> Any:
    """The record of these `_numbers`; others are its defaults."""
    values: dict[str, Any] = {}
    fields = {field.name: field.default for field in dataclasses.fields(kind.hyperparameters)}
    for spelled, number in sorted(numbers.items()):  # a pair's numbers in their order
        name, _, place = spelled.partition(".")
        if name not in fields:
            raise TypeError(f"{name!r} is none of {kind.name}'s, {', '.join(fields)}")
        default: Any = fields[name]
        if isinstance(default, tuple):
            if not place:
                raise TypeError(f"{name} is {number:g}; give {len(default)} numbers")
            values[name] = (*values.get(name, ()), number)
        else:
            values[name] = type(default)(number)
    return kind.hyperparameters(**values)


_NAMESPACE = __name__.partition(".")[0]
"""A changed copy of this package under another name (a mutant) must not take the place of this one's operator."""


@torch.library.custom_op(f"{_NAMESPACE}::optimizer_step", mutates_args=())
def _optimizer_step(
    params: Tensor,
    grads: Tensor,
    states: list[Tensor],
    step: Tensor,
    values: Tensor,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    algorithm: str,
    names: str,
    fixed: str,
    fixed_values: list[float],
    own: str,
    recipe: str,
    backend: str,
) -> list[Tensor]:
    """New parameters and states.

    ``step`` has the shape of the models, [] for one; parameters, gradients and states begin with it, ``values``
    [..., own] and the others have it. Names are separated by commas: of states, of hyperparameters that models
    share, and of those in ``values``.
    """
    for name, tensor in {"params": params, "grads": grads, **_named(names, states)}.items():
        check_tensor(tensor, name, "convert it")
    _check(params, grads, states, step, names)
    bad = ~((step >= 1) & (step < 2**24) & (step == step.floor())).reshape(-1)
    if bool(bad.any()):
        raise ValueError(f"step {float(step.reshape(-1)[bad][0]):g}: give the number of this step, 1 for the first")
    varying = own.split(",") if own else []
    kind = get_algorithm(algorithm)
    models = step.numel()
    rows = values.expand(*step.shape, len(varying)).reshape(models, len(varying)).tolist()
    shared = dict(zip(fixed.split(",") if fixed else (), fixed_values, strict=True))
    made: dict[tuple[float, ...], Any] = {}
    for model, row in enumerate(map(tuple, rows)):
        if row not in made:
            try:
                made[row] = _record(kind, {**shared, **dict(zip(varying, row, strict=True))})
            except (TypeError, ValueError) as error:
                where = f" of model {model}" if step.dim() else ""
                raise type(error)(f"hyperparameters{where}: {error}") from error
    if not models:
        return [tensor.clone() for tensor in (params, *states)]
    flat = _rows(params, models)
    kept = {name: _rows(state, models) for name, state in _named(names, states).items()}
    population = Population(
        algorithm,
        [made[tuple(row)] for row in rows],
        flat,
        recipe=recipe or None,
        backend=backend,
        state=kept,
        steps=step.reshape(-1) - 1,
    )
    population.step(
        _rows(grads, models),
        grad_scale=None if grad_scale is None else grad_scale.expand(step.shape).reshape(-1),
        found_inf=None if found_inf is None else found_inf.expand(step.shape).reshape(-1),
    )
    return [tensor.view(params.shape) for tensor in (flat, *kept.values())]


def _check(params: Tensor, grads: Tensor, states: list[Tensor], step: Tensor, names: str) -> None:
    for name, tensor in {"grads": grads, **_named(names, states)}.items():
        if tensor.shape != params.shape:
            of = tuple(params.shape[step.dim() :])
            shape = tuple(tensor.shape[step.dim() :])
            raise ValueError(f"{name} of shape {shape} for parameters of shape {of}; give one of that shape")


def _rows(tensor: Tensor, models: int) -> Tensor:
    """A copy of its own, [models, n]."""
    return tensor.reshape(models, -1).clone(memory_format=torch.contiguous_format)


def _named(names: str, states: list[Tensor]) -> dict[str, Tensor]:
    return dict(zip(names.split(",") if names else (), states, strict=True))


@_optimizer_step.register_fake
def _shapes(params: Tensor, grads: Tensor, states: list[Tensor], step: Tensor, *rest: Any) -> list[Tensor]:
    _check(params, grads, states, step, rest[4])
    return [torch.empty(params.shape, dtype=tensor.dtype, device=params.device) for tensor in (params, *states)]


@_optimizer_step.register_vmap
def _mapped(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[list[Tensor], list[int]]:
    """Models that are mapped over are one more dimension in front."""

    def front(tensor: Any, dim: Any) -> Any:
        if isinstance(tensor, list):
            return [front(each, None if dim is None else at) for each, at in zip(tensor, dim or tensor, strict=True)]
        if tensor is None:
            return None
        if tensor.layout is not torch.strided:
            raise TypeError(f"a tensor of layout {tensor.layout}: give ordinary dense tensors")
        moved: Tensor = tensor.unsqueeze(0) if dim is None else tensor.movedim(dim, 0)
        return moved.expand(info.batch_size, *moved.shape[1:])

    tensors = [front(argument, dim) for argument, dim in zip(arguments[:7], in_dims[:7], strict=True)]
    results = _optimizer_step(*tensors, *arguments[7:])
    return results, [0] * len(results)
