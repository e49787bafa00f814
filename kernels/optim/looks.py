"""Whether tensors are laid out as they were, in memory that holds them, and where that memory is now.

With the compiled module (`native`) it is one pass over all of them. With torch's methods many tensors are looked at in
runs of a hundred: what a run needs stays in the processor's cache between the looks at layouts, addresses and sizes,
and runs of equal tensors are compared with one and the same description. With 10,000 tensors that is half of what such
a look costs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import chain
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..launch.checks import bytes_spanned
from .layouts import Layouts
from .native import answers_in_python

_RUN = 128
"""Tensors of a run. Measured with 10,000 tensors: twice as many are no faster, half as many 5 % slower."""

_KIND = operator.attrgetter("dtype", "device", "shape", "requires_grad")

Run = tuple[Tensor, ...]


class Looks(Protocol):
    """Layouts, memory and addresses of tensors, to be looked at again at every step.

    Attributes:
        moved: whether the last look found an address other than the look before; True also where it cannot tell.
    """

    moved: bool

    def arrange(self, tensors: Sequence[Tensor]) -> Any:
        """Equally many tensors as `hold` takes them."""

    def hold(self, arranged: Any) -> bool:
        """Whether tensors are laid out as those were and have memory; new addresses are taken over."""

    def addresses(self) -> np.ndarray:
        """The addresses that the last look found, int64, in the tensors' own order."""


def looks_at(tensors: Sequence[Tensor], *, written: bool = False, native: ModuleType | None = None) -> Looks:
    """Remember tensors as they are now. They are not kept.

    Args:
        tensors: strided.
        written: whether they are written in place: inference tensors are others then, and so is the mode.
        native: the compiled module, or None to use torch's methods.
    """
    if native is None or any(map(answers_in_python, tensors)):
        return LooksByMethods(tensors, written)
    return CompiledLooks(tensors, written, native)


class CompiledLooks:
    """`Looks` by the compiled module, in one pass."""

    def __init__(self, tensors: Sequence[Tensor], written: bool, native: ModuleType) -> None:
        self._written, self._native = written, native
        self._describe(tensors)

    def _describe(self, tensors: Sequence[Tensor]) -> None:
        self.moved = True
        self._table = table = np.empty((len(tensors), 4), np.int64)
        places: dict[bytes, int] = {}
        self._kinds: dict[int, Layouts] = {}
        end = 0
        for row, tensor in zip(table, tensors, strict=True):
            layout = self._native.describe(tensor)
            begin = places.setdefault(layout, end)
            if begin == end:
                self._kinds[begin] = Layouts([tensor], written=self._written)
                end += len(layout)
            itemsize = tensor.element_size() if tensor.numel() else 0
            row[:] = tensor.data_ptr(), itemsize, bytes_spanned(tensor), begin
        self._layouts = b"".join(places)
        # Dispatch keys tell an inference tensor; what the mode allows is asked once a look.
        self._modes = [kind for kind in self._kinds.values() if kind.depends_on_mode]

    def arrange(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """A list or tuple of them, in their own order."""
        return tensors

    def hold(self, arranged: Sequence[Tensor]) -> bool:
        """See `Looks`."""
        if self._modes and not all(kind.same_mode() for kind in self._modes):
            return False
        found = self._native.look(arranged, self._table, self._layouts)
        if found == -1 and self._same_by_methods(arranged):
            # Other dispatch keys, and yet nothing that matters here is other than it was.
            self._describe(arranged)
            return bool(self._native.look(arranged, self._table, self._layouts) >= 0)
        self.moved = found > 0
        return bool(found >= 0)

    def _same_by_methods(self, tensors: Sequence[Tensor]) -> bool:
        kinds = map(self._kinds.__getitem__, self._table[:, 3].tolist())
        return all(kind.same([tensor]) for kind, tensor in zip(kinds, tensors, strict=True))

    def addresses(self) -> np.ndarray:
        """See `Looks`."""
        return self._table[:, 0].copy()


class LooksByMethods:
    """`Looks` by torch's methods, in runs."""

    def __init__(self, tensors: Sequence[Tensor], written: bool) -> None:
        self.moved = False
        kinds = [(type(t), _KIND(t), t.stride(), written and t.is_inference()) for t in tensors]
        self._order, self._cuts = _arranged(kinds)
        self._gather: Callable[[Sequence[Tensor]], Run] = tuple
        if self._order != list(range(len(tensors))):
            self._gather = operator.itemgetter(*self._order)
        described: dict[Any, Layouts] = {}
        self._looks: list[_LookAtRun] = []
        for (begin, end), run in zip(self._cuts, self.arrange(tensors), strict=True):
            key = tuple(kinds[place] for place in self._order[begin:end])
            layouts = described.get(key)
            if layouts is None or not layouts.same(run):
                layouts = described[key] = Layouts(run, written=written)
            self._looks.append(_LookAtRun(run, layouts))

    def arrange(self, tensors: Sequence[Tensor]) -> list[Run]:
        """Runs, in the order in which they are looked at."""
        arranged = self._gather(tensors)
        return [arranged[begin:end] for begin, end in self._cuts]

    def hold(self, arranged: Sequence[Run]) -> bool:
        """See `Looks`."""
        self.moved = False
        for found in map(operator.call, self._looks, arranged):
            if found:
                if found < 0:
                    return False
                self.moved = True
        return True

    def addresses(self) -> np.ndarray:
        """See `Looks`."""
        found = np.empty(len(self._order), np.int64)
        if self._looks:
            found[self._order] = np.concatenate([look.addresses for look in self._looks])
        return found


def _arranged(kinds: Sequence[Any]) -> tuple[list[int], list[tuple[int, int]]]:
    """An order in which equal tensors are together, and where it is cut into runs: full ones of one kind come first."""
    places: dict[Any, list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)
    if len(kinds) <= _RUN:
        return list(range(len(kinds))), [(0, len(kinds))] if kinds else []
    full = chain.from_iterable(alike[: len(alike) // _RUN * _RUN] for alike in places.values())
    rest = chain.from_iterable(alike[len(alike) // _RUN * _RUN :] for alike in places.values())
    order = [*full, *sorted(rest)]
    return order, [(begin, min(begin + _RUN, len(order))) for begin in range(0, len(order), _RUN)]


class _LookAtRun:
    """A look at one run; -1 for what does not hold, else whether any has moved."""

    def __init__(self, run: Run, layouts: Layouts) -> None:
        self._same = layouts.same
        self.addresses = list(map(Tensor.data_ptr, run))
        self._itemsizes = [tensor.element_size() if tensor.numel() else 0 for tensor in run]
        self._spans = list(map(bytes_spanned, run))

    def __call__(self, run: Run) -> int:
        if not self._same(run):
            return -1
        addresses = list(map(Tensor.data_ptr, run))
        sizes = map(torch.UntypedStorage.nbytes, map(Tensor.untyped_storage, run))
        reaches: Any = self._spans
        if any(map(Tensor.storage_offset, run)):
            offsets = map(operator.mul, map(Tensor.storage_offset, run), self._itemsizes)
            reaches = map(operator.add, offsets, self._spans)
        if not all(map(operator.ge, sizes, reaches)):
            return -1
        if 0 in addresses and any(span and not address for span, address in zip(self._spans, addresses, strict=True)):
            return -1
        if addresses == self.addresses:
            return 0
        self.addresses = addresses
        return 1
