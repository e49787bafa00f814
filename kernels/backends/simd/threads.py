"""torch's own threads: the OpenMP runtime that it brings, so that one pool serves both and wakes quickly."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


@functools.cache
def _parallel() -> Callable[..., Any] | None:
    """``GOMP_parallel(function, argument, threads, flags)`` of the runtime that torch is linked to, if it has it."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        parallel = library.GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    return parallel


def run(function: int, argument: int, threads: int) -> bool:
    """Call the function at an address in so many threads at once and wait for all; False if there are no threads."""
    parallel = _parallel()
    if parallel is None:
        return False
    parallel(function, argument, threads, 0)
    return True
