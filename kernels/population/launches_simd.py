"""From a run to calls of vector code: models across the lanes, tiles of samples, scalars by what they depend on."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..rounding.powers import power_table
from . import train_simd
from .launches import Run, chunks
from .placement import by_arm

_THREADED = 1 << 14
"""Model-steps from which threads are worth starting (about a millisecond's work)."""


class Packed:
    """The models of a run as the vector code lays them out, for one stretch of training or several.

    They train with torch's number of threads. What breaks off `advance` leaves them useless, and the run as it was.

    Args:
        run: its tensors are read here, and written by `unpack` alone.
        families: of its data.
    """

    def __init__(self, run: Run, families: int) -> None:
        self._run = run
        width = train_simd.WIDTH
        self._placed = run.placement
        if not self._placed.shared and run.arms > 1:
            self._placed = by_arm(len(run.params), run.arms, width, run.params.device)
        model_of = self._placed.model_of
        self._blocks = len(model_of) // width
        self._packed = [
            None if tensor is None else _across(self._placed.gather(tensor), width) for tensor in run.tensors
        ]
        # Blocks of one family after another share a tile of samples: the arms of a family lie in blocks alike.
        family = (model_of // run.arms).view(self._blocks, width).numpy()
        found, tile_of = np.unique(family, axis=0, return_inverse=True)
        self._families = torch.from_numpy(found)
        self._tile_of = np.ascontiguousarray(tile_of.reshape(-1), np.int64)
        self._in_order = np.array_equal(found.reshape(-1), np.arange(families))
        self._row_of = run.record_of[model_of]
        self._loss_scale = run.loss_scale[model_of]
        self._step = run.first_step

    def advance(self, data: Tensor, kept: Tensor | None = None) -> None:
        """Train on, a step for every one of ``data``; ``kept`` takes the gradients."""
        run, width, blocks = self._run, train_simd.WIDTH, self._blocks
        placed, numbers = self._placed, run.network.parameters
        powers = power_table(run.params.device)
        constants = run.constants(keep_gradients=kept is not None)
        per_step = max(run.rows.bytes_per_step, self._families.numel() * data.shape[2] * 4)
        per_step = max(per_step, 0 if kept is None else blocks * width * numbers * 4)
        for chunk in chunks(len(data), per_step, alone=self._step == 1 and not placed.shared):
            steps = chunk.stop - chunk.start
            rows, own = np.empty((0, 0)), _Own.empty()
            if placed.shared:
                rows, values = powers.formed(lambda n=steps: run.rows.rows(self._step, n))  # type: ignore[misc]
            else:
                columns, values = powers.formed(lambda n=steps: run.rows.columns(self._step, n))  # type: ignore[misc]
                own = _Own.of(columns, self._row_of.view(blocks, width).numpy())
            train = train_simd.train_function({**constants, "DEPENDS": own.depends})
            samples = data[chunk]
            in_blocks = (steps, *self._families.shape, -1)
            samples = samples.reshape(in_blocks) if self._in_order else samples[:, self._families]
            tiles = samples.permute(1, 0, 3, 2).contiguous()
            grads = torch.empty(0) if kept is None else torch.empty(steps, blocks, numbers, width)
            at = [0 if tensor is None else tensor.data_ptr() for tensor in self._packed]
            call = {
                **dict(zip(("params", "s0", "s1", "s2"), at, strict=True)),
                "grads": grads.data_ptr(),
                "data": tiles.data_ptr(),
                "tile_of": self._tile_of.ctypes.data,
                "scale": self._loss_scale.data_ptr(),
                "rows": rows.ctypes.data,
                "row_of": self._row_of.data_ptr(),
                "powers": values.data_ptr(),
                **{kind: array.ctypes.data for kind, array in own.arrays.items()},
                "records": rows.shape[1],
                "first_step": self._step,
                "steps": steps,
                "blocks": blocks,
            }
            _in_threads(train, call, blocks, steps, (self, tiles, rows, own, grads, values))
            self._step += steps
            if kept is not None:
                kept[chunk] = grads.transpose(2, 3).reshape(steps, -1, numbers)[:, placed.slot_of]

    @property
    def taken(self) -> int:
        """Steps that the models have taken, those before the run included."""
        return self._step - 1

    def unpack(self, tensors: Sequence[Tensor | None]) -> None:
        """Write what the models have become into these of the run's tensors; None leaves one as it is."""
        for tensor, values in zip(tensors, self._packed, strict=True):
            if tensor is not None and values is not None:
                rows = values.transpose(1, 2).reshape(-1, self._run.network.parameters)
                self._placed.scatter(rows, tensor)


@dataclass(frozen=True, kw_only=True)
class _Own:
    """Scalars of models with hyperparameters of their own, by what they depend on.

    Attributes:
        depends: the array of each column.
        arrays: ``by_step`` [steps, columns], ``by_model`` [blocks, columns, width], ``by_both`` [steps, blocks, ...].
    """

    depends: tuple[str, ...]
    arrays: dict[str, np.ndarray]

    @classmethod
    def empty(cls) -> _Own:
        return cls(depends=(), arrays={kind: np.empty(0) for kind in ("by_step", "by_model", "by_both")})

    @classmethod
    def of(cls, columns: list[np.ndarray], record: np.ndarray) -> _Own:
        """From the columns of `RowTable.columns`; ``record`` is [blocks, width]."""
        depends = tuple("by_step" if c.shape[1] == 1 else "by_model" if c.shape[0] == 1 else "by_both" for c in columns)
        found = cls.empty()
        for kind in found.arrays:
            chosen = [column for column, where in zip(columns, depends, strict=True) if where == kind]
            if chosen and kind == "by_step":
                found.arrays[kind] = np.concatenate(chosen, 1)
            elif chosen:
                stacked = np.empty((len(chosen[0]), record.shape[0], len(chosen), record.shape[1]))
                for place, column in enumerate(chosen):
                    stacked[:, :, place] = np.take(column, record, axis=1)
                found.arrays[kind] = stacked[0] if kind == "by_model" else stacked
        arrays = {kind: np.ascontiguousarray(array, np.float64) for kind, array in found.arrays.items()}
        return cls(depends=depends, arrays=arrays)


def _across(rows: Tensor, width: int) -> Tensor:
    """[blocks, n, width] of rows [slots, n]."""
    return rows.view(-1, width, rows.shape[1]).transpose(1, 2).contiguous()


def _in_threads(train: Any, call: Mapping[str, int], blocks: int, steps: int, memory: object) -> None:
    """All blocks, parted among threads; nobody's bits depend on it.

    ``memory`` is what the addresses belong to: a thread holds on to it, for an interrupt may end the wait for it.
    """
    threads = min(torch.get_num_threads(), blocks) if blocks * train_simd.WIDTH * steps >= _THREADED else 1
    bounds = [blocks * k // threads for k in range(threads + 1)]
    parts = [{**call, "begin": begin, "end": end} for begin, end in itertools.pairwise(bounds)]
    workers = [threading.Thread(target=_work, args=(train, part, memory)) for part in parts[1:]]
    for worker in workers:
        worker.start()
    train(parts[0])
    for worker in workers:
        worker.join()


def _work(train: Any, part: Mapping[str, int], memory: object) -> None:
    train(part)
