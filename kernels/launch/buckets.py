"""From tensors to buckets: which may be stepped together, and dense stand-ins for those with gaps or another order.

A kernel takes a tensor for a run of memory, so all that belongs to one parameter (gradient, states, copy) must be dense
and in the parameter's element order. What is not is copied into a stand-in before the launch and, where a step writes,
copied back after it. The optimizers and the functional API both come through here.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import is_dense, same_order, separate
from .dtypes import Dtypes


@dataclass(kw_only=True)
class Bucket:
    """Tensors of one launch: same device, dtypes and options; gradients may be replaced by others of the same dtype.

    Attributes:
        params, grads: dense tensors; ``grads[i]`` has the strides of ``params[i]``.
        states: up to three lists like ``params``, None where the options keep no such state.
        row_of: number of each tensor's row of host scalars.
        copies: low-precision copies of the parameters written in the same launch, or None.
    """

    params: list[Tensor]
    grads: list[Tensor]
    states: list[list[Tensor] | None]
    row_of: Sequence[int] | np.ndarray
    copies: list[Tensor] | None = None

    @functools.cached_property
    def device(self) -> torch.device:
        """Where all of its tensors live."""
        return self.params[0].device

    @functools.cached_property
    def dtypes(self) -> Dtypes:
        """Dtypes of parameters, gradients, states (the parameters' if there is none) and copies."""
        kept = [state for state in self.states if state]
        param = self.params[0].dtype
        return (
            param,
            self.grads[0].dtype,
            kept[0][0].dtype if kept else param,
            self.copies[0].dtype if self.copies else None,
        )

    @functools.cached_property
    def states_mask(self) -> int:
        """Bit k is set where state k is kept."""
        return sum(1 << k for k, kept in enumerate(self.states) if kept is not None)

    def columns(self) -> list[list[Tensor]]:
        """The tensor lists in the order of the address table."""
        lists = [self.params, self.grads, *(state for state in self.states if state is not None)]
        return [*lists, self.copies] if self.copies is not None else lists


@dataclass(kw_only=True)
class Member:
    """The tensors of one parameter, and the options it is stepped with.

    Attributes:
        param, grad: of one shape and device.
        states: three state tensors in rule order, None where the options keep none.
        copy: a low-precision copy of the parameter that the step writes too.
        flags: bit mask of `kernels.rounding.flags`.
    """

    param: Tensor
    grad: Tensor
    states: tuple[Tensor | None, ...]
    copy: Tensor | None = None
    flags: int = 0

    @property
    def written(self) -> list[Tensor]:
        """All but the gradient."""
        return [tensor for tensor in (self.param, *self.states, self.copy) if tensor is not None]


@dataclass(kw_only=True)
class Assembly:
    """A bucket, where its tensors come from, and the stand-ins among them.

    Attributes:
        flags: of all its members.
        bucket: what is launched.
        positions: which members these are, in the bucket's order.
        sources: their gradients as given.
        grad_stand_ins: dense copies of gradients, by place in the bucket.
        stand_ins: (tensor, its dense copy) for parameters, states and copies.
    """

    flags: int
    bucket: Bucket
    positions: list[int]
    sources: list[Tensor]
    grad_stand_ins: dict[int, Tensor] = field(default_factory=dict)
    stand_ins: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def take(self, grads: list[Tensor]) -> None:
        """Use new gradients of the same layouts."""
        self.sources = grads
        if self.grad_stand_ins:
            grads = list(grads)
            for place, dense in self.grad_stand_ins.items():
                grads[place] = dense
        self.bucket.grads = grads

    def release(self) -> None:
        """Hold on to no gradient: set to None, its memory is free for the next backward pass."""
        self.sources = self.bucket.grads = []

    def check(self, *, scaled: bool) -> None:
        """Refuse what a step could not write back, before any bucket is stepped.

        Raises:
            ValueError: with ``scaled``, for a gradient whose elements share memory, or made in inference mode.
        """
        if scaled:
            if any(map(Tensor.is_inference, self.sources)) and not torch.is_inference_mode_enabled():
                raise ValueError("grad made in inference mode: it cannot be unscaled in place; give grad.clone()")
            for place in self.grad_stand_ins:
                source = self.sources[place]
                if not separate(source):
                    raise ValueError(
                        f"grad of strides {source.stride()}: its elements share memory, so it cannot be unscaled in "
                        "place; give grad.clone()"
                    )

    def load(self) -> None:
        """Fill the stand-ins, before a step."""
        for place, dense in self.grad_stand_ins.items():
            dense.copy_(self.sources[place])
        for source, dense in self.stand_ins:
            dense.copy_(source)

    def store(self, *, scaled: bool) -> None:
        """Write the stand-ins back, after a step."""
        for source, dense in self.stand_ins:
            source.copy_(dense)
        if scaled:
            for place, dense in self.grad_stand_ins.items():
                self.sources[place].copy_(dense)


def assemble(members: Sequence[Member]) -> list[Assembly]:
    """Group members by device, dtypes and flags, with stand-ins where needed.

    Args:
        members: checked by `check_param`, `check_grad` and `check_state`.

    Raises:
        TypeError: if the states of a parameter differ in dtype.
    """
    kinds: dict[Any, list[int]] = {}
    for position, member in enumerate(members):
        dtypes = {state.dtype for state in member.states if state is not None}
        if len(dtypes) > 1:
            names = ", ".join(sorted(str(dtype) for dtype in dtypes))
            raise TypeError(f"states of {names} for one parameter: give all of them one dtype")
        p, copy = member.param, member.copy
        state_dtype = dtypes.pop() if dtypes else None
        copy_dtype = copy.dtype if copy is not None else None
        kept = tuple(state is not None for state in member.states)
        key = (p.device, p.dtype, member.grad.dtype, state_dtype, copy_dtype, kept, member.flags)
        kinds.setdefault(key, []).append(position)
    return [_assemble_one(key[-1], members, positions) for key, positions in kinds.items()]


def _assemble_one(flags: int, members: Sequence[Member], positions: list[int]) -> Assembly:
    chosen = [members[position] for position in positions]
    grads = [member.grad for member in chosen]
    params = [member.param for member in chosen]
    columns = [[member.states[slot] for member in chosen] for slot in range(3)]
    copies = [member.copy for member in chosen]
    stand_ins: list[tuple[Tensor, Tensor]] = []
    grad_stand_ins: dict[int, Tensor] = {}
    for place, member in enumerate(chosen):
        if not is_dense(member.param):
            params[place] = torch.empty_like(member.param, memory_format=torch.contiguous_format)
            stand_ins.append((member.param, params[place]))
        like = params[place]
        if not same_order(member.grad, like):
            grad_stand_ins[place] = torch.empty_like(like, dtype=member.grad.dtype)
        for column in (*columns, copies):
            kept = column[place]
            if kept is not None and not same_order(kept, like):
                column[place] = dense = torch.empty_like(like, dtype=kept.dtype)
                stand_ins.append((kept, dense))
    kept_columns = [_column(column) for column in columns]
    bucket = Bucket(params=params, grads=[], states=kept_columns, row_of=[], copies=_column(copies))
    assembly = Assembly(
        flags=flags,
        bucket=bucket,
        positions=positions,
        sources=grads,
        grad_stand_ins=grad_stand_ins,
        stand_ins=stand_ins,
    )
    assembly.take(grads)
    return assembly


def _column(tensors: Sequence[Tensor | None]) -> list[Tensor] | None:
    """The tensors of one slot: all there, or none."""
    present = [tensor for tensor in tensors if tensor is not None]
    assert len(present) in (0, len(tensors))
    return present or None
