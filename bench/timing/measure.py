"""Timing optimizer steps: interleaved providers, cold L2, kernel time and whole-step time as two numbers.

Kernel time is what the device needs when it never waits for the host: the step is enqueued behind a device-side sleep
that outlasts the enqueueing, between two events. Step time is what a user's clock sees: synchronise, step, synchronise.
Where the launch queue is too short for that (thousands of launches a step) the row says so, and kernel time comes
from the profiler. Bits are compared before and after timing (`gate.py`).
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..providers.base import Provider, Unsupported
from ..providers.registry import references
from ..store.schema import StepRow
from . import gate
from .clock import Clock
from .rows import bytes_moved, row_of
from .workloads import StepWorkload

_WARM_UP_STEPS = 3
_WARM_UP_LIMIT_S = 0.5
_MAX_ROUNDS = 30
_MIN_ROUNDS = 5
_LONGEST_SLEEP_S = 0.2
_QUEUED_S = 0.02
_MOST_QUEUED = 20
# torch's foreach makes lists of intermediate results.
_ROOM = 0.7
_CATCH_UP_S = 3.0


@dataclass(eq=False)
class Timed:
    """A provider over a workload, with what was measured of it; `checked` names the reference whose bits it must have.

    A reference that nobody asked to time takes part in the checks alone (`silent`).
    """

    provider: Provider
    checked: str = ""
    silent: bool = False
    parameters: list[torch.Tensor] = field(default_factory=list)
    optimizer: torch.optim.Optimizer | None = None
    steps: int = 0
    warm_up_s: float = 0.0
    enqueue_s: float = 0.0
    last_s: float = 0.0
    host_bound: bool = False
    kernel_ns: list[int] = field(default_factory=list)
    step_ns: list[int] = field(default_factory=list)
    host_ns: list[int] = field(default_factory=list)
    queued_ns: list[int] = field(default_factory=list)
    profiled_ns: int | None = None
    differing: int | None = None
    error: str = ""
    unsupported: str = ""

    def step(self) -> None:
        """One step."""
        assert self.optimizer is not None
        self.optimizer.step()
        self.steps += 1


def time_workload(
    workload: StepWorkload, providers: Sequence[Provider], clock: Clock, budget_s: float
) -> tuple[list[StepRow], list[str]]:
    """Time every provider over a workload, rounds interleaved, within about `budget_s`.

    Returns:
        One row per provider, and a line for each that does not offer the optimizer.
    """
    rows: list[StepRow] = []
    lacking: list[str] = []
    moved = bytes_moved(workload)
    before = clock.copy_gb_per_s(moved)
    groups = _fitting(workload, providers, clock)
    for group in groups:
        timed, rounds = _time_group(workload, group, clock, budget_s / len(groups))
        lacking += [f"{one.provider.name}: {one.unsupported}" for one in timed if one.unsupported]
        for one in timed:
            one.parameters, one.optimizer = [], None
        gc.collect()
        if clock.device.type == "cuda":
            torch.cuda.empty_cache()
        # Whatever else the machine does, the copy is what it was able to.
        ceiling = max(before, clock.copy_gb_per_s(moved))
        rows += [row_of(one, workload, clock, rounds, ceiling) for one in timed if not (one.silent or one.unsupported)]
    return rows, lacking


def _fitting(workload: StepWorkload, providers: Sequence[Provider], clock: Clock) -> list[list[Provider]]:
    """All providers together where memory allows, else by recipe: each stays with its reference."""
    room = _ROOM * clock.free_bytes() - 2 * workload.tensors.elements * 4
    if len(providers) * workload.state_bytes() <= room:
        return [list(providers)]
    groups: dict[str, list[Provider]] = {}
    for provider in providers:
        groups.setdefault(provider.traits.recipe, []).append(provider)
    return list(groups.values())


def _time_group(
    workload: StepWorkload, providers: Sequence[Provider], clock: Clock, budget_s: float
) -> tuple[list[Timed], int]:
    gradients = workload.gradients(clock.device)
    timed = _with_references(providers, clock.device)
    for one in timed:
        _guard(one, lambda v: _prepare(v, workload, gradients, clock))
    _check(timed)
    live = [one for one in timed if not (one.error or one.unsupported or one.silent)]
    began, rounds = time.monotonic(), 0
    while live and rounds < _MAX_ROUNDS and (rounds < _MIN_ROUNDS or time.monotonic() - began < budget_s):
        # Each round starts with another provider, so that none always follows the same neighbour.
        first = rounds % len(live)
        for one in live[first:] + live[:first]:
            _guard(one, lambda v: _measure(v, clock, queued=rounds % 3 == 0))  # noqa: B023 - called at once
        rounds += 1
        if rounds >= 3 and time.monotonic() - began > 3 * budget_s:
            break
    _check(timed)
    for one in live:
        if one.host_bound and not one.error and float(np.median(one.step_ns)) < 3e8:
            # A profiler that does not work here takes the kernel's time along, and nothing else.
            with suppress(Exception):
                _profile(one)
    return timed, rounds


def _with_references(providers: Sequence[Provider], device: torch.device) -> list[Timed]:
    timed = [Timed(provider, provider.against(device) if provider.traits.bits_known else "") for provider in providers]
    there = {provider.name for provider in providers}
    silent = [name for name in dict.fromkeys(one.checked for one in timed if one.checked) if name not in there]
    return timed + [Timed(references()[name], silent=True) for name in silent]


def _guard(one: Timed, work: Callable[[Timed], Any]) -> None:
    if one.error or one.unsupported:
        return
    try:
        work(one)
    except Unsupported as error:
        one.unsupported = str(error)
    except Exception:
        one.error = traceback.format_exc(limit=-5)[-1500:]
    if one.error or one.unsupported:
        one.parameters, one.optimizer = [], None


def _prepare(one: Timed, workload: StepWorkload, gradients: Sequence[torch.Tensor], clock: Clock) -> None:
    one.parameters = workload.parameters(clock.device)
    one.optimizer = one.provider.build(workload.optimizer, [{"params": one.parameters}], workload.options)
    for parameter, gradient in zip(one.parameters, gradients, strict=True):
        parameter.grad = gradient
    clock.synchronize()
    began = time.perf_counter()
    one.step()
    clock.synchronize()
    one.warm_up_s = time.perf_counter() - began
    while one.steps <= _WARM_UP_STEPS and time.perf_counter() - began < one.warm_up_s + _WARM_UP_LIMIT_S:
        enqueued = time.perf_counter()
        one.step()
        one.enqueue_s = time.perf_counter() - enqueued
        clock.synchronize()
        one.last_s = time.perf_counter() - enqueued


def _check(timed: Sequence[Timed]) -> None:
    """Hold everyone's bits against their reference's; what was wrong once stays so.

    A reference that is not timed has steps to catch up with; where that takes too long, the first check has to do.
    """
    by_name = {one.provider.name: one for one in timed}
    for one in timed:
        reference = by_name.get(one.checked)
        if reference is None or reference.error or reference.unsupported:
            continue
        if reference.silent and (one.steps - reference.steps) * reference.last_s > _CATCH_UP_S:
            continue
        with torch.no_grad():
            _guard(one, lambda v, r=reference: _compare(v, r))  # type: ignore[misc]


def _compare(one: Timed, reference: Timed) -> None:
    found = gate.differing(one, reference, one.provider.traits.block)
    if found is not None:
        one.differing = max(one.differing or 0, found)


def _measure(one: Timed, clock: Clock, *, queued: bool) -> None:
    sleep_s = min(_LONGEST_SLEEP_S, 1.5 * one.enqueue_s + 2e-4)
    if not one.host_bound:
        kernel_ns, enqueue_s = clock.kernel(one.step, sleep_s)
        one.enqueue_s = max(0.5 * one.enqueue_s, enqueue_s)
        if kernel_ns is not None and enqueue_s < sleep_s:
            one.kernel_ns.append(kernel_ns)
        elif kernel_ns is not None and len(one.step_ns) >= 2 and not one.kernel_ns:
            one.host_bound = True
    else:
        one.step()
    step_ns, host_ns = clock.step(one.step)
    one.step_ns.append(step_ns)
    if host_ns is not None:
        one.host_ns.append(host_ns)
    if queued:
        count = max(2, min(_MOST_QUEUED, int(_QUEUED_S * 1e9 / max(1, step_ns))))
        one.queued_ns.append(clock.queued(one.step, count))


def _profile(one: Timed) -> None:
    """Sum of kernel durations of one step, for steps whose launches overrun the queue."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        one.step()
        torch.cuda.synchronize()
    total_us = sum(getattr(event, "self_device_time_total", 0.0) for event in recorded.key_averages())
    one.profiled_ns = round(total_us * 1e3) or None
