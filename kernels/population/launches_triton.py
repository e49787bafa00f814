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
from ..rounding.powers import power_table
from . import launches, train_kernel
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
        key = tensors[0].device.index, *[address % 16 == 0 for address in addresses]
        launch = self._compiled.get(key)
        if launch is not None:
            launch(programs, (*addresses, *counts))
        else:
            self._compiled[key] = self._first_launch(programs, tensors, counts)

    def _first_launch(self, programs: int, tensors: Sequence[Tensor], counts: tuple[int, ...]) -> Launch:
        """Compile it and launch it by Triton's own dispatch; how to launch it from then on."""
        with torch.cuda.device(tensors[0].device):
            compiled = self.function[(programs, 1, 1)](*tensors, *counts, **self.constants, **self.options)
        return launcher(compiled, tensors[0].device.index, tuple(self.constants.values()))


@functools.lru_cache(maxsize=256)
def _kernel(
    network: Network,
    policy: Policy,
    recipe: Recipe,
    flags: int,
    states: int,
    shared: bool,
    keep_gradients: bool,
    optimistic: bool,
    depends: tuple[str, ...],
    block: int,
) -> Kernel:
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


class TritonLaunches:
    """Trains a trainer's runs by `train_kernel`, on the GPU of the parameters or in the interpreter.

    Where the runs are ordinary ones, a first, optimistic pass takes short roots and quotients. The blocks for which it
    cannot vouch it leaves as they were and marks, and a second pass trains those: the result has the same bits either
    way. Both passes are enqueued at once: nobody waits for the marks.
    """

    def __init__(self) -> None:
        self._kernels: dict[tuple[Any, ...], Kernel] = {}
        self._marks: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, run: Run, data: Tensor, kept: Tensor | None) -> None:
        """Train all of ``data``.

        Args:
            run: what to do; of the same trainer, always.
            data: float32 [steps, families, features].
            kept: where gradients go, [steps, models, n], or None.
        """
        params, placed, rows = run.params, run.placement, run.rows
        device = params.device
        block = launches.block_of("interpreter" if interpreter.ACTIVE else "triton", params.shape[0])
        blocks = placed.listed.shape[0] // block
        optimistic = run.ordinary and (INTERPRETS_PASSES or not interpreter.ACTIVE)
        passes = (True, False) if optimistic else (False,)
        # A state that is not kept is not read, nor are gradients written.
        models = [params, *[params if state is None else state for state in run.states]]
        marks = self._marks_of(blocks, device, marked=not optimistic)
        data, table = data.contiguous(), power_table(device)
        most = None if interpreter.ACTIVE else launches.DEVICE_CHUNK
        for stretch in launches.chunks(data.shape[0], rows.bytes_per_step, most):
            first_step, steps = run.first_step + stretch.start, stretch.stop - stretch.start
            columns, powers = table.formed(
                lambda at=first_step, n=steps: rows.on(at, n, device, apart=not placed.shared)  # type: ignore[misc]
            )
            tensors = (
                *models,
                params if kept is None else kept[stretch],
                data[stretch],
                placed.listed,
                run.loss_scale,
                columns.by_step,
                columns.by_model,
                columns.by_both,
                run.record_of,
                powers,
                marks,
            )
            counts = (params.shape[0], run.families, run.arms, len(rows), first_step, steps)
            for first in passes:
                self._kernel(run, kept is not None, first, columns.depends, block).launch(blocks, tensors, counts)
        # Autograd does not see what kernels write; it counts no versions of inference tensors.
        written = [tensor for tensor in run.tensors if tensor is not None]
        increment_version([tensor for tensor in written if not tensor.is_inference()])

    def _kernel(self, run: Run, keep: bool, optimistic: bool, depends: tuple[str, ...], block: int) -> Kernel:
        key = keep, optimistic, depends
        if key not in self._kernels:
            self._kernels[key] = _kernel(
                run.network,
                run.policy,
                run.recipe,
                run.flags,
                run.states_mask,
                run.placement.shared,
                keep,
                optimistic,
                depends,
                block,
            )
        return self._kernels[key]

    def _marks_of(self, blocks: int, device: torch.device, *, marked: bool) -> Tensor:
        """int32 [blocks]: for a first pass to write, or all of them marked."""
        key = blocks, device, marked
        if key not in self._marks:
            made = torch.ones if marked else torch.empty
            self._marks[key] = made(blocks, dtype=torch.int32, device=device)
        return self._marks[key]
