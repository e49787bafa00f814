"""What a launch reads: the address and chunk tables of a bucket, kept on the device.

The addresses, sizes and row numbers of a bucket's tensors are one int64 table, its chunks one int32 table, so any
number of tensors and groups is one launch. This is the only file that knows their format:

- addresses, int64 [2 + columns, tensors]: numel, row of host scalars, then the address of p, g, of each state that is
  kept, and of the copy;
- chunks, int32 [programs, 2]: tensor and block number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

NUMEL, ROW, PARAM, GRAD = 0, 1, 2, 3
"""The first columns of the address table."""

INTERPRETER_BLOCK = 65536
"""The interpreter runs a program as whole numpy arrays: wide blocks cost less."""


def fitting_block(numels: np.ndarray) -> int:
    """The smallest block that holds the longest tensor, up to `INTERPRETER_BLOCK`."""
    return min(INTERPRETER_BLOCK, 1 << max(6, (int(numels.max(initial=1)) - 1).bit_length()))


def chunk_table(numels: np.ndarray, block: int) -> np.ndarray:
    """int32 [chunks, 2]: tensor and block number of every program; empty tensors get none."""
    counts = -(-numels // block)
    tensor = np.repeat(np.arange(numels.size, dtype=np.int64), counts)
    first = np.cumsum(counts) - counts
    return np.stack([tensor, np.arange(tensor.size) - first[tensor]], axis=1).astype(np.int32)


def address_table(columns: Sequence[Sequence[Tensor]], row_of: Sequence[int] | np.ndarray) -> np.ndarray:
    """The address table of these tensor lists (parameters, gradients, states, copies) on the host."""
    count = len(columns[0])
    numels = np.fromiter(map(Tensor.numel, columns[0]), np.int64, count)
    addresses = np.fromiter(map(Tensor.data_ptr, chain.from_iterable(columns)), np.int64, count * len(columns))
    return table_of(numels, row_of, addresses.reshape(len(columns), count))


def table_of(
    numels: int | np.ndarray, row_of: Sequence[int] | np.ndarray, addresses: Sequence[np.ndarray] | np.ndarray
) -> np.ndarray:
    """The address table of tensors whose addresses are known: a row each for parameters, gradients, states, copies."""
    host = np.empty((PARAM + len(addresses), len(row_of)), np.int64)
    host[NUMEL], host[ROW] = numels, row_of
    for column, row in enumerate(addresses, PARAM):
        host[column] = row
    return host


@dataclass(kw_only=True)
class Mirror:
    """A numpy array of 8-byte numbers kept on the device, sent again only where it changed and never by a wait.

    Under CUDA graph capture the copy is recorded, and every replay reads its host buffer again: that buffer is kept and
    never rewritten. The device tensor itself stays in place, so a graph sees what is sent later.
    """

    device: Tensor | None = None
    host: np.ndarray | None = None
    _spare: Tensor | None = None
    _captured: list[Tensor] = field(default_factory=list)
    _all_there: bool = True

    def __post_init__(self) -> None:
        if self.host is not None:
            self._keep(self.host)

    def _keep(self, host: np.ndarray) -> None:
        self.host, self._bits, self._source = host, host.view(np.int64), torch.from_numpy(host)
        self._views: dict[tuple[int, int], tuple[Any, Any]] = {}

    @property
    def captured(self) -> int:
        """Copies that were recorded under capture."""
        return len(self._captured)

    def send(self, array: np.ndarray, device: torch.device) -> Tensor:
        """Bring the device's copy up to ``array`` and return it."""
        host, kept = self.host, self.device
        if host is None or kept is None or host.shape != array.shape or kept.device != device:
            self.device = None
            self._keep(array.copy())
            self.device = self._source.to(device, copy=True)
            self._all_there = True
            self._reserve()
            return self.device
        different = self._bits != array.view(np.int64)
        if not self._all_there or different.any():
            # The rows between the first and the last whose bits changed: one copy.
            first, last = 0, len(array)
            if last > 1 and self._all_there:
                changed = np.flatnonzero(different.reshape(last, -1).any(axis=1))
                first, last = int(changed[0]), int(changed[-1]) + 1
            host[first:last] = array[first:last]
            self._copy(first, last)
        return kept

    def send_row(self, row: int, values: np.ndarray) -> None:
        """Bring one row up to ``values``, in an array that was sent before."""
        assert self.host is not None
        self.host[row] = values
        self._copy(row, row + 1)

    def _copy(self, first: int, last: int) -> None:
        """Send rows of the host's array; if that breaks off, what lies on the device is no longer known."""
        before, self._all_there = self._all_there, False
        if (first, last) not in self._views:
            assert self.device is not None
            whole = last - first == len(self._source)
            rows = (self.device, self._source) if whole else (self.device[first:last], self._source[first:last])
            # The same row or two of a table change again and again.
            self._views = {**self._views, (first, last): rows} if len(self._views) < 8 else {(first, last): rows}
        target, source = self._views[first, last]
        if target.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            pinned = self._take_spare()[: source.numel()].view(source.shape)
            pinned.copy_(source)
            self._captured.append(pinned)
            source = pinned
        # From pageable memory the driver takes its own copy before this returns: no wait, nothing to keep alive.
        target.copy_(source, non_blocking=True)
        self._all_there = before or last - first == len(self._source)
        if self._spare is None:
            self._reserve()

    def _reserve(self) -> None:
        """Pinned memory for one copy under capture, where none may be allocated."""
        assert self.device is not None
        if self._spare is None and self.device.device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
            self._spare = torch.empty(self.device.numel(), dtype=self.device.dtype, pin_memory=True)

    def _take_spare(self) -> Tensor:
        if self._spare is None:
            raise RuntimeError("CUDA graph capture: take an ordinary step of this optimizer between two captures")
        spare, self._spare = self._spare, None
        return spare


@dataclass(kw_only=True)
class Tables:
    """Address and chunk tables of a bucket, kept between steps.

    Attributes:
        addresses: the address table.
        chunks: the chunk table on the device.
        programs: how many chunks.
        block: elements of a chunk.
        current: whether the owner has brought them up to its bucket: a launch then takes them as they are.
        launches: compiled kernels of this bucket, by what else decides them.
        running: what the launch that was begun last counts its parts in, by the last number; None before one.
    """

    addresses: Mirror = field(default_factory=Mirror)
    chunks: Tensor | None = None
    programs: int = 0
    block: int = 0
    current: bool = False
    launches: dict[Any, Any] = field(default_factory=dict)
    running: Any = None

    @property
    def ran(self) -> bool:
        """Whether vector code ran since ``running`` was None: an interrupt may be raised when it has ended."""
        return self.running is not None and bool(self.running[-1])

    def update(self, host: np.ndarray, device: torch.device, block: int) -> None:
        """Bring the device's tables up to ``host``, an `address_table`."""
        known = self.addresses.host
        if (
            self.chunks is None
            or self.chunks.device != device
            or self.block != block
            or known is None
            or (known.shape[1] != host.shape[1] or not np.array_equal(known[NUMEL], host[NUMEL]))
        ):
            self.chunks = torch.from_numpy(chunk_table(host[NUMEL], block)).to(device)
            self.programs = self.chunks.shape[0]
        self.addresses.send(host, device)
        self.block = block
