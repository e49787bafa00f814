"""Whether parameters have memory of their own: where two share an element, one launch would step it twice at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .checks import is_dense, separate


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
    begins = np.array([p.data_ptr() for p in dense], np.int64)
    sizes = np.array([p.numel() * p.element_size() for p in dense], np.int64)
    # Run against run here; a tensor with gaps may lie between others' elements and is compared element by element.
    if not runs_apart(begins, sizes) or (gappy and not _elements_apart(gappy, filled)):
        raise ValueError(
            "params: parameters share memory (an expanded tensor, or views of one another); "
            "give each memory once, such as the base tensor or .clone()"
        )


def runs_apart(begins: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether no two runs of memory overlap, given their addresses and bytes; empty ones are nowhere."""
    filled = sizes > 0
    begins, sizes = begins[filled], sizes[filled]
    order = np.argsort(begins)
    return not ((begins + sizes)[order][:-1] > begins[order][1:]).any()


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
