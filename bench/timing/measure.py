"""Timing optimizer steps: interleaved providers, cold L2, kernel time and whole-step time as two numbers.

Kernel time is what the device needs when it never waits for the host: the step is enqueued behind a device-side sleep
that outlasts the enqueueing, between two events. Step time is what a user's clock sees: synchronise, step, synchronise.
Where the launch queue is too short for that (thousands of launches a step) the row says so, and kernel time comes
from the profiler. Bits are compared before and after timing (`gate.py`).
Rounds end when every median is known well enough (`stopping.py`). What was measured while the device was held back
(`sensors.py`) is set aside and taken again.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import torch

from ..providers.base import Provider, Unsupported
from ..providers.contained import contained
from ..providers.registry import references
from ..store.schema import StepRow
from ..tracebacks import kept_traceback
from . import gate
from .clock import Clock
from .rows import bytes_moved, row_of
from .sensors import Reading
from .stopping import ENOUGH, FEWEST, Rounds
from .timed import Timed, measure_once, prepare, profile_once, warm_up
from .workloads import StepWorkload

# torch's foreach makes lists of intermediate results.
_ROOM = 0.7
_CATCH_UP_S = 3.0
# Of what is nobody's that we know: to be built and to take its first steps, or to take those of a round.
_CALL_S, _SLOW_CALL_S = 60.0, 240.0


def time_workload(
    workload: StepWorkload,
    providers: Sequence[Provider],
    clock: Clock,
    budget_s: float,
    seen: list[Reading] | None = None,
    deadline: float = math.inf,
) -> tuple[list[StepRow], list[str]]:
    """Time every provider over a workload, rounds interleaved, within about `budget_s`.

    Readings of the device's sensors are appended to `seen`.

    Returns:
        One row per provider, and a line for each that does not offer the optimizer.

    Raises:
        TimeIsUp: the deadline (by `time.monotonic`) came before everyone had been timed `ENOUGH` times.
    """
    rows: list[StepRow] = []
    lacking: list[str] = []
    seen = [] if seen is None else seen
    moved = bytes_moved(workload)
    before = clock.copy_gb_per_s(moved)
    groups = _fitting(workload, providers, clock)
    for group in groups:
        timed, rounds = _time_group(workload, group, clock, budget_s / len(groups), seen, deadline)
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


class TimeIsUp(Exception):
    """The deadline came while a workload was being timed, before there was enough to tell."""


def _time_group(
    workload: StepWorkload,
    providers: Sequence[Provider],
    clock: Clock,
    budget_s: float,
    seen: list[Reading],
    deadline: float,
) -> tuple[list[Timed], Rounds]:
    gradients = workload.gradients(clock.device)
    timed = _with_references(providers, clock.device)
    for one in timed:
        # To be built and to compile may take seconds each.
        _in_time(deadline)
        _guard(one, lambda v: prepare(v, workload, gradients, clock), deadline)
    _check(timed, deadline)
    live = [one for one in timed if not (one.error or one.unsupported or one.silent)]
    for one in live:
        _in_time(deadline)
        _guard(one, lambda v: warm_up(v, clock), deadline)
    rounds = Rounds(limit_s=budget_s, deadline=deadline)
    before = clock.reading()
    while live and rounds.go_on(_sound(live), _measures(live)):
        # Each round starts with another provider, so that none always follows the same neighbour.
        first = (rounds.count - 1) % len(live)
        for one in live[first:] + live[:first]:
            counts = {name: len(samples) for name, samples in one.samples.items()}
            _guard(one, lambda v: measure_once(v, clock, queued=rounds.count % 3 == 1), deadline)
            after = clock.reading()
            # A device that was held back before or after was not itself in between.
            if reasons := {name for now in (before, after) if now is not None for name in now.throttled_by}:
                one.set_aside(counts, reasons)
            seen += [after] if after is not None else []
            before = after
    if rounds.stopped_by == "time" and rounds.count < ENOUGH and not all(one.error for one in live):
        raise TimeIsUp
    for one in live:
        one.settle(FEWEST)
    _check(timed, deadline)
    for one in live:
        if one.host_bound and not one.error and float(np.median(one.step_ns)) < 3e8:
            # A profiler that does not work here takes the kernel's time along, and nothing else.
            with suppress(Exception):
                profile_once(one)
    return timed, rounds


def _in_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeIsUp


def _sound(live: Sequence[Timed]) -> int:
    """Rounds of which everyone who is still there has sound samples."""
    return min((len(one.step_ns) for one in live if not one.error), default=FEWEST)


def _measures(live: Sequence[Timed]) -> list[list[int]]:
    """What the rounds are for: whole steps, and kernels where events can time them."""
    sound = [one for one in live if not one.error]
    return [one.step_ns for one in sound] + [one.kernel_ns for one in sound if one.kernel_ns and not one.host_bound]


def _with_references(providers: Sequence[Provider], device: torch.device) -> list[Timed]:
    timed = [Timed(provider, provider.against(device) if provider.traits.bits_known else "") for provider in providers]
    there = {provider.name for provider in providers}
    silent = [name for name in dict.fromkeys(one.checked for one in timed if one.checked) if name not in there]
    return timed + [Timed(references()[name], silent=True) for name in silent]


def _guard(one: Timed, work: Callable[[Timed], Any], deadline: float = math.inf) -> None:
    if one.error or one.unsupported:
        return
    traits = one.provider.traits
    limit_s = min(_SLOW_CALL_S if traits.slow else _CALL_S, max(0.1, deadline - time.monotonic()))
    try:
        with nullcontext() if traits.known else contained(limit_s):
            work(one)
    except Unsupported as error:
        one.unsupported = str(error)
    except Exception:
        one.error = kept_traceback(limit=-5, most=1500)
    if one.error or one.unsupported:
        one.parameters, one.optimizer = [], None


def _check(timed: Sequence[Timed], deadline: float) -> None:
    """Hold everyone's bits against their reference's; what was wrong once stays so.

    A reference that is not timed has steps to catch up with; where that takes too long, the first check has to do.
    """
    catch_up_s = min(_CATCH_UP_S, deadline - time.monotonic())
    by_name = {one.provider.name: one for one in timed}
    for one in timed:
        reference = by_name.get(one.checked)
        if reference is None or reference.error or reference.unsupported:
            continue
        if reference.silent and (one.steps - reference.steps) * reference.last_s > catch_up_s:
            continue
        with torch.no_grad():
            _guard(one, lambda v, r=reference: _compare(v, r))  # type: ignore[misc]


def _compare(one: Timed, reference: Timed) -> None:
    found = gate.differing(one, reference, one.provider.traits.block)
    if found is not None:
        one.differing = max(one.differing or 0, found)
