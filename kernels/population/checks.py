"""What a trainer can be given: every refusal, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..launch.checks import NUMBERS, check_tensor
from ..names import shown
from ..rounding.dtypes import BY_TORCH, DTYPES
from .policy import Policy

_LOOKED_AT = 1 << 28
"""Bytes of new states from which on it is looked at whether they fit."""
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


def check_state_dtype(dtype: Any) -> None:
    """Refuse what is no dtype that the kernels know; None is the parameters'.

    Raises:
        TypeError: for what is no dtype.
        ValueError: for another dtype.
    """
    remedy = f"give None or one of {', '.join(str(known.torch) for known in DTYPES.values())}"
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"state_dtype: {shown(dtype)} is no dtype; {remedy}")
    if dtype is not None and dtype not in BY_TORCH:
        raise ValueError(f"state_dtype: {dtype}; {remedy}")


def check_state(state: Any) -> None:
    """Refuse states that are no tensors by their names; None is for new ones.

    Raises:
        TypeError, ValueError: as `check_tensor`, and for what is no mapping.
    """
    if state is None:
        return
    if not isinstance(state, Mapping):
        raise TypeError(f"state: {shown(state)}; give a mapping of torch's names to tensors, or None for new ones")
    for name, tensor in state.items():
        check_tensor(tensor, f"state {shown(name)}", "convert it", written=True)


def check_memory(params: Tensor, dtype: torch.dtype, states: int) -> None:
    """Refuse more models than have room for their new states; small populations are not looked at.

    Raises:
        ValueError: with how many fit.
    """
    each = states * params[:1].numel() * dtype.itemsize
    needed = each * len(params)
    if needed < _LOOKED_AT:
        return
    free = free_bytes(params.device)
    if free is not None and needed > free:
        raise ValueError(
            f"params of {len(params):,} models: their states take {needed / 1e9:.1f} GB, of {free / 1e9:.1f} that are "
            f"free; give at most {free // each:,} models at a time"
        )


def check_kept(params: Tensor, steps: int) -> None:
    """Refuse to keep the gradients of more steps than there is memory for.

    Raises:
        ValueError: with how many fit.
    """
    needed = steps * params.nbytes
    if needed < _LOOKED_AT:
        return
    free = free_bytes(params.device)
    if free is not None and needed > free:
        raise ValueError(
            f"keep_gradients: those of {len(params):,} models and {steps:,} steps take {needed / 1e9:.1f} GB, of "
            f"{free / 1e9:.1f} that are free; give at most {free // params.nbytes:,} steps at a time"
        )


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free for tensors; None where the system does not say."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None


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
        elif what != "found_inf" and isinstance(tensor, (bool, np.bool_)):
            raise TypeError(f"{what}: {shown(values)} is no number; {remedy}")
    try:
        # Python's numbers are rounded once, whatever torch's default dtype is.
        as_is = isinstance(values, (Tensor, np.ndarray, np.generic))
        tensor = torch.as_tensor(values) if as_is else torch.as_tensor(values, dtype=torch.float64)
        if tensor.is_complex() or (tensor.dtype == torch.bool and what != "found_inf"):
            raise TypeError(f"a Tensor of {tensor.dtype}")
        tensor = tensor.detach().to(device, dtype)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{what}: {shown(values)} is no number; {remedy}") from error
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


def checked_scales(values: float | Sequence[float] | Tensor, models: int, device: torch.device) -> Tensor:
    """[models] float32: what gradients are divided by.

    Raises:
        TypeError, ValueError: as `per_model`, and on a CPU for what is not positive and finite (a GPU's numbers are not
            waited for); the error names the model.
    """
    scale = per_model("grad_scale", values, models, device)
    if device.type == "cpu":
        _refuse("grad_scale", scale, ~((scale > 0) & scale.isfinite()), "give a positive finite float32 number")
    return scale


def checked_flags(values: float | Sequence[float] | Tensor, models: int, device: torch.device) -> Tensor | None:
    """Bool [models]: which models skip; None where none does. The host waits for it.

    Raises:
        TypeError, ValueError: as `per_model`, and for what is below 0, infinite or NaN; the error names the model.
    """
    flags = per_model("found_inf", values, models, device)
    # As in torch only 1 skips.
    skips, bad = flags == 1, ~((flags >= 0) & flags.isfinite())
    some, any_bad = torch.stack([skips.any(), bad.any()]).tolist()
    if any_bad:
        _refuse("found_inf", flags, bad, "give 1 for a model that is to skip the step, else 0")
    return skips if some else None


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
        raise TypeError(f"steps is {shown(steps)}; give a whole number, or None for all of the data")
    count = data.shape[0] if steps is None else int(steps)
    if not 0 <= count <= data.shape[0]:
        raise ValueError(f"steps: {shown(count)} of {data.shape[0]} that the data has; give fewer, or more data")
    return count


def check_flag(what: str, value: Any) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{what} is {shown(value)}; give True or False")


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
