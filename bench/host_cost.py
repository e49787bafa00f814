"""What a step costs on the host: our own step as a GPU would see it, with only the kernel launch left out.

What remains is table upkeep: noticing what changed, the host scalars of every group, the table of addresses. It can be
measured on any machine, on CPU tensors, because none of it looks at their elements.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from unittest import mock

import torch

from kernels.backends import dispatch as launch


@contextlib.contextmanager
def without_launches() -> Iterator[None]:
    """While this is open, steps keep their tables as on a GPU, and launch nothing."""
    with (
        mock.patch.object(launch, "launcher", lambda backend: lambda *args, **options: None),
        mock.patch.object(launch, "resolve_backend", lambda backend, device: "triton"),
    ):
        yield


def upkeep_ns(
    optimizer: torch.optim.Optimizer, parameters: Sequence[torch.Tensor], *, moved: bool, rounds: int = 5
) -> list[int]:
    """Nanoseconds of table upkeep in one step, a sample per round.

    Args:
        optimizer: one of ours, over ``parameters``; it counts steps and changes nothing else.
        parameters: with gradients.
        moved: whether every gradient is a new tensor at every step, as after ``zero_grad(set_to_none=True)``.
        rounds: samples to take.
    """
    samples = []
    with without_launches():
        optimizer.step()
        for _ in range(rounds):
            if moved:
                for parameter in parameters:
                    assert parameter.grad is not None
                    parameter.grad = parameter.grad.clone()
            began = time.perf_counter_ns()
            optimizer.step()
            samples.append(time.perf_counter_ns() - began)
    return samples
