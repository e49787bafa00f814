"""From tensors to buckets: which may be stepped together, and dense stand-ins for those with gaps or another order.

A kernel takes a tensor for a run of memory, so all that belongs to one parameter (gradient, states, copy) must be dense
and in the parameter's element order. What is not is copied into a stand-in before the launch and, where a step writes,
copied back after it. The optimizers and the functional API both come through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .step_kernel import TRITON_DTYPE
from .tables import Bucket

DTYPES = ", ".join(str(dtype).removeprefix("torch.") for dtype in TRITON_DTYPE)


@dataclass(kw_only=True)
class Member:
    """The tensors of one parameter, and the options it is stepped with.

    Attributes:
        param, grad: of one shape and device.
        states: three state tensors in rule order, None where the options keep none.
        copy: a low-precision copy of the parameter that the step writes too.
        flags: bit mask of `kernels.flags`.
    """

    param: Tensor
    grad: Tensor
    states: tuple[Tensor | None, ...]
    copy: Tensor | None = None
    flags: int = 0


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
                if not _separate(source):
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


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a run of memory, in any order of dimensions."""
    return tensor.is_contiguous() or bool(torch.ops.aten.is_non_overlapping_and_dense(tensor))


def _order(tensor: Tensor) -> tuple[int, ...]:
    """The strides that matter: those of dimensions with more than one element."""
    return tuple(stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1)


def same_order(tensor: Tensor, like: Tensor) -> bool:
    """Whether a tensor of ``like``'s shape has its elements where ``like`` (dense) has them."""
    if tensor.stride() == like.stride() or tensor.numel() == 0:
        return True
    return _order(tensor) == _order(like)


def _separate(tensor: Tensor) -> bool:
    """Whether the strides alone rule out two elements in one place."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return False
            reach += stride * (size - 1)
    return True


def check_param(param: Tensor, what: str = "params", *, instead: str = "") -> None:
    """Refuse what the kernels cannot step.

    Args:
        param: to be stepped.
        what: the argument's name, for the error.
        instead: what steps other dtypes, for the error.

    Raises:
        TypeError: for a sparse, complex, float64 or integer tensor, or a subclass that wraps others.
        ValueError: for a device that is neither CPU nor CUDA.
    """
    if param.layout is not torch.strided or is_traceable_wrapper_subclass(param):
        raise TypeError(
            f"{what}: a {torch.typename(param)} of layout {param.layout}; give an ordinary dense tensor"
            + (f", or use {instead}" if instead else "")
        )
    if param.dtype not in TRITON_DTYPE:
        raise TypeError(
            f"{what}: a parameter of {param.dtype}; these kernels step {DTYPES}"
            + (f", use {instead} for others" if instead else ", convert it")
        )
    if param.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{what}: a parameter on {param.device}; move it to the CPU or a CUDA device")


def check_grad(param: Tensor, grad: Tensor, title: str = "step") -> None:
    """Refuse a gradient that does not fit its parameter.

    Raises:
        RuntimeError: for a sparse gradient, as torch.optim.Adam does.
        TypeError: for a dtype that is not float32, bfloat16 or float16.
        ValueError: for another shape or device.
    """
    if grad.layout is not torch.strided:
        raise RuntimeError(
            f"{title} does not support sparse gradients; use torch.optim.SparseAdam, or dense gradients (sparse=False)"
        )
    if grad.dtype not in TRITON_DTYPE:
        raise TypeError(f"grad of {grad.dtype}: these kernels take {DTYPES} gradients; convert it")
    if grad.shape != param.shape or grad.device != param.device:
        raise ValueError(
            f"grad of shape {tuple(grad.shape)} on {grad.device}: its parameter has shape {tuple(param.shape)} on "
            f"{param.device}; set grad to None after changing a parameter's shape or device"
        )


def check_state(param: Tensor, name: str, state: Any) -> None:
    """Refuse a state that does not fit its parameter.

    Raises:
        TypeError: for a value that is no tensor of float32, bfloat16 or float16.
        ValueError: for another shape or device, or elements that share memory.
    """
    if not isinstance(state, Tensor) or state.layout is not torch.strided or state.dtype not in TRITON_DTYPE:
        found = state.dtype if isinstance(state, Tensor) else type(state).__name__
        raise TypeError(f"state {name!r} of {found}: these kernels keep {DTYPES} tensors; convert it")
    if state.shape != param.shape or state.device != param.device:
        raise ValueError(
            f"state {name!r} of shape {tuple(state.shape)} on {state.device}: its parameter has shape "
            f"{tuple(param.shape)} on {param.device}; convert the state with the parameter, or clear it"
        )
    if not _separate(state):
        raise ValueError(
            f"state {name!r} of strides {state.stride()}: its elements share memory, so it cannot be written; "
            "give its .clone()"
        )


def check_apart(params: Sequence[Tensor]) -> None:
    """Refuse parameters that share memory: a launch would step the shared elements several times at once.

    Raises:
        ValueError: if a parameter is given twice, overlaps itself (expanded) or another one.
    """
    if len(set(map(id, params))) != len(params):
        raise ValueError("params: a parameter is given twice and would be stepped twice at once; give each one once")
    filled = [p for p in params if p.numel()]
    gappy = [p for p in filled if not is_dense(p)]
    dense = [p for p in filled if is_dense(p)] if gappy else filled
    begin = np.array([p.data_ptr() for p in dense], np.int64)
    end = begin + np.array([p.numel() * p.element_size() for p in dense], np.int64)
    order = np.argsort(begin)
    # Run against run here; a tensor with gaps may lie between others' elements and is compared element by element.
    if (end[order][:-1] > begin[order][1:]).any() or (gappy and not _elements_apart(gappy, filled)):
        raise ValueError(
            "params: parameters share memory (an expanded tensor, or views of one another); "
            "give each memory once, such as the base tensor or .clone()"
        )


def _elements_apart(gappy: Sequence[Tensor], params: Sequence[Tensor]) -> bool:
    storages = {p.untyped_storage().data_ptr() for p in gappy}
    sharing: dict[int, list[Tensor]] = {}
    for p in params:
        pointer = p.untyped_storage().data_ptr()
        if pointer in storages:
            sharing.setdefault(pointer, []).append(p)
    for tensors in sharing.values():
        if len(tensors) == 1 and _separate(tensors[0]):
            continue
        places = torch.cat([_places(p) for p in tensors])
        if len(np.unique(places.numpy(force=True))) != places.numel():
            return False
    return True


def _places(tensor: Tensor) -> Tensor:
    """Byte offset of every element in its storage."""
    places = torch.full(tensor.shape, int(tensor.storage_offset()), dtype=torch.int64, device=tensor.device)
    for dimension, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        steps = torch.arange(size, dtype=torch.int64, device=tensor.device) * stride
        places += steps.view([-1 if d == dimension else 1 for d in range(tensor.dim())])
    return places.flatten() * tensor.element_size()


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
