"""Clocks: of a GPU, with a cold cache and the host hidden behind a sleep, and of the host alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from lossscale.support.memory import free_bytes

from .sensors import Reading, Sensors, cuda_sensors

Work = Callable[[], Any]


class Clock(Protocol):
    """What the measurements ask of a clock. Times are in nanoseconds."""

    device: torch.device

    def kernel(self, work: Work, sleep_s: float) -> tuple[int | None, float]:
        """(device time of `work`, or None where there is no device; seconds that the host took)."""

    def step(self, work: Work) -> tuple[int, int | None]:
        """(time to completion, time until the host was free, or None where that is the same)."""

    def queued(self, work: Work, count: int) -> int:
        """Time per call of `count` calls that nobody waits for in between."""

    def synchronize(self) -> None:
        """Wait for the device."""

    def copy_gb_per_s(self, bytes_moved: int) -> float:
        """Median rate of a copy that reads and writes `bytes_moved` in all: the ceiling."""

    def rates(self, bytes_moved: int) -> dict[str, float]:
        """Median GB/s of copying, reading and writing so many bytes: the machine's limits."""

    def launch_ns(self) -> float:
        """Median time of the smallest piece of work there is: one operation on sixteen numbers."""

    def peak_bytes(self, work: Work) -> int | None:
        """Memory that `work` allocates at most while it runs; None, the work not done, where nobody counts."""

    def free_bytes(self) -> int:
        """Memory that can be had."""

    def reading(self) -> Reading | None:
        """Clocks, power and temperature now; None where they cannot be read."""


class HostClock:
    """The CPU's: a step is over when it returns."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def kernel(self, work: Work, sleep_s: float) -> tuple[int | None, float]:
        """None: there is no device; the work is not done."""
        del work, sleep_s
        return None, 0.0

    def step(self, work: Work) -> tuple[int, int | None]:
        """Time of one call."""
        began = time.perf_counter_ns()
        work()
        return time.perf_counter_ns() - began, None

    def queued(self, work: Work, count: int) -> int:
        """Time per call, call after call."""
        began = time.perf_counter_ns()
        for _ in range(count):
            work()
        return (time.perf_counter_ns() - began) // count

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def copy_gb_per_s(self, bytes_moved: int) -> float:
        """Median rate of a copy in memory."""
        return _copy_rate(self.device, bytes_moved, lambda work: self.step(work)[0])

    def rates(self, bytes_moved: int) -> dict[str, float]:
        """Of memory, by one operation of torch each."""
        return _rates(self.device, bytes_moved, lambda work: self.step(work)[0])

    def launch_ns(self) -> float:
        """One call of torch."""
        return _launch_ns(self.device, lambda work: self.step(work)[0])

    def peak_bytes(self, work: Work) -> int | None:
        """None: nobody counts."""
        del work
        return None

    def reading(self) -> Reading | None:
        """None."""
        return None

    def free_bytes(self) -> int:
        """What the system says is available."""
        return free_bytes("cpu")


class DeviceClock:
    """A CUDA device's: a flushed L2, and a sleep on the device that outlasts the enqueueing."""

    def __init__(self, sensors: Sensors | None = None) -> None:
        import triton

        self.device = torch.device("cuda")
        self._sensors = sensors or cuda_sensors()
        self._cache = triton.runtime.driver.active.get_empty_cache_for_benchmark()
        self._cycles_per_s = self._calibrate()

    def _calibrate(self) -> float:
        cycles = 20_000_000
        for _ in range(2):
            elapsed_ns = self._events(lambda: _sleep(cycles), 0.0)[0]
        return cycles / (elapsed_ns * 1e-9)

    def _events(self, work: Work, sleep_s: float) -> tuple[int, float]:
        start, end = _event(), _event()
        if sleep_s:
            _sleep(int(sleep_s * self._cycles_per_s))
        start.record()
        began = time.perf_counter()
        work()
        enqueue_s = time.perf_counter() - began
        end.record()
        torch.cuda.synchronize()
        return round(start.elapsed_time(end) * 1e6), enqueue_s

    def kernel(self, work: Work, sleep_s: float) -> tuple[int | None, float]:
        """Device time of `work` on a cold cache, behind a sleep."""
        self._cache.zero_()
        return self._events(work, sleep_s)

    def step(self, work: Work) -> tuple[int, int | None]:
        """Time to completion on a cold cache and an idle device."""
        self._cache.zero_()
        torch.cuda.synchronize()
        began = time.perf_counter_ns()
        work()
        host = time.perf_counter_ns()
        torch.cuda.synchronize()
        return time.perf_counter_ns() - began, host - began

    def queued(self, work: Work, count: int) -> int:
        """Time per call of calls in a row, the device waited for once: what a training loop pays."""
        torch.cuda.synchronize()
        began = time.perf_counter_ns()
        for _ in range(count):
            work()
        torch.cuda.synchronize()
        return (time.perf_counter_ns() - began) // count

    def synchronize(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize()

    def copy_gb_per_s(self, bytes_moved: int) -> float:
        """Median rate of a copy from device to device, on a cold cache."""
        return _copy_rate(self.device, bytes_moved, lambda work: self.kernel(work, 2e-4)[0] or 1)

    def rates(self, bytes_moved: int) -> dict[str, float]:
        """Of device memory, on a cold cache."""
        return _rates(self.device, bytes_moved, lambda work: self.kernel(work, 2e-4)[0] or 1)

    def launch_ns(self) -> float:
        """One kernel of torch, the host hidden."""
        return _launch_ns(self.device, lambda work: self.kernel(work, 2e-4)[0] or 1)

    def peak_bytes(self, work: Work) -> int | None:
        """By torch's allocator, above what was allocated before."""
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def reading(self) -> Reading | None:
        """By the driver's library, if it can be asked."""
        return self._sensors.read()

    def free_bytes(self) -> int:
        """Free on the device, torch's own cache included."""
        return free_bytes("cuda")


def make_clock(device: str) -> Clock:
    """The clock of "cpu" or "cuda"."""
    return DeviceClock() if device == "cuda" else HostClock()


_RATE_ROUNDS = 15
# More than this tells nothing more, and would need the memory that is timed.
_MOST_MOVED = 1 << 32


def _numbers(device: torch.device, bytes_held: int) -> torch.Tensor:
    """So many bytes of memory, not all alike: equal bytes can be moved with less power."""
    return torch.empty(max(1, bytes_held // 8), dtype=torch.int64, device=device).random_()


def _rate(work: Work, bytes_moved: int, timed: Callable[[Work], int]) -> float:
    return bytes_moved / max(1.0, float(np.median([timed(work) for _ in range(_RATE_ROUNDS)])))


def _copy_rate(device: torch.device, bytes_moved: int, timed: Callable[[Work], int]) -> float:
    source = _numbers(device, min(bytes_moved, _MOST_MOVED) // 2)
    target = torch.empty_like(source)
    return _rate(lambda: target.copy_(source), 2 * source.nbytes, timed)


def _rates(device: torch.device, bytes_moved: int, timed: Callable[[Work], int]) -> dict[str, float]:
    copy = _copy_rate(device, bytes_moved, timed)
    numbers = _numbers(device, min(bytes_moved, _MOST_MOVED)).view(torch.float32)
    write = _rate(lambda: numbers.fill_(1.0), numbers.nbytes, timed)
    read = _rate(lambda: numbers.sum(), numbers.nbytes, timed)
    return {"copy_gb_per_s": copy, "read_gb_per_s": read, "write_gb_per_s": write}


def _launch_ns(device: torch.device, timed: Callable[[Work], int]) -> float:
    numbers = torch.zeros(16, device=device)
    return float(np.median([timed(lambda: numbers.add_(1.0)) for _ in range(_RATE_ROUNDS)]))


def _sleep(cycles: int) -> None:
    """Keep the device busy for about `cycles` of its clock."""
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
