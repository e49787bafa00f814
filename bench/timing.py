"""Timing optimizer steps: interleaved variants, cold L2, kernel time and whole-step time as two numbers.

Kernel time is what the device needs when it never waits for the host: the step is enqueued behind a device-side sleep
that outlasts the enqueueing, between two events. Step time is what a user's clock sees: synchronise, step, synchronise.
Where the launch queue is too short for that (thousands of launches a step) the row says so, and kernel time comes
from the profiler. Outputs are compared after timing; a variant with wrong bits has no valid time.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from . import roofline
from .conformance import bitwise
from .providers import Ours, Provider, TorchOptim
from .workloads import StepWorkload

_WARM_UP_STEPS = 3
_WARM_UP_LIMIT_S = 0.5
_MAX_ROUNDS = 30
_MIN_ROUNDS = 5
_LONGEST_SLEEP_S = 0.2


@dataclass
class _Variant:
    provider: Provider
    pair: str
    parameters: list[torch.Tensor] = field(default_factory=list)
    optimizer: torch.optim.Optimizer | None = None
    warm_up_s: float = 0.0
    enqueue_s: float = 0.0
    host_bound: bool = False
    kernel_ns: list[int] = field(default_factory=list)
    step_ns: list[int] = field(default_factory=list)
    host_ns: list[int] = field(default_factory=list)
    profiled_ns: int | None = None
    error: str = ""
    steps: int = 0

    def step(self) -> None:
        assert self.optimizer is not None
        self.optimizer.step()
        self.steps += 1


def variants(workload: StepWorkload, *, ours: bool = True) -> list[_Variant]:
    """The implementations in torch and ours under each recipe; ours comes paired with the torch it must equal.

    A for-loop over thousands of tensors takes a second a step and is timed once, for float32 AdamW.
    """
    recipes = ["foreach", "fused", "for-loop"] if workload.optimizer != "RMSprop" else ["foreach", "for-loop"]
    if workload.tensors >= 1_000 and (workload.optimizer, workload.dtype) != ("AdamW", "fp32"):
        recipes.remove("for-loop")
    found = [_Variant(TorchOptim(implementation=name), name) for name in recipes]
    if ours:
        found += [_Variant(Ours(recipe=name, backend="triton"), name) for name in recipes]
    return found


def _sleep(cycles: int) -> None:
    """Keep the device busy for about `cycles` of its clock."""
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class Clock:
    """Device timing: a flushed L2, a sleep that hides the host, and the rate of a plain copy for comparison."""

    def __init__(self) -> None:
        import triton

        self._cache = triton.runtime.driver.active.get_empty_cache_for_benchmark()
        self._cycles_per_s = self._calibrate()

    def flush(self) -> None:
        """Evict what the last run left in the L2 cache."""
        self._cache.zero_()

    def _calibrate(self) -> float:
        cycles = 20_000_000
        for _ in range(2):
            elapsed_ns = self._events(lambda: _sleep(cycles), 0.0)[0]
        return cycles / (elapsed_ns * 1e-9)

    def _events(self, work: Callable[[], Any], sleep_s: float) -> tuple[int, float]:
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

    def kernel(self, work: Callable[[], Any], sleep_s: float) -> tuple[int, float]:
        """(device nanoseconds, seconds the host took to enqueue) of `work` on a cold cache."""
        self.flush()
        return self._events(work, sleep_s)

    def step(self, work: Callable[[], Any]) -> tuple[int, int]:
        """(nanoseconds to completion, nanoseconds until the host was free) of `work` on a cold cache, idle device."""
        self.flush()
        torch.cuda.synchronize()
        began = time.perf_counter_ns()
        work()
        host = time.perf_counter_ns()
        torch.cuda.synchronize()
        return time.perf_counter_ns() - began, host - began

    def copy_gb_per_s(self, bytes_moved: int, rounds: int = 15) -> float:
        """Median rate of a device-to-device copy that reads and writes `bytes_moved` in all."""
        source = torch.randint(0, 255, (max(1, bytes_moved // 2),), dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        times = [self.kernel(lambda: target.copy_(source), 2e-4)[0] for _ in range(rounds)]
        return bytes_moved / float(np.median(times))


def time_workload(workload: StepWorkload, clock: Clock, budget_s: float, *, ours: bool = True) -> list[dict[str, Any]]:
    """Time every variant of a workload, rounds interleaved, within about `budget_s`; one row per variant."""
    try:
        return _time_workload(workload, clock, budget_s, ours)
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def _time_workload(workload: StepWorkload, clock: Clock, budget_s: float, ours: bool) -> list[dict[str, Any]]:
    device = torch.device("cuda")
    gradients = workload.gradients(device)
    all_variants = variants(workload, ours=ours)
    for variant in all_variants:
        _guard(variant, lambda v: _prepare(v, workload, gradients, device))
    live = [v for v in all_variants if not v.error]
    began, rounds = time.monotonic(), 0
    while live and rounds < _MAX_ROUNDS and (rounds < _MIN_ROUNDS or time.monotonic() - began < budget_s):
        # Each round starts with another variant, so that none always follows the same neighbour.
        for variant in live[rounds % len(live) :] + live[: rounds % len(live)]:
            _guard(variant, lambda v: _measure(v, clock))
        rounds += 1
        if rounds >= 3 and time.monotonic() - began > 3 * budget_s:
            break
    differing: dict[int, int | None] = {}
    for variant in live:
        _guard(variant, lambda v: differing.update({id(v): _differing(v, all_variants)}))
    for variant in live:
        if variant.host_bound and not variant.error and float(np.median(variant.step_ns)) < 3e8:
            _guard(variant, _profile)
    moved = workload.elements * roofline.bytes_per_element(workload.optimizer, workload.options, workload.dtype)
    copy = clock.copy_gb_per_s(moved)
    return [_row(v, workload, moved, copy, rounds, differing.get(id(v))) for v in all_variants]


def _guard(variant: _Variant, work: Callable[[_Variant], Any]) -> None:
    if variant.error:
        return
    try:
        work(variant)
    except Exception:
        variant.error = traceback.format_exc(limit=-5)[-1500:]
        variant.parameters, variant.optimizer = [], None


def _prepare(
    variant: _Variant, workload: StepWorkload, gradients: Sequence[torch.Tensor], device: torch.device
) -> None:
    variant.parameters = workload.parameters(device)
    groups = [{"params": variant.parameters}]
    variant.optimizer = variant.provider.build(workload.optimizer, groups, workload.options)
    for parameter, gradient in zip(variant.parameters, gradients, strict=True):
        parameter.grad = gradient
    began = time.perf_counter()
    variant.step()
    torch.cuda.synchronize()
    variant.warm_up_s = time.perf_counter() - began
    while variant.steps <= _WARM_UP_STEPS and time.perf_counter() - began < variant.warm_up_s + _WARM_UP_LIMIT_S:
        enqueued = time.perf_counter()
        variant.step()
        variant.enqueue_s = time.perf_counter() - enqueued
        torch.cuda.synchronize()


def _measure(variant: _Variant, clock: Clock) -> None:
    sleep_s = min(_LONGEST_SLEEP_S, 1.5 * variant.enqueue_s + 2e-4)
    if not variant.host_bound:
        kernel_ns, enqueue_s = clock.kernel(variant.step, sleep_s)
        variant.enqueue_s = max(0.5 * variant.enqueue_s, enqueue_s)
        if enqueue_s < sleep_s:
            variant.kernel_ns.append(kernel_ns)
        elif len(variant.step_ns) >= 2 and len(variant.kernel_ns) == 0:
            variant.host_bound = True
    else:
        variant.step()
    step_ns, host_ns = clock.step(variant.step)
    variant.step_ns.append(step_ns)
    variant.host_ns.append(host_ns)


def _profile(variant: _Variant) -> None:
    """Sum of kernel durations of one step, for steps whose launches overrun the queue."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        variant.step()
        torch.cuda.synchronize()
    total_us = sum(getattr(event, "self_device_time_total", 0.0) for event in recorded.key_averages())
    variant.profiled_ns = round(total_us * 1e3) or None


def _differing(variant: _Variant, everyone: Iterable[_Variant]) -> int | None:
    """Elements of the parameters that differ from the torch variant of the same recipe, after equally many steps."""
    if not isinstance(variant.provider, Ours) or variant.error:
        return None
    partner = next((v for v in everyone if v.pair == variant.pair and isinstance(v.provider, TorchOptim)), None)
    if partner is None or partner.error:
        return None
    for slower in (variant, partner):
        while slower.steps < max(variant.steps, partner.steps):
            slower.step()
    pairs = zip(variant.parameters, partner.parameters, strict=True)
    return int(sum(bitwise.unequal(a.detach(), b.detach()).sum() for a, b in pairs))


def quantiles(samples: Sequence[int]) -> dict[str, float] | None:
    """Median and the 10th and 90th percentile."""
    if not samples:
        return None
    low, middle, high = np.quantile(np.asarray(samples, dtype=float), (0.1, 0.5, 0.9))
    return {"median": float(middle), "q10": float(low), "q90": float(high)}


def _row(
    variant: _Variant, workload: StepWorkload, moved: int, copy_gb_per_s: float, rounds: int, differing: int | None
) -> dict[str, Any]:
    kernel, step, host = (quantiles(samples) for samples in (variant.kernel_ns, variant.step_ns, variant.host_ns))
    kernel_ns = kernel["median"] if kernel else variant.profiled_ns
    gb_per_s = moved / kernel_ns if kernel_ns else None
    return {
        "provider": variant.provider.name,
        "optimizer": workload.optimizer,
        "options": dict(workload.options),
        "dtype": workload.dtype,
        "tensors": workload.tensors,
        "elements": workload.elements,
        "bytes_moved": moved,
        "kernel_time_ns": kernel_ns,
        "kernel_time_from": "events" if kernel else "profiler" if variant.profiled_ns else None,
        "kernel_time_quantiles": kernel,
        "step_time_ns": step["median"] if step else None,
        "step_time_quantiles": step,
        "host_time_ns": host["median"] if host else None,
        "gb_per_s": gb_per_s,
        "copy_gb_per_s": copy_gb_per_s,
        "share_of_copy": gb_per_s / copy_gb_per_s if gb_per_s else None,
        "rounds": rounds,
        "differing_elements": differing,
        "warm_up_s": variant.warm_up_s,
        "samples_kernel_ns": variant.kernel_ns,
        "samples_step_ns": variant.step_ns,
        "error": variant.error,
    }
