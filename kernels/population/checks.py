"""What a trainer can be given: every refusal, and what it says."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from reprlib import repr as short
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..algorithm import get_algorithm
from ..launch.checks import NUMBERS, check_tensor
from ..rounding.dtypes import DTYPES
from .policy import Policy

_LARGEST = DTYPES["fp32"].largest
_PLAIN = frozenset({float, int, bool})
"""Types of values that need no closer look."""
_MOST_STEPS = 2**24
"""Counts of steps enter the arithmetic as float32, which holds every whole number up to here."""


def check_params(params: Tensor, numbers: int, policy: Policy) -> None:
    """Refuse parameters that are not [models, numbers], contiguous, in the policy's format."""
    check_tensor(params, "params", "convert them", dtypes=NUMBERS, written=True)
    if params.dim() != 2 or params.shape[1] != numbers or not params.is_contiguous():
        raise ValueError(
            f"params of shape {tuple(params.shape)}: give a contiguous tensor [models, {numbers}], one row per model"
        )
    if params.dtype != policy.dtype("params"):
        raise ValueError(f"params of {params.dtype}: this policy keeps them in {policy.params}; convert them")


def check_restart(given: Tensor, params: Tensor) -> None:
    """Refuse parameters to begin again from that are not of the shape and dtype of those that there are."""
    check_tensor(given, "params", "convert them", dtypes=NUMBERS)
    if given.shape != params.shape or given.dtype != params.dtype:
        raise ValueError(
            f"params of shape {tuple(given.shape)} and {given.dtype}: give {tuple(params.shape)} and {params.dtype}, "
            "as at first"
        )


def checked_records(algorithm: str, hyperparameters: Sequence[Any], models: int, *, finite: bool = True) -> list[Any]:
    """The records, made of mappings where those were given; ``finite`` refuses numbers beyond float32.

    Raises:
        TypeError: for what is no list of records, and for a record of another algorithm.
        ValueError: for a number of records that does not divide the models, and for values out of range; each error
            names the model.
    """
    get_algorithm(algorithm)
    if not isinstance(hyperparameters, Sequence):
        raise TypeError(
            f"hyperparameters: a {type(hyperparameters).__name__}, no list; give one record per model, or one per arm "
            "in a number that divides the models"
        )
    if not len(hyperparameters) or models % len(hyperparameters):
        raise ValueError(
            f"hyperparameters: {len(hyperparameters)} records for {models} models; give one per model, or one per arm "
            "in a number that divides the models"
        )
    records = []
    checked: set[Any] = set()
    # By identity, and held, so that none takes another's place.
    seen: dict[int, tuple[Any, Any]] = {}
    for model, given in enumerate(hyperparameters):
        if id(given) in seen:
            records.append(seen[id(given)][1])
            continue
        try:
            record = _record(algorithm, given)
            if finite and record not in checked:
                _check_finite(record)
                checked.add(record)
        except TypeError as error:
            raise TypeError(f"hyperparameters of model {model}: {error}") from error
        except ValueError as error:
            raise ValueError(f"hyperparameters of model {model}: {error}") from error
        seen[id(given)] = (given, record)
        records.append(record)
    return records


def _record(algorithm: str, given: Any) -> Any:
    """A record, with tuples where lists were given."""
    kind: Any = get_algorithm(algorithm).hyperparameters
    if isinstance(given, kind):
        own: Any = type(given)
        defaults, changed = _defaults(own), {}
        for name, value in vars(given).items():
            default = defaults.get(name)
            # A population may have a record for each of a million models.
            if type(value) not in _PLAIN or type(default) is tuple:
                fitting = _fitting(value, default, name)
                if fitting is not value:
                    changed[name] = fitting
        return dataclasses.replace(given, **changed) if changed else given
    if not isinstance(given, Mapping):
        raise TypeError(f"a {type(given).__name__}; {algorithm} takes {kind.__name__}")
    defaults = _defaults(kind)
    for name in given:
        if name not in defaults:
            raise ValueError(f"no hyperparameter {name!r}; choose among {', '.join(defaults)}")
    return kind(**{name: _fitting(value, defaults[name], name) for name, value in given.items()})


@functools.cache
def _defaults(kind: type) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(kind)}


def _check_finite(record: Any) -> None:
    for name, value in vars(record).items():
        for number in value if isinstance(value, tuple) else (value,):
            # So that integers beyond Python's floats are compared, too.
            if not -_LARGEST <= number <= _LARGEST:
                raise ValueError(f"{name} is {_shown(number)}; give a finite float32 number")


def _fitting(value: Any, default: Any, what: str) -> Any:
    """A hyperparameter's value: where its default is a number or several, as many."""
    if not isinstance(default, (tuple, bool, int, float)):
        return value
    if not isinstance(default, tuple):
        if not _is_number(value):
            remedy = "True or False" if isinstance(default, bool) else "a number"
            raise TypeError(f"{what} is {_shown(value)}; give {remedy}")
        return value
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{what} is {_shown(value)}; give {len(default)} numbers")
    if len(value) != len(default) or not (_PLAIN.issuperset(map(type, value)) or all(map(_is_number, value))):
        error = TypeError if len(value) == len(default) else ValueError
        raise error(f"{what} is {_shown(value)}; give {len(default)} numbers")
    return value if isinstance(value, tuple) else tuple(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool
    return isinstance(value, (Real, np.bool_))


def _shown(value: Any) -> str:
    """A value in an error of one line."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    return " ".join(short(value).split())


def per_model(
    what: str,
    values: float | Sequence[float] | Tensor,
    models: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """[models] of one number, or of one per model or arm.

    Raises:
        TypeError: for what is no number.
        ValueError: for a number of values that does not divide the models.
    """
    remedy = "give a number, or one per model"
    for tensor in values if isinstance(values, (list, tuple)) else [values]:
        if isinstance(tensor, Tensor):
            # A boolean is as good a flag as 1.
            check_tensor(tensor, what, remedy, dtypes=(*NUMBERS, torch.bool) if what == "found_inf" else NUMBERS)
    try:
        # Python's numbers are rounded once, whatever torch's default dtype is.
        as_is = isinstance(values, (Tensor, np.ndarray, np.generic))
        tensor = torch.as_tensor(values) if as_is else torch.as_tensor(values, dtype=torch.float64)
        if tensor.is_complex():
            raise TypeError(f"a Tensor of {tensor.dtype}")
        tensor = tensor.detach().to(device, dtype)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{what}: {_shown(values)} is no number; {remedy}") from error
    if tensor.dim() > 1 or (tensor.dim() == 1 and (not len(tensor) or models % len(tensor))):
        raise ValueError(
            f"{what} of shape {tuple(tensor.shape)} for {models} models: give one number, one per model, or one per "
            "arm in a number that divides the models"
        )
    tensor = tensor.reshape(-1)
    return tensor.repeat(models // len(tensor))


def checked_loss_scale(values: float | Sequence[float] | Tensor, models: int, device: torch.device) -> Tensor:
    """[models] float32, each positive and finite.

    Raises:
        TypeError, ValueError: as `per_model`, and for other values; the error names the model.
    """
    exact = per_model("loss_scale", values, models, device, torch.float64)
    scale = exact.float()
    _refuse("loss_scale", exact, ~((scale > 0) & scale.isfinite()), "give a positive finite float32 number")
    return scale


def checked_counts(values: float | Sequence[float] | Tensor, models: int, device: torch.device) -> Tensor:
    """int64 [models]: steps taken before.

    Raises:
        TypeError, ValueError: as `per_model`, and for what is no count; the error names the model.
    """
    taken = per_model("steps", values, models, device, torch.float64)
    whole = (taken >= 0) & (taken <= _MOST_STEPS) & (taken == taken.floor())
    _refuse("steps", taken, ~whole, f"give whole numbers from 0 to {_MOST_STEPS}")
    return taken.long()


def _refuse(what: str, values: Tensor, bad: Tensor, remedy: str) -> None:
    if bool(bad.any()):
        model = int(bad.int().argmax())
        value = float(values[model])
        shown = int(value) if value.is_integer() and abs(value) < 2**53 else value
        raise ValueError(f"{what} of model {model} is {shown}; {remedy}")


def checked_steps(data: Tensor, steps: Any, models: int, features: int, device: torch.device) -> int:
    """How many steps to take: ``steps``, or as many as the data has where that is None.

    Raises:
        TypeError: for data that is no tensor, and a number of steps that is no integer.
        ValueError: for data of another shape, dtype or device, or with fewer steps.
    """
    _check_samples(data, ("steps", "families"), models, features, device)
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, Integral)):
        raise TypeError(f"steps is {_shown(steps)}; give a whole number, or None for all of the data")
    count = data.shape[0] if steps is None else int(steps)
    if not 0 <= count <= data.shape[0]:
        raise ValueError(f"steps: {count} of {data.shape[0]} that the data has; give fewer, or more data")
    return count


def check_sample(data: Tensor, models: int, features: int, device: torch.device) -> None:
    """Refuse what is no sample of every family: float32 [families, features] on the device."""
    _check_samples(data, ("families",), models, features, device)


def _check_samples(data: Tensor, leading: Sequence[str], models: int, features: int, device: torch.device) -> None:
    axes = ", ".join([*leading, str(features)])
    check_tensor(data, "data", f"give float32 [{axes}]", dtypes=NUMBERS)
    fits = data.dim() == len(leading) + 1 and data.shape[-1] == features
    if not fits or data.dtype != torch.float32 or data.device != device:
        raise ValueError(
            f"data of shape {tuple(data.shape)}, {data.dtype}, on {data.device}: give float32 [{axes}] on {device}"
        )
    if not data.shape[-2] or models % data.shape[-2]:
        raise ValueError(
            f"data of {data.shape[-2]} families for {models} models: the models of a family are next to each other, in "
            "a number that divides all"
        )
