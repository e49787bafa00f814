"""Step kernels of many launch shapes compiled in processes: Triton finds them on disk then."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import torch

from lossscale.support.processes import deaf, end_with_parent

from .launch_shape import Shape
from .tune import Kernel, stepped, stepper
from .workloads import StepWorkload, one

_MOST = 14
# Any size will do: what is compiled does not hang on it.
_ELEMENTS = 1 << 12


class Compilers:
    """Processes that compile until this is closed; they keep the device open and leave it alone in between."""

    def __init__(self, device: str) -> None:
        """Starts nothing yet; processes start with the first jobs."""
        self._device, self._others = device, multiprocessing.active_children()
        workers = max(1, min(_MOST, len(os.sched_getaffinity(0)) - 1))
        self._pool = concurrent.futures.ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_begin
        )

    def compile(self, jobs: Sequence[tuple[Kernel, Shape]], limit_s: float) -> int:
        """Compile for so long at most, in order, and return how many kernels are ready.

        One that cannot be compiled is left to whoever needs it, who hears why.
        """
        try:
            # Its processes start with the first jobs.
            with deaf():
                futures = [self._pool.submit(_compile, self._device, *job) for job in jobs]
        except concurrent.futures.BrokenExecutor:
            return 0
        # Without a deadline the limit is infinite, which is no time that can be waited for.
        done, left = concurrent.futures.wait(futures, timeout=min(limit_s, 3600.0))
        for future in left:
            future.cancel()
        return sum(not future.exception() for future in done)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in self._others:
                process.kill()


def _compile(device: str, kernel: Kernel, shape: Shape) -> None:
    """In a process: two steps of a small tensor."""
    optimizer, recipe, dtype = kernel
    workload = StepWorkload(optimizer=optimizer, tensors=one(_ELEMENTS), dtype=dtype)
    stepper(workload, recipe, stepped(workload, torch.device(device)), shape)


def _begin() -> None:
    """What such a process does first."""
    end_with_parent()
    torch.set_num_threads(1)
