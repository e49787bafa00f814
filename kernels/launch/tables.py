"""What a launch reads: the address and chunk tables of a bucket, kept on the device.

The addresses, sizes and row numbers of a bucket's tensors are one int64 table, its chunks one int32 table, so any
number of tensors and groups is one launch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

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

    def send(self, array: np.ndarray, device: torch.device) -> Tensor:
        """Bring the device's copy up to ``array`` and return it."""
        host, kept = self.host, self.device
        if host is None or kept is None or host.shape != array.shape or kept.device != device:
            kept = self.device = torch.from_numpy(array.copy()).to(device)
            self._reserve()
        elif host.tobytes() != array.tobytes():
            # The rows between the first and the last whose bits changed: one copy.
            different = host.view(np.int64) != array.view(np.int64)
            changed = np.flatnonzero(different.reshape(len(array), -1).any(axis=1))
            first, last = int(changed[0]), int(changed[-1]) + 1
            self._copy(kept[first:last], array[first:last])
        self.host = array.copy()
        return kept

    def _copy(self, target: Tensor, array: np.ndarray) -> None:
        source = torch.from_numpy(np.ascontiguousarray(array))
        if target.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            pinned = self._take_spare()[: source.numel()].view(source.shape)
            pinned.copy_(source)
            self._captured.append(pinned)
            source = pinned
        # From pageable memory the driver takes its own copy before this returns: no wait, nothing to keep alive.
        target.copy_(source, non_blocking=True)
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
    """Address and chunk tables of a bucket, kept between steps."""

    addresses: Mirror = field(default_factory=Mirror)
    chunks: Tensor | None = None
    block: int = 0
    pointers: list[int] = field(default_factory=list)
    row_of: Any = None

    def update(self, host: np.ndarray, device: torch.device, block: int) -> None:
        """Bring the device's tables up to ``host`` (int64 [columns, tensors]: numel, row, addresses)."""
        known = self.addresses.host
        if (
            self.chunks is None
            or self.chunks.device != device
            or self.block != block
            or known is None
            or (known.shape[1] != host.shape[1] or not np.array_equal(known[0], host[0]))
        ):
            self.chunks = torch.from_numpy(chunk_table(host[0], block)).to(device)
        self.addresses.send(host, device)
        self.block = block
