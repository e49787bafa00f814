"""From a run to launches: models gathered into blocks, samples and scalars laid out as the kernels read them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
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

_CHUNK = 1 << 26
"""Bytes of host scalars, of laid out samples or of kept gradients in one launch: a run with more is split."""
_DEVICE_CHUNK = 1 << 30
"""The same on a GPU, where every further launch sends parameters and states through memory once more."""
_INTERPRETER_BLOCK = 4096
"""Models per program in the interpreter, which runs a program as whole numpy arrays."""
_THREADED = 1 << 14
"""Model-steps from which threads are worth starting (about a millisecond's work)."""


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
        # A model divides all of its parameters by the root of one bias correction.
        "FLAGS": flags | REUSED.value,
        "STATES": states,
        # Lanes are those of a [models, n] tensor: rows of any length are torch's unaligned path.
        "LANES": ("unaligned" if numbers % 4 else "aligned") if recipe.lanes else "",
        "COMPUTE": DTYPES[policy.compute].triton,
        "GRAD": DTYPES[policy.grads].triton,
        "PARAM": DTYPES[policy.params].triton,
        "STATE": DTYPES[policy.state].triton,
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


def _chunks(steps: int, bytes_per_step: int, chunk: int = _CHUNK, *, alone: bool = False) -> Iterator[slice]:
    """Steps of one launch after another; ``alone`` gives the first a launch of its own."""
    longest = max(1, chunk // max(1, bytes_per_step))
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
    for chunk in _chunks(len(data), per_step, _CHUNK if interpreted else _DEVICE_CHUNK):
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


def vector_launches(run: Run, data: Tensor, kept: Tensor | None, *, interpreted: bool = False) -> None:
    """Train by `train_simd`, with torch's number of threads; arguments as in `triton_launches`."""
    del interpreted
    width = train_simd.WIDTH
    placed, numbers = run.placement, run.network.parameters
    blocks = len(placed.model_of) // width
    packed = [None if tensor is None else _across(placed.gather(tensor), width) for tensor in run.tensors]
    # Blocks of one family after another share a tile of samples: the arms of a family lie in blocks alike.
    families, tile_of = np.unique(run.family.view(blocks, width).numpy(), axis=0, return_inverse=True)
    tile_of = np.ascontiguousarray(tile_of.reshape(-1), np.int64)
    in_order = np.array_equal(families.reshape(-1), np.arange(data.shape[1]))
    row_of = run.record.int()
    powers = power_table(run.params.device)
    constants = run.constants(keep_gradients=kept is not None)
    per_step = max(run.rows.bytes_per_step, families.size * data.shape[2] * 4)
    per_step = max(per_step, 0 if kept is None else blocks * width * numbers * 4)
    for chunk in _chunks(len(data), per_step, alone=run.first_step == 1 and not placed.shared):
        steps = chunk.stop - chunk.start
        rows, own = np.empty((0, 0)), _Own.empty()
        if placed.shared:
            rows = run.rows.rows(run.first_step + chunk.start, steps)
        else:
            columns = run.rows.columns(run.first_step + chunk.start, steps)
            own = _Own.of(columns, run.record.view(blocks, width).numpy())
        train = train_simd.train_function({**constants, "DEPENDS": own.depends})
        samples = data[chunk]
        samples = samples.reshape(steps, *families.shape, -1) if in_order else samples[:, torch.from_numpy(families)]
        tiles = samples.permute(1, 0, 3, 2).contiguous()
        grads = torch.empty(0) if kept is None else torch.empty(steps, blocks, numbers, width)
        at = [0 if tensor is None else tensor.data_ptr() for tensor in packed]
        call = {
            **dict(zip(("params", "s0", "s1", "s2"), at, strict=True)),
            "grads": grads.data_ptr(),
            "data": tiles.data_ptr(),
            "tile_of": tile_of.ctypes.data,
            "scale": run.loss_scale.data_ptr(),
            "rows": rows.ctypes.data,
            "row_of": row_of.data_ptr(),
            "powers": powers.values.data_ptr(),
            **{kind: array.ctypes.data for kind, array in own.arrays.items()},
            "records": rows.shape[1],
            "first_step": run.first_step + chunk.start,
            "steps": steps,
            "blocks": blocks,
        }
        _in_threads(train, call, blocks, steps)
        if kept is not None:
            kept[chunk] = grads.transpose(2, 3).reshape(steps, -1, numbers)[:, placed.slot_of]
    for tensor, values in zip(run.tensors, packed, strict=True):
        if tensor is not None and values is not None:
            placed.scatter(values.transpose(1, 2).reshape(-1, numbers), tensor)


@dataclass(frozen=True, kw_only=True)
class _Own:
    """Scalars of models with hyperparameters of their own, by what they depend on.

    Attributes:
        depends: the array of each column.
        arrays: ``by_step`` [steps, columns], ``by_model`` [blocks, columns, width], ``by_both`` [steps, blocks, ...].
    """

    depends: tuple[str, ...]
    arrays: dict[str, np.ndarray]

    @classmethod
    def empty(cls) -> _Own:
        return cls(depends=(), arrays={kind: np.empty(0) for kind in ("by_step", "by_model", "by_both")})

    @classmethod
    def of(cls, columns: list[np.ndarray], record: np.ndarray) -> _Own:
        """From the columns of `RowTable.columns`; ``record`` is [blocks, width]."""
        depends = tuple("by_step" if c.shape[1] == 1 else "by_model" if c.shape[0] == 1 else "by_both" for c in columns)
        found = cls.empty()
        for kind in found.arrays:
            chosen = [column for column, where in zip(columns, depends, strict=True) if where == kind]
            if chosen and kind == "by_step":
                found.arrays[kind] = np.concatenate(chosen, 1)
            elif chosen:
                stacked = np.stack([column[:, record] for column in chosen], 2)
                found.arrays[kind] = stacked[0] if kind == "by_model" else stacked
        arrays = {kind: np.ascontiguousarray(array, np.float64) for kind, array in found.arrays.items()}
        return cls(depends=depends, arrays=arrays)


def _across(rows: Tensor, width: int) -> Tensor:
    """[blocks, n, width] of rows [slots, n]."""
    return rows.view(-1, width, rows.shape[1]).transpose(1, 2).contiguous()


def _in_threads(train: Any, call: Mapping[str, int], blocks: int, steps: int) -> None:
    """All blocks, parted among threads; nobody's bits depend on it."""
    threads = min(torch.get_num_threads(), blocks) if blocks * train_simd.WIDTH * steps >= _THREADED else 1
    bounds = [blocks * k // threads for k in range(threads + 1)]
    workers = [
        threading.Thread(target=train, args=({**call, "begin": begin, "end": end},))
        for begin, end in itertools.pairwise(bounds[1:])
    ]
    for worker in workers:
        worker.start()
    train({**call, "begin": bounds[0], "end": bounds[1]})
    for worker in workers:
        worker.join()
