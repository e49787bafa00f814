"""Which tensors a kernel can be given: every refusal, and what it says.

A kernel takes a tensor for a run of memory. Whatever becomes an address is looked at here first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..rounding.dtypes import BY_TORCH, NAMES


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


def separate(tensor: Tensor) -> bool:
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
    if param.dtype not in BY_TORCH:
        raise TypeError(
            f"{what}: a parameter of {param.dtype}; these kernels step {NAMES}"
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
    if grad.dtype not in BY_TORCH:
        raise TypeError(f"grad of {grad.dtype}: these kernels take {NAMES} gradients; convert it")
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
    if not isinstance(state, Tensor) or state.layout is not torch.strided or state.dtype not in BY_TORCH:
        found = state.dtype if isinstance(state, Tensor) else type(state).__name__
        raise TypeError(f"state {name!r} of {found}: these kernels keep {NAMES} tensors; convert it")
    if state.shape != param.shape or state.device != param.device:
        raise ValueError(
            f"state {name!r} of shape {tuple(state.shape)} on {state.device}: its parameter has shape "
            f"{tuple(param.shape)} on {param.device}; convert the state with the parameter, or clear it"
        )
    if not separate(state):
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
        if len(tensors) == 1 and separate(tensors[0]):
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
