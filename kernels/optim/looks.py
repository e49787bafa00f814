"""Whether tensors are laid out as they were, in memory that holds them, and where that memory is now.

Many tensors are looked at in runs of a hundred: what a run needs stays in the processor's cache between the looks at
layouts, addresses and sizes, and runs of equal tensors are compared with one and the same description. With 10,000
tensors that is half of what a look costs; the other half is saved by the compiled module (`native`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..launch.checks import bytes_spanned
from .layouts import Layouts

_RUN = 128
"""Tensors of a run. Measured with 10,000 tensors: twice as many are no faster, half as many 5 % slower."""

_KIND = operator.attrgetter("dtype", "device", "shape", "requires_grad")

Run = tuple[Tensor, ...]


class Looks:
    """Layouts, memory and addresses of tensors, to be looked at again at every step.

    Args:
        tensors: strided, as they are now. They are not kept.
        written: whether they are written in place: inference tensors are others then, and so is the mode.
        native: the compiled module, or None to use torch's methods.

    Attributes:
        moved: whether the last look found an address other than the look before.
    """

    def __init__(self, tensors: Sequence[Tensor], *, written: bool = False, native: ModuleType | None = None) -> None:
        self.moved = False
        kinds = [(type(t), _KIND(t), t.stride(), written and t.is_inference()) for t in tensors]
        self._order, cuts = _arranged(kinds)
        self._cuts = cuts
        self._gather: Callable[[Sequence[Tensor]], Run] = tuple
        if self._order != list(range(len(tensors))):
            self._gather = operator.itemgetter(*self._order)
        described: dict[Any, Layouts] = {}
        self._looks: list[_Native | _Plain] = []
        for (begin, end), run in zip(cuts, self.runs(tensors), strict=True):
            key = tuple(kinds[place] for place in self._order[begin:end])
            layouts = described.get(key)
            if layouts is None or not layouts.same(run):
                layouts = described[key] = Layouts(run, written=written)
            self._looks.append(_look_at(run, layouts, native))

    def runs(self, tensors: Sequence[Tensor]) -> list[Run]:
        """Equally many tensors, in the order in which they are looked at."""
        arranged = self._gather(tensors)
        return [arranged[begin:end] for begin, end in self._cuts]

    def hold(self, runs: Sequence[Run]) -> bool:
        """Whether `runs` of tensors are laid out as those were and have memory; new addresses are taken over."""
        self.moved = False
        for found in map(operator.call, self._looks, runs):
            if found:
                if found < 0:
                    return False
                self.moved = True
        return True

    def addresses(self) -> np.ndarray:
        """The addresses that the last look found, int64, in the tensors' own order."""
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


def _look_at(run: Run, layouts: Layouts, native: ModuleType | None) -> _Native | _Plain:
    if native is None or layouts.guard is None:
        return _Plain(run, layouts)
    return _Native(run, layouts, native)


class _Plain:
    """A look at one run with torch's methods; -1 for what does not hold, else whether any has moved."""

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


class _Native:
    """The same by the compiled module."""

    def __init__(self, run: Run, layouts: Layouts, native: ModuleType) -> None:
        self._layouts = layouts
        self._look, self._guard = native.look, layouts.guard
        plain = _Plain(run, layouts)
        self._known = np.array([plain.addresses, plain._itemsizes, plain._spans], np.int64).T.copy()

    def __call__(self, run: Run) -> int:
        if not self._layouts.same_mode():
            return -1
        found: int = self._look(run, self._guard, self._known)
        if found == -1 and self._layouts.same(run):
            # What the guards refuse is looked at again.
            found = self._look(run, None, self._known)
        return found

    @property
    def addresses(self) -> np.ndarray:
        return self._known[:, 0]
