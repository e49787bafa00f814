"""The compiled half of `looks`: built on first use from ``looks.c``, and done without wherever it cannot be had.

Triton's own builder compiles it, as it compiles its launchers wherever it is used, and keeps it in Triton's cache. It
asks torch's stable C functions (those that exported models call) about a tensor's memory. They take a handle, a pointer
to the tensor object's pointer to its implementation. Where an object has that pointer is not assumed: it is searched
for, and checked on tensors of several classes against torch's own account of both.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

FEWEST = 64
"""Parameters from which on an optimizer asks for it."""

_FUNCTIONS = ("aoti_torch_get_data_ptr", "aoti_torch_get_storage_size", "aoti_torch_get_storage_offset")


def looks_for(count: int) -> ModuleType | None:
    """The compiled module for so many parameters: None where it is not worth its build, or cannot be had."""
    return _built() if count >= FEWEST else None


@functools.cache
def _built() -> ModuleType | None:
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        # It walks dicts and reads objects under the interpreter's lock.
        return None
    scheme = sysconfig.get_default_scheme()
    headers = sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)
    if not Path(headers, "Python.h").exists():
        # Where Triton looks. The compiler would complain on the user's terminal.
        return None
    try:
        from triton.runtime.build import compile_module_from_src

        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        functions = [_address(getattr(library, name)) for name in _FUNCTIONS]
        samples = _samples()
        offset = _handle_offset(samples)
        if offset is None or not all(map(_has_handle, samples)):
            return None
        source = resources.files(__package__).joinpath("looks.c").read_text()
        module: ModuleType = compile_module_from_src(src=source, name="kernels_looks")
        module.bind(torch._C.TensorBase, offset, *functions)
    except (ImportError, AttributeError, TypeError, OSError, RuntimeError, subprocess.CalledProcessError):
        # Another torch or Triton, no compiler, no folder for its cache.
        return None
    return module if _agrees(module) else None


def _address(function: object) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    assert address is not None
    return address


class _Subclass(Tensor):
    """A sample of subclasses that users write."""


def _samples() -> list[Tensor]:
    whole, empty = (torch.zeros(n, dtype=torch.float32, device="cpu") for n in (8, 0))
    return [whole, whole[3:], torch.nn.Parameter(whole[:2]), empty, whole[1:].as_subclass(_Subclass)]


def _handle_offset(samples: Sequence[Tensor]) -> int | None:
    """Bytes from a tensor object to its pointer to its implementation; None if that is not in one place alone."""
    size, pointer = torch._C.TensorBase.__basicsize__, ctypes.sizeof(ctypes.c_void_p)
    places = set(range(0, size - pointer + 1, pointer))
    for tensor in samples:
        words = {at: ctypes.c_void_p.from_address(id(tensor) + at).value for at in places}
        places = {at for at, word in words.items() if word == tensor._cdata}
    return places.pop() if len(places) == 1 else None


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

    samples = tuple(_samples())
    known = np.array([[tensor.data_ptr(), 4, 4 * tensor.numel()] for tensor in samples], np.int64)
    beyond = known.copy()
    beyond[1, 2] += 1
    return bool(module.look(samples, None, known) == 0 and module.look(samples, None, beyond) < 0)
