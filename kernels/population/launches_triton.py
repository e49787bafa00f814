"""From a run to launches of `train_kernel`, on a GPU or in the interpreter."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..algorithm import Recipe
from ..backends import interpreter
from ..backends.triton import Launch, launcher
from ..launch.rows import Columns
from ..rounding.powers import power_table
from . import launches, pack_kernel, train_kernel
from .launches import Run
from .network import Network
from .policy import Policy

INTERPRETS_PASSES = False
"""Whether the interpreter makes two passes too, where it knows the GPU's tables (tests lend it some)."""


@dataclass(frozen=True)
class Kernel:
    """A kernel with its compile-time arguments, to be launched again and again.

    Attributes:
        function: the Triton function.
        constants: its compile-time arguments.
        options: the compiler's.
    """

    function: Any
    constants: dict[str, Any]
    options: Mapping[str, Any]
    _compiled: dict[Any, Launch] = field(default_factory=dict)

    def launch(self, programs: int, tensors: Sequence[Tensor], counts: tuple[int, ...] = ()) -> None:
        """Enqueue it on the device of the tensors; in the interpreter where that is switched on.

        Args:
            programs: how many.
            tensors: the pointers.
            counts: the numbers behind them.
        """
        if interpreter.ACTIVE:
            interpreter.launch(self.function, (programs, 1, 1), (*tensors, *counts), self.constants)
            return
        addresses = [tensor.data_ptr() for tensor in tensors]
        # What a compiled kernel takes for granted, beside its constants.
        key = tensors[0].device.index, *(address % 16 == 0 for address in addresses)
        launch = self._compiled.get(key)
        if launch is not None:
            launch(programs, (*addresses, *counts))
            return
        with torch.cuda.device(tensors[0].device):
            compiled = self.function[(programs, 1, 1)](*tensors, *counts, **self.constants, **self.options)
        self._compiled[key] = launcher(compiled, tensors[0].device.index, tuple(self.constants.values()))


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """All kernels of a kind of run.

    Attributes:
        pack, unpack: `pack_kernel`, there and back.
        first: `train_kernel`, an optimistic pass over all blocks.
        listed: the other one, over the blocks that it is given.
    """

    pack: Kernel
    unpack: Kernel
    first: Kernel
    listed: Kernel


@functools.lru_cache(maxsize=256)
def _kernels(
    network: Network,
    policy: Policy,
    recipe: Recipe,
    flags: int,
    states: int,
    shared: bool,
    keep_gradients: bool,
    depends: tuple[str, ...],
    block: int,
) -> Kernels:
    def train(*, optimistic: bool) -> Kernel:
        constants = launches.training_constants(
            network,
            policy,
            recipe,
            flags=flags,
            states=states,
            shared=shared,
            keep_gradients=keep_gradients,
            optimistic=optimistic,
            depends=depends,
            block=block,
        )
        return Kernel(train_kernel.train_kernel, constants, train_kernel.LAUNCH_OPTIONS)

    def move(*, back: bool) -> Kernel:
        log = launches.width_log(network.parameters)
        constants = {"STATES": states, "NUMBERS": network.parameters, "LOG": log, "BACK": back, "ROWS": block}
        return Kernel(pack_kernel.pack_kernel, constants, pack_kernel.LAUNCH_OPTIONS)

    return Kernels(
        pack=move(back=False),
        unpack=move(back=True),
        first=train(optimistic=True),
        listed=train(optimistic=False),
    )


def triton_launches(run: Run, data: Tensor, kept: Tensor | None) -> None:
    """Train by `train_kernel`, on the GPU of the parameters or in the interpreter.

    Where the run is an ordinary one, a first, optimistic pass takes short roots and quotients. The blocks for which it
    cannot vouch it leaves as they were, and a second pass trains those: the result has the same bits either way.

    Args:
        run: what to do.
        data: float32 [steps, families, features].
        kept: where gradients go, [steps, models, n], or None.
    """
    device, placed = run.params.device, run.placement
    block = launches.block_of("interpreter" if interpreter.ACTIVE else "triton", len(run.params))
    slots, width = len(placed.listed), 1 << launches.width_log(run.network.parameters)
    blocks = slots // block
    held = [tensor if tensor is None else tensor.contiguous() for tensor in run.tensors]
    packed = [tensor if tensor is None else run.loss_scale.new_empty(slots, width) for tensor in held]
    # A state that is not kept is not read.
    rows_of, padded = (_without_gaps(tensors) for tensors in (held, packed))
    data, powers = data.contiguous(), power_table(device)
    per_step = run.rows.bytes_per_step + (0 if kept is None else slots * width * 4)
    stretches = list(launches.chunks(len(data), per_step, None if interpreter.ACTIVE else launches.DEVICE_CHUNK))
    for stretch in stretches:
        first_step, steps = run.first_step + stretch.start, stretch.stop - stretch.start
        columns = None if placed.shared else run.rows.columns_on(first_step, steps, device)
        if columns is None:
            rows = run.rows.tensor(first_step, steps, device)
            columns = Columns(depends=(), by_step=rows, by_model=rows, by_both=rows)
        found = _kernels(
            run.network,
            run.policy,
            run.recipe,
            run.flags,
            run.states_mask,
            placed.shared,
            kept is not None,
            columns.depends,
            block,
        )
        if stretch is stretches[0]:
            found.pack.launch(blocks, (*rows_of, *padded, placed.listed))
        grads = padded[0] if kept is None else padded[0].new_empty(steps, slots, width)
        given = (
            *padded,
            grads,
            data[stretch],
            placed.listed,
            run.loss_scale,
            columns.by_step,
            columns.by_model,
            columns.by_both,
            run.record_of,
            powers.values,
        )
        counts = (blocks, run.families, run.arms, len(run.rows), first_step, steps)
        optimistic = run.ordinary and (INTERPRETS_PASSES or not interpreter.ACTIVE)
        if optimistic:
            doubtful = torch.zeros(blocks + 1, dtype=torch.int32, device=device)
            found.first.launch(blocks, (*given, doubtful), counts)
        else:
            every = torch.arange(blocks, dtype=torch.int32, device=device)
            found.listed.launch(blocks, (*given, every), counts)
        if stretch is stretches[-1]:
            # Before the host waits: there is seldom more to do.
            found.unpack.launch(blocks, (*padded, *rows_of, placed.listed))
        if optimistic and doubtful[-1].item():
            again = doubtful[:-1].nonzero().squeeze(1).int()
            found.listed.launch(len(again), (*given, again), counts)
            if stretch is stretches[-1]:
                found.unpack.launch(blocks, (*padded, *rows_of, placed.listed))
        if kept is not None:
            kept[stretch] = grads[:, placed.slot_of, : run.network.parameters]
    written = []
    for tensor, values in zip(run.tensors, held, strict=True):
        if tensor is not None and values is not None:
            written.append(tensor)
            if values is not tensor:
                tensor.copy_(values)
    # Autograd does not see what kernels write; it counts no versions of inference tensors.
    increment_version([tensor for tensor in written if not tensor.is_inference()])


def _without_gaps(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    first = tensors[0]
    assert first is not None, "parameters are always there"
    return [first if tensor is None else tensor for tensor in tensors]
