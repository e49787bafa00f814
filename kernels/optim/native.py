"""The compiled half of `looks`: built on first use from ``looks.c``, and done without wherever it cannot be had.

`compiling` compiles it with the machine's C compiler, and keeps it. `compiled_look_missing` says why there is none.

It asks torch's stable C functions (those that exported models call) about a tensor. They take a handle, a pointer to
the tensor object's pointer to its implementation. Two things no such function tells: a tensor's dispatch keys, and, so
that it can be fetched early, where its storage is. Where an object has its pointer and an implementation these two is
not assumed: it is searched for, on tensors of several kinds, by torch's own account of each.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from . import compiling

_NAME = "kernels_looks"
_FUNCTIONS = (
    "aoti_torch_get_data_ptr",
    "aoti_torch_get_storage_size",
    "aoti_torch_get_storage_offset",
    "aoti_torch_get_dim",
    "aoti_torch_get_sizes",
    "aoti_torch_get_strides",
    "aoti_torch_get_dtype",
    "aoti_torch_get_device_type",
    "aoti_torch_get_device_index",
)
"""What the module is bound to, in this order."""

_IMPLEMENTATION = 192
"""Bytes of a tensor's implementation that are searched: the least size that torch's headers know it to have."""


def answers_in_python(tensor: Tensor) -> bool:
    """Whether a tensor's class is asked for its layout in Python, which may not run in the middle of a look."""
    return bool(torch._C._dispatch_keys(tensor).has(torch._C.DispatchKey.Python))


def compiled_look_missing() -> str:
    """Why optimizers look at their tensors with torch's methods, at the same answers and more time; empty if compiled.

    It is compiled now if it has not been yet.
    """
    found = _found()
    return found if isinstance(found, str) else ""


def compiled_look() -> ModuleType | None:
    """The compiled module, or None; loading it takes 4 ms, and a step of one parameter takes 4 µs less with it."""
    found = _found()
    return None if isinstance(found, str) else found


@functools.cache
def _found() -> ModuleType | str:
    """The module, or why there is none."""
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "it walks dicts and reads objects under the lock of CPython's interpreter"
    if not Path(compiling.headers(), "Python.h").exists():
        return f"no Python.h in {compiling.headers()}; install Python's headers"
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        functions = [_address(getattr(library, name)) for name in _FUNCTIONS]
        samples = _samples()
        offsets = (_handle_offset(samples), _keys_offset(samples), _storage_offset(samples))
        if None in offsets or not all(map(_has_handle, samples)) or any(map(answers_in_python, samples)):
            return f"torch {torch.__version__} lays tensors out in another way"

        def finish(module: ModuleType) -> str:
            module.bind(torch._C.TensorBase, *offsets, *functions)
            return "" if _agrees(module) else "what was compiled does not say of tensors what torch says"

        source = resources.files(__package__).joinpath("looks.c").read_text()
        return compiling.module_of(_NAME, source, torch.__version__, finish)
    except compiling.Unavailable as error:
        return str(error)
    except (AttributeError, TypeError, OSError, RuntimeError) as error:
        # Another torch, no folder for temporary files.
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _address(function: object) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    assert address is not None
    return address


class _Subclass(Tensor):
    """A sample of subclasses that users write."""


def _samples() -> list[Tensor]:
    whole, empty = (torch.zeros(n, dtype=torch.float32, device="cpu") for n in (8, 0))
    with torch.inference_mode():
        inference = torch.zeros(3, device="cpu")
    views = [whole[3:], torch._neg_view(whole), whole[1:].as_subclass(_Subclass)]
    return [whole, empty, torch.nn.Parameter(whole[:2]), whole.to_sparse(), inference, *views]


def _only_place(words: Iterable[tuple[int, int, int]]) -> int | None:
    """Where alone each of several objects, given as address, bytes and word, has its word."""
    places: set[int] | None = None
    for begin, size, word in words:
        step = ctypes.sizeof(ctypes.c_void_p)
        offsets = range(0, size - step + 1, step) if places is None else sorted(places)
        places = {at for at in offsets if ctypes.c_uint64.from_address(begin + at).value == word}
    return places.pop() if places is not None and len(places) == 1 else None


def _handle_offset(samples: Sequence[Tensor]) -> int | None:
    """Bytes from a tensor object to its pointer to its implementation; None if that is not in one place alone."""
    return _only_place((id(tensor), torch._C.TensorBase.__basicsize__, tensor._cdata) for tensor in samples)


def _keys_offset(samples: Sequence[Tensor]) -> int | None:
    """Bytes from an implementation to its dispatch keys."""
    keys = ((tensor._cdata, torch._C._dispatch_keys(tensor).raw_repr()) for tensor in samples)
    return _only_place((begin, _IMPLEMENTATION, word) for begin, word in keys)


def _storage_offset(samples: Sequence[Tensor]) -> int | None:
    """Bytes from an implementation to its pointer to its storage."""
    strided = [tensor for tensor in samples if tensor.layout is torch.strided]
    return _only_place((tensor._cdata, _IMPLEMENTATION, tensor.untyped_storage()._cdata) for tensor in strided)


def _has_handle(tensor: Tensor) -> bool:
    """Whether a handle that torch makes of a tensor points to a pointer to its implementation."""
    capsule = torch._C._aoti.unsafe_alloc_void_ptr_from_tensor(tensor)
    pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    word = ctypes.c_void_p.from_address(pointer_of(capsule, None)).value
    # Gives the handle back.
    torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr(capsule)
    return bool(word == tensor._cdata)


def _agrees(module: ModuleType) -> bool:
    """Whether the compiled look and torch's methods say the same of the samples."""
    import numpy as np

    samples = [tensor for tensor in _samples() if tensor.layout is torch.strided]
    whole = samples[0]
    samples += [whole.int(), whole.bfloat16(), whole.view(2, 4), whole.view(4, 2).t()]
    # No two are of one class, dtype, shape, strides and keys.
    layouts = [module.describe(tensor) for tensor in samples]
    if len(set(layouts)) < len(samples):
        return False
    for tensor, layout, other in zip(samples, layouts, layouts[1:] + layouts[:1], strict=True):
        left = tensor.untyped_storage().nbytes() - tensor.storage_offset() * tensor.element_size()
        # Address, size of an element, bytes, place of the layout; and what a look finds.
        for row, among, expected in (
            ((tensor.data_ptr(), tensor.element_size(), left, 0), layout, 0),
            ((tensor.data_ptr(), tensor.element_size(), left, 0), other, -1),
            ((tensor.data_ptr() + 8, tensor.element_size(), left, 0), layout, 1),
            ((tensor.data_ptr(), tensor.element_size(), left + 1, 0), layout, -2),
        ):
            if module.look([tensor], np.array([row], np.int64), among) != expected:
                return False
    return True
