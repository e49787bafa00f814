"""What is timed: which optimizers, over which tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch

from kernels import DTYPES
from lossscale.support.errors import InputError

from ..choices import choose
from ..optimizers import registered, timed_options, titles
from ..store.schema import workload_name
from .shapes import MODELS, Shape

_LARGEST_POWER = 32


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """The tensors of one step, by a name that says what they are."""

    name: str
    shapes: tuple[Shape, ...]

    @property
    def elements(self) -> int:
        """In all tensors together."""
        return sum(map(prod, self.shapes))


def one(elements: int) -> Tensors:
    """A single tensor."""
    return Tensors(name=workload_name(1, elements), shapes=((elements,),))


def many(count: int, mean: int) -> Tensors:
    """Tensors whose sizes vary by a factor of two around the mean."""
    if count == 1:
        return one(mean)
    sizes = [max(1, mean // 2 + (i * 7919) % (mean + 1)) for i in range(count - 1)]
    return Tensors(
        name=workload_name(count, count * mean),
        shapes=tuple((size,) for size in (*sizes, max(1, count * mean - sum(sizes)))),
    )


def model(name: str) -> Tensors:
    """The parameters of a model of `shapes.py`."""
    return Tensors(name=name, shapes=tuple(MODELS[name]()))


def parse_tensors(text: str) -> Tensors:
    """What a name on the command line means: a model, "2^20", or "10000x49".

    Raises:
        InputError: if it means nothing.
    """
    if match := re.fullmatch(r"2\^(\d+)", text):
        if int(match[1]) <= _LARGEST_POWER:
            return one(1 << int(match[1]))
        raise InputError("--workload", text, f"at most 2^{_LARGEST_POWER} elements; give a smaller power")
    if match := re.fullmatch(r"(\d+)x(\d+)", text):
        count, mean = int(match[1]), int(match[2])
        if count and mean and count * mean <= 1 << _LARGEST_POWER:
            return many(count, mean)
        raise InputError("--workload", text, f"from 1x1 to 2^{_LARGEST_POWER} elements in all; give other numbers")
    return model(choose("--workload", text, [*MODELS, "2^20", "10000x49"]))


@dataclass(frozen=True, kw_only=True)
class StepWorkload:
    """One optimizer over some tensors.

    Attributes:
        optimizer: torch's class name.
        tensors: which.
        dtype: of parameters, gradients and states.
    """

    optimizer: str
    tensors: Tensors
    dtype: str = "fp32"

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """Constructor arguments."""
        return timed_options(self.optimizer)

    def label(self) -> dict[str, Any]:
        """What names it in results."""
        return {
            "optimizer": self.optimizer,
            "dtype": self.dtype,
            "workload": self.tensors.name,
            "tensors": len(self.tensors.shapes),
            "elements": self.tensors.elements,
        }

    def parameters(self, device: torch.device) -> list[torch.Tensor]:
        """Fresh parameters, the same values each time, every tensor in storage of its own."""
        return [tensor.requires_grad_() for tensor in self._draw(1, device)]

    def gradients(self, device: torch.device) -> list[torch.Tensor]:
        """Random gradients: zeros can run faster and hide unwritten output."""
        return self._draw(2, device)

    def _draw(self, seed: int, device: torch.device) -> list[torch.Tensor]:
        generator = torch.Generator(device=device).manual_seed(seed)
        dtype = DTYPES[self.dtype].torch
        return [torch.randn(shape, dtype=dtype, device=device, generator=generator) for shape in self.tensors.shapes]

    def state_bytes(self) -> int:
        """Of the parameters and states of one provider."""
        algorithm = registered(self.optimizer)
        kept = len(algorithm.state_names(algorithm.hyperparameters(**self.options)))
        return self.tensors.elements * (1 + kept) * DTYPES[self.dtype].bytes


def by_use() -> Sequence[str]:
    """Every registered optimizer, those first that most people train with."""
    first = ("AdamW", "SGD")
    return (*first, *(title for title in titles() if title not in first))


def cuda_steps(*, toy: bool = False) -> Iterator[StepWorkload]:
    """The GPU timings, most telling first: the bandwidth regime, then launches, then the extremes of size."""
    if toy:
        yield StepWorkload(optimizer="AdamW", tensors=one(1 << 12))
        yield StepWorkload(optimizer="SGD", tensors=many(20, 20))
        return
    for tensors in (one(1 << 26), one(1 << 24), many(10_000, 64), one(1 << 28), one(1 << 20)):
        for dtype in ("fp32", "bf16"):
            yield from (StepWorkload(optimizer=name, tensors=tensors, dtype=dtype) for name in by_use())


def cpu_steps(*, quick: bool = False) -> Iterator[StepWorkload]:
    """Host cost: many small tensors, where arithmetic costs nothing."""
    for count in (10, 1_000) if quick else (10, 1_000, 10_000):
        chosen = by_use()
        for name in chosen[:1] if quick else chosen[:2] if count == 10_000 else chosen:
            yield StepWorkload(optimizer=name, tensors=many(count, 64))


def whole_steps(*, toy: bool = False) -> Iterator[StepWorkload]:
    """The whole-step table: real models, one tensor of every size, and many small ones; in float32."""
    sizes = map(one, (1 << k for k in range(10, 29)))
    lists = [one(1 << 10), many(30, 50)] if toy else [*map(model, MODELS), *sizes, many(10_000, 49)]
    for tensors in lists:
        yield from (StepWorkload(optimizer=name, tensors=tensors) for name in ("AdamW", "SGD"))
