"""What a step costs on the host: our own step as a GPU would see it, with a stand-in for the driver's launch.

Everything but the launch itself runs: noticing what changed, the host scalars of every group, the tables, the launch's
arguments. It can be measured on any machine, on CPU tensors, because none of it looks at their elements.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from kernels import backends
from kernels.backends import dispatch, triton
from kernels.launch.tables import Mirror


@dataclass
class Sent:
    """What steps would have sent to a device.

    Attributes:
        launches: kernels.
        scalars: host scalars among their arguments.
        copies: of tables, host to device.
        bytes_copied: in all of them.
    """

    launches: int = 0
    scalars: int = 0
    copies: int = 0
    bytes_copied: int = 0


@contextlib.contextmanager
def without_launches() -> Iterator[Sent]:
    """While this is open, optimizers do all that they do on a GPU, and a stand-in takes the launches and counts."""
    sent = Sent()
    copy = Mirror._copy

    def launch(programs: int, arguments: tuple[Any, ...]) -> None:
        sent.launches += 1
        sent.scalars += len(arguments[-1])

    def counted_copy(self: Mirror, first: int, last: int) -> None:
        assert self.host is not None
        sent.copies += 1
        sent.bytes_copied += self.host[first:last].nbytes
        copy(self, first, last)

    def resolved(backend: str, device: torch.device) -> str:
        return "triton"

    with (
        mock.patch.object(triton, "_find", lambda *arguments: launch),
        mock.patch.object(dispatch, "resolve_backend", resolved),
        mock.patch.object(backends, "resolve_backend", resolved),
        mock.patch.object(Mirror, "_copy", counted_copy),
    ):
        yield sent


def step_ns(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[torch.Tensor],
    *,
    moved: bool,
    rounds: int = 5,
    warm_up: int = 3,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[int]:
    """Nanoseconds of one step on the host, a sample per round.

    Args:
        optimizer: over ``parameters``; ours is to be inside `without_launches`.
        parameters: with gradients.
        moved: whether every gradient is a new tensor at every step, as after ``zero_grad(set_to_none=True)``.
        rounds: samples to take.
        warm_up: steps before them.
        clock: by default the wall's; `time.thread_time_ns` leaves out other processes' turns on the core.
    """
    samples = []
    for _ in range(warm_up):
        optimizer.step()
    for _ in range(rounds):
        if moved:
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.grad = parameter.grad.clone()
        began = clock()
        optimizer.step()
        samples.append(clock() - began)
    return samples


def upkeep_ns(
    optimizer: torch.optim.Optimizer, parameters: Sequence[torch.Tensor], *, moved: bool, rounds: int = 5
) -> list[int]:
    """`step_ns` of one of ours with its launches left out."""
    with without_launches():
        return step_ns(optimizer, parameters, moved=moved, rounds=rounds)


def lines(step: Callable[[], Any], rounds: int = 200, count: int = 15) -> list[dict[str, Any]]:
    """The functions in which steps spend their time, most first: what to look at next."""
    import cProfile
    import pstats

    profile = cProfile.Profile()
    profile.enable()
    for _ in range(rounds):
        step()
    profile.disable()
    stats: Any = pstats.Stats(profile)
    found = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:count]
    return [
        {"function": f"{name} ({file.rsplit('/', 1)[-1]}:{line})", "us_per_step": own / rounds * 1e6, "calls": calls}
        for (file, line, name), (_, calls, own, _, _) in found
    ]
