"""Whether what a step writes has memory of its own: where two tensors share an element, one launch writes it twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .checks import bytes_spanned, is_dense, separate


def check_apart(params: Sequence[Tensor]) -> None:
    """Refuse parameters that share memory: a launch would step the shared elements several times at once.

    Raises:
        ValueError: if a parameter is given twice, overlaps itself (expanded) or another one.
    """
    if len(set(map(id, params))) != len(params):
        raise ValueError("params: a parameter is given twice and would be stepped twice at once; give each one once")
    if not _apart(params):
        raise ValueError(
            "params: parameters share memory (an expanded tensor, or views of one another); "
            "give each memory once, such as the base tensor or .clone()"
        )


def check_written_apart(written: Sequence[Tensor]) -> None:
    """Refuse states (and copies) that share memory with one another or with parameters, which lie apart.

    Raises:
        ValueError: if two do.
    """
    if not _apart(written):
        raise ValueError(
            "states: one shares memory with another or with a parameter, and both would be written at once; give each "
            "memory of its own, such as its .clone()"
        )


def _apart(tensors: Sequence[Tensor]) -> bool:
    filled = [p for p in tensors if p.numel()]
    gappy = [p for p in filled if not is_dense(p)]
    dense = [p for p in filled if is_dense(p)] if gappy else filled
    begins = np.array([p.data_ptr() for p in dense], np.int64)
    sizes = np.array([p.numel() * p.element_size() for p in dense], np.int64)
    # Run against run here; a tensor with gaps may lie between others' elements and is compared element by element.
    return runs_apart(begins, sizes) and (not gappy or _elements_apart(filled))


def runs_apart(begins: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether no two runs of memory overlap, given their addresses and bytes; empty ones are nowhere."""
    filled = sizes > 0
    begins, sizes = begins[filled], sizes[filled]
    order = np.argsort(begins)
    return not ((begins + sizes)[order][:-1] > begins[order][1:]).any()


def _elements_apart(params: Sequence[Tensor]) -> bool:
    """Whether tensors with gaps, and what lies between their first and last elements, share none."""
    together: list[Tensor] = []
    end = 0
    for p in [*sorted(params, key=Tensor.data_ptr), None]:
        if p is None or p.data_ptr() >= end:
            if not _apart_in_a_stretch(together):
                return False
            together = []
        if p is not None:
            together.append(p)
            end = max(end, p.data_ptr() + bytes_spanned(p))
    return True


def _apart_in_a_stretch(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors whose spans overlap share no element. Storages say nothing: two may be of one memory."""
    if all(map(is_dense, tensors)) or (len(tensors) == 1 and separate(tensors[0])):
        return True
    places = [_places(p) for p in tensors]
    sizes = [np.full(len(begins), p.element_size()) for p, begins in zip(tensors, places, strict=True)]
    return runs_apart(np.concatenate(places), np.concatenate(sizes))


def _places(tensor: Tensor) -> np.ndarray:
    """int64, the address of every element."""
    places = np.full(tensor.shape, tensor.data_ptr(), np.int64)
    for dimension, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        steps = np.arange(size, dtype=np.int64) * (stride * tensor.element_size())
        places += steps.reshape([-1 if d == dimension else 1 for d in range(tensor.dim())])
    return places.reshape(-1)
