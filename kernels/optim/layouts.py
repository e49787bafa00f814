"""How tensors lay in memory, to be compared at every step with how they lie now.

Compared as it is read: with thousands of tensors every new list or tuple costs as much as what it is compared for.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..launch.checks import bytes_spanned, has_memory

_SHAPE, _DTYPE, _DEVICE = map(operator.attrgetter, ("shape", "dtype", "device"))


class Layouts:
    """Shapes, strides, dtypes, devices and types that tensors had.

    Args:
        tensors: as they are now.
        written: whether they are written in place: inference tensors are others then, and so is the mode.
    """

    def __init__(self, tensors: Sequence[Tensor], *, written: bool = False) -> None:
        self._shapes = list(map(_SHAPE, tensors))
        self._strides = list(map(Tensor.stride, tensors))
        self._dtypes = list(map(_DTYPE, tensors))
        self._devices = list(map(_DEVICE, tensors))
        self._types = list(map(type, tensors))
        self._inference = list(map(Tensor.is_inference, tensors)) if written else None
        self._within = torch.is_inference_mode_enabled() if any(self._inference or ()) else None
        self._guards = _guards(tensors, self._shapes, self._strides)

    def same(self, tensors: Sequence[Tensor]) -> bool:
        """Whether equally many tensors are laid out as those were."""
        if self._within not in (None, torch.is_inference_mode_enabled()):
            return False
        if self._guards is not None and self._guards.check(*tensors):
            # They look at all that is looked at below, and at more: what they refuse is looked at again.
            return True
        try:
            return (
                all(map(operator.eq, map(_SHAPE, tensors), self._shapes))
                and all(map(operator.eq, map(Tensor.stride, tensors), self._strides))
                and all(map(operator.is_, map(_DTYPE, tensors), self._dtypes))
                and all(map(operator.eq, map(_DEVICE, tensors), self._devices))
                and all(map(operator.is_, map(type, tensors), self._types))
                and (self._inference is None or list(map(Tensor.is_inference, tensors)) == self._inference)
                and not any(map(Tensor.is_neg, tensors))
                and not any(map(torch._is_functional_tensor, tensors))
                and not any(map(Tensor._is_zerotensor, tensors))
            )
        except RuntimeError:
            # A sparse tensor has no strides.
            return False


def _guards(tensors: Sequence[Tensor], shapes: list[Any], strides: list[Any]) -> Any:
    """The guards of torch.compile, which compare a tensor's type, dtype, device, shape and strides without Python.

    For 10,000 tensors they take a sixth of the time of the comparisons above. None where this torch has no such thing,
    or where it refuses the very tensors that it was made from.
    """
    try:
        from torch._C._dynamo.guards import TensorGuards

        sizes: Any = [list(shape) for shape in shapes]
        steps: Any = [list(stride) for stride in strides]
        made = TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=steps)
        return made if made.check(*tensors) else None
    except (ImportError, TypeError, RuntimeError):
        return None


class Rooms:
    """How much memory tensors of known layouts need, to be compared with what their storages have."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._bytes = list(map(bytes_spanned, tensors))

    def hold(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the elements of equally many tensors of those layouts lie inside their storages."""
        if any(map(Tensor.storage_offset, tensors)):
            return all(map(has_memory, tensors))
        sizes = map(torch.UntypedStorage.nbytes, map(Tensor.untyped_storage, tensors))
        return all(map(operator.ge, sizes, self._bytes))
