"""What a trainer can be given: every refusal, and what it says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..algorithm import get_algorithm
from ..launch.checks import NUMBERS, check_tensor
from ..rounding.dtypes import DTYPES
from .policy import Policy

_LARGEST = DTYPES["fp32"].largest


def check_params(params: Tensor, numbers: int, policy: Policy) -> None:
    """Refuse parameters that are not [models, numbers], contiguous, in the policy's format."""
    check_tensor(params, "params", "convert them", dtypes=NUMBERS, written=True)
    if params.dim() != 2 or params.shape[1] != numbers or not params.is_contiguous():
        raise ValueError(
            f"params of shape {tuple(params.shape)}: give a contiguous tensor [models, {numbers}], one row per model"
        )
    if params.dtype != policy.dtype("params"):
        raise ValueError(f"params of {params.dtype}: this policy keeps them in {policy.params}; convert them")


def checked_records(algorithm: str, hyperparameters: Sequence[Any], models: int, *, finite: bool = True) -> list[Any]:
    """The records, made of mappings where those were given; ``finite`` refuses numbers beyond float32.

    Raises:
        TypeError: for what is no list of records, and for a record of another algorithm.
        ValueError: for a number of records that does not divide the models, and for values out of range; each error
            names the model.
    """
    kind = get_algorithm(algorithm).hyperparameters
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
    for model, given in enumerate(hyperparameters):
        record = given
        if isinstance(given, Mapping):
            try:
                record = kind(**given)
            except (TypeError, ValueError) as error:
                raise ValueError(f"hyperparameters of model {model}: {error}") from error
        if not isinstance(record, kind):
            raise TypeError(
                f"hyperparameters of model {model}: a {type(record).__name__}; {algorithm} takes {kind.__name__}"
            )
        if finite and record not in checked:
            for name, value in vars(record).items():
                for number in value if isinstance(value, tuple) else (value,):
                    if not (math.isfinite(number) and abs(number) <= _LARGEST):
                        raise ValueError(
                            f"hyperparameters of model {model}: {name} is {number:g}; give a finite float32 number"
                        )
            checked.add(record)
        records.append(record)
    return records


def per_model(what: str, values: float | Sequence[float] | Tensor, models: int, device: torch.device) -> Tensor:
    """[models] float32 of one number, or of one per model or arm.

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
        tensor = torch.as_tensor(values)
        if tensor.is_complex():
            raise TypeError(f"a Tensor of {tensor.dtype}")
        tensor = tensor.detach().to(device, torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{what}: {str(error).splitlines()[0]}; {remedy}") from error
    if tensor.dim() > 1 or (tensor.dim() == 1 and (not len(tensor) or models % len(tensor))):
        raise ValueError(
            f"{what} of shape {tuple(tensor.shape)} for {models} models: give one number, one per model, or one per "
            "arm in a number that divides the models"
        )
    tensor = tensor.reshape(-1)
    return tensor.repeat(models // len(tensor))


def checked_steps(data: Tensor, steps: int | None, models: int, features: int, device: torch.device) -> int:
    """How many steps to take.

    Raises:
        ValueError: for data of another shape, dtype or device, or with fewer steps.
    """
    check_tensor(data, "data", "convert it", dtypes=NUMBERS)
    if data.dim() != 3 or data.shape[2] != features or data.dtype != torch.float32 or data.device != device:
        raise ValueError(
            f"data of shape {tuple(data.shape)}, {data.dtype}, on {data.device}: give float32 [steps, families, "
            f"{features}] on {device}"
        )
    if not data.shape[1] or models % data.shape[1]:
        raise ValueError(
            f"data of {data.shape[1]} families for {models} models: the models of a family are next to each other, in "
            "a number that divides all"
        )
    count = data.shape[0] if steps is None else steps
    if not 0 <= count <= data.shape[0]:
        raise ValueError(f"steps: {count} of {data.shape[0]} that the data has; give fewer, or more data")
    return count
