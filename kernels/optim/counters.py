"""Step counters: one small tensor per parameter in the state, as in torch, advanced together and always in place.

Counters that are made here are elements of one chunk of memory and advance in one operation, also when parameters are
put into other launches later. Counters that come from elsewhere stay the tensors they are, of any dtype that counts:
whoever else holds one (a logger, another process through shared memory) sees every step.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..launch.checks import has_memory


class _Cell:
    """A counter that ctypes has no type for: rounded to its dtype at every step, as torch's ``step += 1`` is."""

    def __init__(self, counter: Tensor) -> None:
        self._counter = counter.detach()

    @property
    def value(self) -> float:
        return float(self._counter)

    @value.setter
    def value(self, number: float) -> None:
        self._counter.fill_(number)


_NATIVE: dict[torch.dtype, Any] = {
    torch.float32: ctypes.c_float,
    torch.float64: ctypes.c_double,
    torch.int64: ctypes.c_int64,
    torch.int32: ctypes.c_int32,
    torch.int16: ctypes.c_int16,
    torch.int8: ctypes.c_int8,
    torch.uint8: ctypes.c_uint8,
}
_COUNTING = frozenset({*_NATIVE, torch.bfloat16, torch.float16})


def is_counter(value: Any, device: torch.device) -> bool:
    """Whether a state's ``step`` can be advanced where it is."""
    return (
        isinstance(value, Tensor)
        and value.dtype in _COUNTING
        and value.numel() == 1
        and value.device.type == device.type
        and value.layout is torch.strided
        and not value.is_nested
        and has_memory(value)
        and not value.is_neg()
    )


def _cell(counter: Tensor, address: int) -> Any:
    native = _NATIVE.get(counter.dtype)
    return _Cell(counter) if native is None else native.from_address(address)


class Chunk:
    """New counters: views of one tensor, which go into the states."""

    def __init__(self, count: int, dtype: torch.dtype, device: torch.device) -> None:
        self.whole = torch.zeros(count, dtype=dtype, device=device)
        self._given: list[weakref.ref[Tensor]] = []

    def counters(self) -> list[Tensor]:
        """Its elements, which others keep."""
        found = list(self.whole.unbind(0))
        self._given = list(map(weakref.ref, found))
        return found

    @property
    def in_use(self) -> bool:
        """Whether anybody still has one of them: a state may have been cleared."""
        return any(counter() is not None for counter in self._given)

    def places(self, counters: Sequence[Tensor]) -> list[int] | None:
        """Which elements of the chunk these are, or None if one is none of them."""
        size, begin = self.whole.element_size(), self.whole.data_ptr()
        if counters and not 0 <= counters[0].data_ptr() - begin < self.whole.nbytes:
            return None
        places = [(counter.data_ptr() - begin) // size for counter in counters]
        inside = all(0 <= place < len(self.whole) for place in places)
        alike = all(counter.dtype == self.whole.dtype for counter in counters)
        return places if inside and alike else None


class Counters:
    """The counters of one launch, whoever made them.

    Args:
        tensors: one counter per tensor, as `is_counter` has it. They stay where they are: for counters that moved
            (share_memory_() and the like move a storage under its tensor) others of these are made.
        chunks: of this optimizer.

    Attributes:
        tensors: as given.
        on_host: whether they are the host's.
    """

    def __init__(self, tensors: list[Tensor], chunks: Sequence[Chunk]) -> None:
        self.tensors = counters = tensors
        self.on_host = not counters or counters[0].device.type == "cpu"
        self._whole: Tensor | None = None
        self._index: Any = None
        for chunk in chunks:
            places = chunk.places(counters)
            # One counter of two parameters advances by two, as in torch.
            if places is not None and len(set(places)) == len(places):
                self._whole, self._index = chunk.whole, _as_slice(places)
        # A chunk on a device counts in float32.
        looked_at = [] if self.on_host or self._whole is not None else counters
        self._foreign = any(counter.dtype != torch.float32 for counter in looked_at)
        self._array: Any = None
        self._cells: list[Any] = []
        if self.on_host:
            # One number is sooner changed by its address.
            if self._whole is not None and len(counters) > 1:
                self._array = self._whole.numpy()
            else:
                self._cells = [_cell(counter, counter.data_ptr()) for counter in counters]
        else:
            self._spread = self._whole is None or not isinstance(self._index, slice)
            self._view = None if self._spread or self._whole is None else self._whole[self._index]

    # -- on the host -------------------------------------------------------------------------------------------------

    def advance(self, by: int) -> None:
        """Add ``by`` to every counter, in place."""
        if self.on_host:
            if self._array is not None:
                self._array[self._index] += by
            else:
                for cell in self._cells:
                    cell.value += by
        elif self._view is not None:
            self._view.add_(by)
        else:
            torch._foreach_add_(self.tensors, by)

    def numbers(self) -> np.ndarray:
        """The counters' values; waits for a device."""
        if not self.on_host:
            return self.on_device(self.tensors[0].device).numpy(force=True)
        if self._array is not None:
            found: np.ndarray = self._array[self._index]
            return found
        return np.array([cell.value for cell in self._cells], np.float64)

    # -- on a device -------------------------------------------------------------------------------------------------

    def on_device(self, device: torch.device) -> Tensor:
        """The counters as a kernel reads them: float32 [tensors]."""
        if self.on_host:
            return torch.from_numpy(self.numbers().astype(np.float32)).to(device)
        if self._view is not None:
            return self._view
        if self._foreign:
            return torch.stack([counter.reshape(()).float() for counter in self.tensors])
        return torch.stack([counter.reshape(()) for counter in self.tensors])

    def on_device_alone(self) -> list[Tensor]:
        """The tensors that a device counts in; none for counters on the host."""
        if self.on_host:
            return []
        return self.tensors if self._spread or self._whole is None else [self._whole]

    def skip(self, found_inf: Tensor) -> None:
        """Take the last step back where ``found_inf`` is 1, without a wait."""
        if self.on_host:
            self.advance(-int(found_inf))
        elif self._view is not None:
            self._view.sub_(found_inf)
        else:
            for counter in self.tensors:
                counter.sub_(found_inf.reshape(counter.shape).to(counter.dtype))


def _as_slice(places: list[int]) -> Any:
    """An index of these elements: a slice where they follow one another."""
    first, count = places[0], len(places)
    return slice(first, first + count) if places == list(range(first, first + count)) else np.array(places)
