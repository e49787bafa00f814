"""Which tensors a kernel can be given: every refusal, and what it says.

A kernel takes a tensor for a run of memory. Whatever becomes an address is looked at here first.
"""

from __future__ import annotations

from collections.abc import Collection
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..rounding.dtypes import BY_TORCH, NAMES

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
NUMBERS = (*BY_TORCH, torch.float64, *_INTEGERS)
"""Dtypes of tensors that hold numbers for a step: scales, overflow flags, counts."""
_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


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


class IncompleteState(KeyError, ValueError):
    """A state that lacks what its algorithm needs; torch raises KeyError."""

    def __str__(self) -> str:
        return str(self.args[0])


def kind_of(tensor: Tensor) -> str:
    """What a tensor is, for errors: its class where it is a subclass, such as DTensor."""
    return type(tensor).__name__


def _borrows(tensor: Tensor) -> bool:
    """Whether a tensor's elements live in other tensors, or nowhere."""
    # In this order: is_fake() crashes on a parameter whose data is such a tensor.
    if torch._is_functional_tensor(tensor) or tensor._is_zerotensor():
        return True
    # Within torch.func's transforms alone: torch.compile warns of the second.
    if torch._C._are_functorch_transforms_active() and torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return True
    if type(tensor) is Tensor:
        # What is looked for next are subclasses, and takes longer.
        return False
    return any((is_traceable_wrapper_subclass(tensor), is_fake(tensor)))


def _comes_later(param: Tensor) -> bool:
    """Whether a parameter may get its memory after its optimizer is made: lazy, on the meta device, or fake."""
    if is_lazy(param) or param.device.type == "meta":
        return True
    return not torch._is_functional_tensor(param) and is_fake(param)


def bytes_spanned(tensor: Tensor) -> int:
    """Bytes from a strided tensor's first element to the end of its last."""
    if tensor.is_contiguous():
        return tensor.numel() * tensor.element_size()
    if not tensor.numel():
        return 0
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in sizes)) * tensor.element_size()


def has_memory(tensor: Tensor) -> bool:
    """Whether all elements of a strided tensor lie where its address says, in a storage that holds them.

    False for what wraps other tensors, for fake and meta tensors, and after a storage was freed or shrunk. An empty
    tensor needs no memory.
    """
    return not _borrows(tensor) and tensor.device.type != "meta" and _storage_holds(tensor)


def _storage_holds(tensor: Tensor) -> bool:
    """`has_memory` for what neither borrows its elements nor is on the meta device."""
    if not tensor.numel():
        return True
    reach = tensor.storage_offset() * tensor.element_size() + bytes_spanned(tensor)
    return tensor.data_ptr() != 0 and tensor.untyped_storage().nbytes() >= reach


def check_tensor(
    tensor: Any, what: str, remedy: str, *, dtypes: Collection[torch.dtype] = BY_TORCH, written: bool = False
) -> None:
    """Refuse what is no run of memory of a dtype that the kernels know: whatever becomes an address comes through here.

    Args:
        tensor: a parameter, gradient, state, copy, scale, flag or count.
        what: its name, for the error.
        remedy: what to do instead, for the error.
        dtypes: that it may have.
        written: whether it is written in place, which torch forbids for tensors made in inference mode outside of it.

    Raises:
        TypeError: for what is no tensor, another dtype or layout, or a subclass without memory of its own.
        ValueError: for a device that is neither CPU nor CUDA, memory that was freed, and an inference tensor.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{what}: a {type(tensor).__name__}, no tensor; {remedy}")
    if is_lazy(tensor):
        raise ValueError(f"{what}: uninitialized; run the module once, so that its lazy parameters get their shapes")
    instead = remedy.removeprefix("give ")
    if tensor.layout is not torch.strided or tensor.is_nested:
        layout = "a nested tensor" if tensor.is_nested else f"layout {tensor.layout}"
        raise TypeError(f"{what}: a {kind_of(tensor)} of {layout}; give an ordinary dense tensor, or {instead}")
    if _borrows(tensor):
        dense = "its .to_local()" if kind_of(tensor) == "DTensor" else "an ordinary dense tensor"
        raise TypeError(f"{what}: a {kind_of(tensor)}, which has no memory of its own; give {dense}, or {instead}")
    if tensor.dtype not in dtypes:
        takes = f"these kernels step {NAMES}; " if dtypes is BY_TORCH else ""
        raise TypeError(f"{what} of {tensor.dtype}: {takes}{remedy}")
    if tensor.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{what} on {tensor.device}; move it to the CPU or a CUDA device")
    if tensor.is_neg():
        raise TypeError(f"{what}: its elements are negated when they are read; give tensor.resolve_neg()")
    if not _storage_holds(tensor):
        raise ValueError(
            f"{what}: its storage was freed or is too small for its elements; bring its memory back before the step"
        )
    if written and tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(f"{what} made in inference mode: it cannot be written outside of it; give its .clone()")


def one_number(value: Any, what: str) -> Tensor:
    """A scale, an overflow flag or a count as a tensor of one element.

    Raises:
        TypeError: for what is neither a number nor an ordinary tensor of numbers.
        ValueError: for a tensor of more or fewer elements, and memory that was freed.
    """
    remedy = "give a number, or a float32 tensor of one element"
    if isinstance(value, Real):
        return torch.tensor(float(value), dtype=torch.float32)
    check_tensor(value, what, remedy, dtypes=NUMBERS)
    if value.numel() != 1:
        raise ValueError(f"{what} of shape {tuple(value.shape)}: {remedy}")
    tensor: Tensor = value
    return tensor


def check_param(param: Tensor, what: str = "params", *, instead: str = "", stepped: bool = True) -> None:
    """Refuse what the kernels cannot step.

    Args:
        param: to be stepped.
        what: the argument's name, for the error.
        instead: what steps other dtypes, for the error.
        stepped: whether it is stepped now; where an optimizer is made a parameter may still be on the meta device.

    Raises:
        TypeError: for a sparse, complex, float64 or integer tensor, or a subclass that wraps others.
        ValueError: for a device that is neither CPU nor CUDA, and memory that was freed.
    """
    if not stepped and param.layout is torch.strided and param.dtype in BY_TORCH and _comes_later(param):
        return
    remedy = f"use {instead} for it" if instead else "convert it"
    check_tensor(param, f"{what}: a parameter", remedy, written=stepped)


def check_grad(param: Tensor, grad: Any, title: str = "step") -> None:
    """Refuse a gradient that does not fit its parameter.

    Raises:
        RuntimeError: for a sparse gradient, as torch.optim.Adam does.
        TypeError: for a dtype that is not float32, bfloat16 or float16, or a subclass without memory of its own.
        ValueError: for another shape or device.
    """
    if isinstance(grad, Tensor) and grad.layout in _SPARSE:
        takes = title if title in ("SGD", "Adagrad") else "SparseAdam"
        raise RuntimeError(
            f"{title} does not support sparse gradients; use torch.optim.{takes}, or dense gradients (sparse=False)"
        )
    check_tensor(grad, "grad", "convert it")
    if grad.shape != param.shape or grad.device != param.device:
        raise ValueError(
            f"grad of shape {tuple(grad.shape)} on {grad.device}: its parameter has shape {tuple(param.shape)} on "
            f"{param.device}; set grad to None after changing a parameter's shape or device"
        )


def check_state(param: Tensor, name: str, state: Any) -> None:
    """Refuse a state that does not fit its parameter.

    Raises:
        TypeError: for a value that is no tensor of float32, bfloat16 or float16 with memory of its own.
        ValueError: for another shape or device, or elements that share memory.
    """
    check_tensor(state, f"state {name!r}", "convert it", written=True)
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
