"""What is timed: which optimizers, over which tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .conformance.inputs import TORCH_DTYPES

# The options people train with; the decay of AdamW is torch's default.
TIMED_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "AdamW": {"lr": 1e-3},
    "SGD": {"lr": 1e-3, "momentum": 0.9},
    "Adam": {"lr": 1e-3},
    "RMSprop": {"lr": 1e-3},
    "Adagrad": {"lr": 1e-2},
}


@dataclass(frozen=True, kw_only=True)
class StepWorkload:
    """One optimizer over `tensors` tensors of `elements` elements in all.

    Attributes:
        optimizer: torch's class name.
        options: constructor arguments.
        dtype: of parameters, gradients and states.
        tensors: how many; sizes vary by a factor of two around the mean when there are several.
        elements: in all tensors together.
    """

    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "fp32"
    tensors: int = 1
    elements: int = 1 << 20

    def sizes(self) -> list[int]:
        """Elements of each tensor."""
        if self.tensors == 1:
            return [self.elements]
        mean = self.elements // self.tensors
        sizes = [max(1, mean // 2 + (i * 7919) % (mean + 1)) for i in range(self.tensors - 1)]
        return [*sizes, max(1, self.elements - sum(sizes))]

    def parameters(self, device: torch.device) -> list[torch.Tensor]:
        """Fresh parameters, the same values each time, every tensor in storage of its own."""
        generator = torch.Generator(device=device).manual_seed(1)
        dtype = TORCH_DTYPES[self.dtype]
        return [
            torch.randn(size, dtype=dtype, device=device, generator=generator).requires_grad_() for size in self.sizes()
        ]

    def gradients(self, device: torch.device) -> list[torch.Tensor]:
        """Random gradients: zeros can run faster and hide unwritten output."""
        generator = torch.Generator(device=device).manual_seed(2)
        dtype = TORCH_DTYPES[self.dtype]
        return [torch.randn(size, dtype=dtype, device=device, generator=generator) for size in self.sizes()]


def cuda_steps(*, toy: bool = False) -> Iterator[StepWorkload]:
    """The GPU timings, most telling first: the bandwidth regime, then launches, then the extremes of size."""
    if toy:
        yield StepWorkload(optimizer="AdamW", options=TIMED_OPTIONS["AdamW"], elements=1 << 12)
        yield StepWorkload(optimizer="SGD", options=TIMED_OPTIONS["SGD"], tensors=20, elements=400)
        return
    many = (10_000, 10_000 * 64)
    for tensors, elements in ((1, 1 << 26), (1, 1 << 24), many, (1, 1 << 28), (1, 1 << 20)):
        for dtype in ("fp32", "bf16"):
            for optimizer, options in TIMED_OPTIONS.items():
                yield StepWorkload(
                    optimizer=optimizer, options=options, dtype=dtype, tensors=tensors, elements=elements
                )


def cpu_steps(*, quick: bool = False) -> Iterator[StepWorkload]:
    """Host cost: many small tensors, where arithmetic costs nothing."""
    for tensors in (10, 1_000) if quick else (10, 1_000, 10_000):
        for optimizer in ("AdamW",) if quick else ("AdamW", "SGD"):
            yield StepWorkload(
                optimizer=optimizer, options=TIMED_OPTIONS[optimizer], tensors=tensors, elements=tensors * 64
            )
