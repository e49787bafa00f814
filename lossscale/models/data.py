"""What the models are fed: draws and minibatches that depend on the seed, the initialisation and the step alone.

Every draw is a block of Philox4x64 keyed by (seed, purpose) at the counter (initialisation, block). So it does not
matter which models train together, in how many processes, or for how long; and numpy's raw Philox words are the same in
every version.
"""

from __future__ import annotations

import functools
import importlib.util
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

STEPS_PER_BLOCK = 64
"""How many steps of uniform inputs are drawn at a time."""

MINIBATCH = 32
"""Samples of a digits minibatch."""

MAX_SEED = 2**63 - 1
"""The largest seed that a run takes."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's data for several families.

    Attributes:
        inputs: [families, features, samples], float32. For modules [families, …] as one model's forward takes it.
        targets: [families, outputs, samples], float32: a label, or one-hot classes. For modules [families, …] as the
            loss takes it.
    """

    inputs: Tensor
    targets: Tensor


class Stream(Protocol):
    """The data of several families, step by step."""

    def batch(self, step: int) -> Batch:
        """The data of that step, counted from 1."""


def words(seed: int, purpose: str, init: int, count: int, block: int = 0) -> npt.NDArray[np.uint64]:
    """``count`` uniform 64-bit words for one purpose, initialisation and block."""
    bits = np.random.Philox(key=[seed, zlib.crc32(purpose.encode())], counter=[0, 0, block, init])
    drawn: npt.NDArray[np.uint64] = bits.random_raw(count)
    return drawn


def uniforms(seed: int, purpose: str, inits: Sequence[int], count: int, block: int = 0) -> npt.NDArray[np.float32]:
    """[inits, count] float32 multiples of 2**-24 in [0, 1), as ``torch.rand`` gives."""
    drawn = np.stack([words(seed, purpose, init, count, block) for init in inits])
    return ((drawn >> np.uint64(40)).astype(np.float64) * 2.0**-24).astype(np.float32)


def signs(seed: int, purpose: str, inits: Sequence[int], count: int) -> npt.NDArray[np.bool_]:
    """[inits, count] fair coin tosses."""
    drawn = np.stack([words(seed, purpose, init, count) for init in inits])
    return (drawn >> np.uint64(63)).astype(np.bool_)


def permutation(seed: int, purpose: str, init: int, count: int) -> npt.NDArray[np.int64]:
    """A uniform order of ``count`` things."""
    return np.argsort(words(seed, purpose, init, count), kind="stable").astype(np.int64)


class UniformStream:
    """A fresh uniform input of ``features`` and one uniform label per step: the article's data."""

    def __init__(self, *, features: int, seed: int, inits: Sequence[int], device: torch.device) -> None:
        self._features = features
        self._seed = seed
        self._inits = tuple(inits)
        self._device = device
        self._block = -1
        self._drawn = torch.empty(0)

    def batch(self, step: int) -> Batch:
        """Inputs [families, features, 1] and labels [families, 1, 1]."""
        block, within = divmod(step - 1, STEPS_PER_BLOCK)
        if block != self._block:
            width = self._features + 1
            drawn = uniforms(self._seed, "uniform-stream", self._inits, STEPS_PER_BLOCK * width, block)
            self._drawn = torch.from_numpy(drawn).to(self._device).view(len(self._inits), STEPS_PER_BLOCK, width, 1)
            self._block = block
        now = self._drawn[:, within]
        return Batch(inputs=now[:, : self._features].contiguous(), targets=now[:, self._features :].contiguous())


class DigitsStream:
    """Minibatches of scikit-learn's digits, in an order of each initialisation's own that repeats every epoch."""

    def __init__(self, *, seed: int, inits: Sequence[int], device: torch.device) -> None:
        inputs, targets = digits()
        self._inputs = inputs.to(device)
        self._targets = targets.to(device)
        orders = np.stack([permutation(seed, "digits-order", init, len(inputs)) for init in inits])
        self._order = torch.from_numpy(orders).to(device)
        self._batches = len(inputs) // MINIBATCH

    def batch(self, step: int) -> Batch:
        """Inputs [families, 64, 32] in [0, 1] and one-hot classes [families, 10, 32]."""
        first = (step - 1) % self._batches * MINIBATCH
        chosen = self._order[:, first : first + MINIBATCH]
        # Inputs are as they lie, samples first, seen the other way round.
        return Batch(
            inputs=self._inputs[chosen].transpose(1, 2), targets=self._targets[chosen].transpose(1, 2).contiguous()
        )


class SamplesFirst:
    """A stream whose batches have the samples first, as modules take them: [families, samples, features]."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def batch(self, step: int) -> Batch:
        """The same numbers."""
        batch = self._stream.batch(step)
        return Batch(
            inputs=batch.inputs.transpose(1, 2).contiguous(), targets=batch.targets.transpose(1, 2).contiguous()
        )


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: [1797, 64] float32 pixels in [0, 1] and [1797, 10] float32 one-hot classes."""
    table = _digits_table()
    inputs = torch.from_numpy((table[:, :-1] / 16.0).astype(np.float32))
    targets = torch.nn.functional.one_hot(torch.from_numpy(table[:, -1].astype(np.int64)), 10).float()
    return inputs, targets


def _digits_table() -> npt.NDArray[np.float64]:
    """[1797, 65]: pixels, then the digit. scikit-learn's file without scikit-learn, which takes a second to import."""
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            table: npt.NDArray[np.float64] = np.loadtxt(path, delimiter=",")
            return table
    from sklearn.datasets import load_digits

    loaded: Any = load_digits()
    return np.column_stack([loaded.data, loaded.target]).astype(np.float64)
