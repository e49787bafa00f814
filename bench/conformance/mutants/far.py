"""A launch beyond 2^31 elements without 8 GiB: chunk numbers are moved up, and addresses down by as much."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch

from .place import module_of

_BLOCK = 1024
_CHUNKS = 2**31 // _BLOCK + 3


def far_step(package: ModuleType) -> torch.Tensor:
    """One SGD step of 4,000 elements that stand at element 2^31 + 3,072 of an imaginary tensor.

    Args:
        package: `kernels`, or a mutant of it, in an interpreter process.

    Returns:
        The stepped parameter; with 64-bit offsets it is p - g.
    """
    kernel: Any = module_of(package, "kernel_constants")
    p, g = torch.linspace(1, 2, 4000), torch.linspace(-1, 1, 4000)
    shift = _CHUNKS * _BLOCK
    tables: Any = module_of(package, "chunk_table")
    moved = np.array([[t.data_ptr() - shift * t.element_size()] for t in (p, g)], np.int64)
    host = tables.table_of(shift + p.numel(), [0], moved)
    chunks = tables.chunk_table(np.array([p.numel()]), _BLOCK)
    chunks[:, 1] += _CHUNKS
    recipe = package.get_algorithm("sgd").recipe("foreach")
    constants = kernel.kernel_constants(
        recipe, 0, states=0, dtypes=(torch.float32, torch.float32, torch.float32, None), block=_BLOCK
    )
    row = torch.tensor([[0.0, 0.0, 1.0, -1.0, 1.0]], dtype=torch.float64)
    nothing = torch.zeros(1)
    arguments = (torch.from_numpy(host), torch.from_numpy(chunks), row, nothing, nothing, nothing, nothing, 1, ())
    module_of(package, "interpreter.launch").launch(kernel.step_kernel, (len(chunks), 1, 1), arguments, constants)
    return p
