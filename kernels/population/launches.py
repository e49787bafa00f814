"""From a run to launches: models gathered into blocks, samples and scalars laid out as the kernels read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from ..algorithm import Recipe
from ..backends import interpreter
from ..launch.rows import RowTable
from ..rounding.dtypes import DTYPES
from ..rounding.flags import REUSED
from ..rounding.powers import power_table
from . import train_kernel, train_simd
from .network import Network
from .placement import Placement
from .policy import Policy

_ZEROS = 1 << 9 if triton.__version__.startswith("3.6.") else 3 << 9
"""How kernels step around zeros: in the form that spills nothing with this Triton (sm_90, scalars of a block)."""
_CHUNK = 1 << 26
"""Bytes of host scalars, of laid out samples or of kept gradients in one launch: a run with more is split."""
_DEVICE_CHUNK = 1 << 30
"""The same on a GPU, where every further launch sends parameters and states through memory once more."""
_INTERPRETER_BLOCK = 4096
"""Models per program in the interpreter, which runs a program as whole numpy arrays."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything about a run but its samples.

    Attributes:
        network, policy, recipe, flags: what is computed.
        params: [models, n], updated in place.
        states: by the rule's place, [models, n] or None; updated in place.
        placement: where models lie.
        family, record: int64 [slots], whose samples and whose scalars a slot has.
        loss_scale: float32 [slots].
        rows: the scalars of all records.
        first_step: number of the first step, from 1.
    """

    network: Network
    policy: Policy
    recipe: Recipe
    flags: int
    params: Tensor
    states: list[Tensor | None]
    placement: Placement
    family: Tensor
    record: Tensor
    loss_scale: Tensor
    rows: RowTable
    first_step: int

    @property
    def tensors(self) -> list[Tensor | None]:
        """Parameters, then states."""
        return [self.params, *self.states]

    def constants(self, *, keep_gradients: bool) -> dict[str, Any]:
        """Compile-time arguments of `train_kernel`."""
        return training_constants(
            self.network,
            self.policy,
            self.recipe,
            flags=self.flags,
            states=sum(1 << k for k, state in enumerate(self.states) if state is not None),
            shared=self.placement.shared,
            keep_gradients=keep_gradients,
        )


def training_constants(
    network: Network,
    policy: Policy,
    recipe: Recipe,
    *,
    flags: int,
    states: int,
    shared: bool,
    keep_gradients: bool = False,
    block: int = train_kernel.BLOCK,
) -> dict[str, Any]:
    """The compile-time arguments of `train_kernel`, in its order.

    Args:
        network: which.
        policy: formats.
        recipe: whose rule.
        flags: bit mask of `kernels.rounding.flags`.
        states: bit k is set where state k is kept.
        shared: whether the models of a block have the same hyperparameters.
        keep_gradients: whether gradients are written.
        block: models per program.
    """
    numbers = network.parameters
    return {
        **network.constants(),
        "RULE": recipe.rule,
        # A model divides all of its parameters by the root of one bias correction; dead units bring zeros. Where 16-bit
        # numbers are kept, no register is left to step around them.
        "FLAGS": flags | REUSED.value | (_ZEROS if policy.params == policy.state == "fp32" else 0),
        "STATES": states,
        # Lanes are those of a [models, n] tensor: rows of any length are torch's unaligned path.
        "LANES": ("unaligned" if numbers % 4 else "aligned") if recipe.lanes else "",
        "COMPUTE": DTYPES[policy.compute].triton,
        "GRAD": DTYPES[policy.grads].triton,
        "PARAM": DTYPES[policy.params].triton,
        "STATE": DTYPES[policy.state].triton,
        # Two states of 16 bits lie in one register, where a step's old and new ones would not fit otherwise.
        "PACKED": policy.params == "fp32" and policy.state != "fp32" and states & 3 == 3,
        "COLUMNS": len(recipe.columns),
        "SHARED_ROWS": shared,
        "KEEP_GRADS": keep_gradients,
        "NUMBERS": numbers,
        "LOG": _log(numbers),
        "LOG_DATA": _log(network.features),
        "BLOCK": block,
    }


def training_options() -> dict[str, Any]:
    """The compiler's options for `train_kernel`."""
    return dict(train_kernel.LAUNCH_OPTIONS)


def _log(count: int) -> int:
    """The exponent of the smallest power of two that holds so many."""
    return (count - 1).bit_length()


def block_of(backend: str, models: int) -> int:
    """Models of a block on a backend."""
    if backend == "interpreter":
        return min(_INTERPRETER_BLOCK, 1 << max(0, models - 1).bit_length())
    return train_simd.WIDTH if backend == "simd" else train_kernel.BLOCK


def chunks(steps: int, bytes_per_step: int, most: int | None = None, *, alone: bool = False) -> Iterator[slice]:
    """Steps of one launch after another, of ``most`` bytes; ``alone`` gives the first a launch of its own."""
    longest = max(1, (_CHUNK if most is None else most) // max(1, bytes_per_step))
    if alone and steps:
        yield slice(0, 1)
    for begin in range(int(alone), steps, longest):
        yield slice(begin, min(begin + longest, steps))


def triton_launches(run: Run, data: Tensor, kept: Tensor | None, *, interpreted: bool) -> None:
    """Train by `train_kernel`, on the GPU of the parameters or in the interpreter.

    Args:
        run: what to do.
        data: float32 [steps, families, features].
        kept: where gradients go, [steps, models, n], or None.
        interpreted: whether in the interpreter.
    """
    device, placed, numbers = run.params.device, run.placement, run.network.parameters
    log, log_data = _log(numbers), _log(run.network.features)
    slots = len(placed.model_of)
    block = block_of("interpreter" if interpreted else "triton", len(run.params))
    packed = [None if tensor is None else _padded(placed.gather(tensor), 1 << log) for tensor in run.tensors]
    params = packed[0]
    assert params is not None
    family, row_of = run.family.int(), run.record.int()
    powers = power_table(device)
    constants = {**run.constants(keep_gradients=kept is not None), "BLOCK": block}
    per_step = run.rows.bytes_per_step + (0 if kept is None else slots << log + 2)
    for chunk in chunks(len(data), per_step, _CHUNK if interpreted else _DEVICE_CHUNK):
        steps = chunk.stop - chunk.start
        rows = run.rows.tensor(run.first_step + chunk.start, steps, device)
        grads = params if kept is None else params.new_empty(steps, slots, 1 << log)
        arguments = (
            *(params if tensor is None else tensor for tensor in packed),
            grads,
            _padded(data[chunk], 1 << log_data),
            family,
            run.loss_scale,
            rows,
            row_of,
            powers.values,
            data.shape[1],
            rows.shape[1],
            run.first_step + chunk.start,
            steps,
        )
        grid = (slots // block, 1, 1)
        if interpreted:
            interpreter.launch(train_kernel.train_kernel, grid, arguments, constants)
        else:
            with torch.cuda.device(device):
                train_kernel.train_kernel[grid](*arguments, **constants, **train_kernel.LAUNCH_OPTIONS)
        if kept is not None:
            kept[chunk] = grads[:, placed.slot_of, :numbers]
    for tensor, values in zip(run.tensors, packed, strict=True):
        if tensor is not None and values is not None:
            placed.scatter(values, tensor)


def _padded(rows: Tensor, width: int) -> Tensor:
    """Rows with zeros after them, up to a width."""
    return torch.nn.functional.pad(rows, (0, width - rows.shape[-1])).contiguous()
