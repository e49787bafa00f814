"""One provider over one workload: warmed up, stepped, and what was measured of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from ..providers.base import Provider
from .clock import Clock
from .workloads import StepWorkload

# After these, the same for everyone, bits are compared for the first time.
_FIRST_STEPS = 3
_WARM_UP_S = 0.01
_WARM_UP_LIMIT_S = 0.5
_LONGEST_SLEEP_S = 0.2
_QUEUED_S = 0.02
_MOST_QUEUED = 20


@dataclass(eq=False)
class Timed:
    """A provider over a workload, with what was measured of it; `checked` names the reference whose bits it must have.

    A reference that nobody asked to time takes part in the checks alone (`silent`). Where steps change their gradients,
    `gradients` has them as they were.
    """

    provider: Provider
    checked: str = ""
    silent: bool = False
    parameters: list[torch.Tensor] = field(default_factory=list)
    gradients: Sequence[torch.Tensor] = ()
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
    state_bytes: int | None = None
    peak_bytes: int | None = None
    aside: dict[str, list[int]] = field(default_factory=dict)
    throttled_by: set[str] = field(default_factory=set)
    throttled: bool = False
    differing: int | None = None
    error: str = ""
    unsupported: str = ""

    def step(self) -> None:
        """One step."""
        assert self.optimizer is not None
        self.optimizer.step()
        self.steps += 1

    def renew(self) -> None:
        """Give gradients that steps change their values again: a step is to do what the first one did."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=False):
            assert parameter.grad is not None
            parameter.grad.copy_(gradient)

    @property
    def samples(self) -> dict[str, list[int]]:
        """What was measured, by measure."""
        return {"kernel": self.kernel_ns, "step": self.step_ns, "host": self.host_ns, "queued": self.queued_ns}

    def set_aside(self, counts: Mapping[str, int], reasons: Iterable[str]) -> None:
        """Mark samples as those of a device that was held back: all after the first `counts` of each measure."""
        self.throttled_by.update(reasons)
        for name, samples in self.samples.items():
            self.aside.setdefault(name, []).extend(samples[counts[name] :])
            del samples[counts[name] :]

    def settle(self, fewest: int) -> None:
        """Where fewer than `fewest` sound samples could be had, let the times be those of a device held back."""
        if len(self.step_ns) < fewest and any(self.aside.values()):
            self.throttled = True
            for name, samples in self.samples.items():
                samples += self.aside.get(name, [])


def prepare(one: Timed, workload: StepWorkload, gradients: Sequence[torch.Tensor], clock: Clock) -> None:
    """Build the optimizer, and warm it up."""
    one.parameters = workload.parameters(clock.device)
    one.optimizer = one.provider.build(workload.optimizer, [{"params": one.parameters}], workload.options)
    known = one.provider.traits.known
    for parameter, gradient in zip(one.parameters, gradients, strict=True):
        # Ours and torch's read gradients, and share them; anybody else's may write them.
        parameter.grad = gradient if known else gradient.clone()
    addresses = [parameter.data_ptr() for parameter in one.parameters]
    clock.synchronize()
    began = time.perf_counter()
    one.step()
    clock.synchronize()
    one.warm_up_s = time.perf_counter() - began
    _check(one, addresses, gradients)
    one.peak_bytes = clock.peak_bytes(one.step)
    while one.steps <= _FIRST_STEPS and time.perf_counter() - began < one.warm_up_s + _WARM_UP_LIMIT_S:
        _timed_step(one, clock)
    _check(one, addresses, gradients)
    one.state_bytes = state_bytes(one.optimizer, attributes=not known)


def warm_up(one: Timed, clock: Clock) -> None:
    """Step until the device has been at it for a while."""
    began = time.perf_counter()
    while time.perf_counter() - began < _WARM_UP_S:
        _timed_step(one, clock)


def _timed_step(one: Timed, clock: Clock) -> None:
    one.renew()
    began = time.perf_counter()
    one.step()
    one.enqueue_s = time.perf_counter() - began
    clock.synchronize()
    one.last_s = time.perf_counter() - began


def _check(one: Timed, addresses: Sequence[int], gradients: Sequence[torch.Tensor]) -> None:
    """After a step: that another one can do the same."""
    _check_parameters(one, addresses)
    if not one.provider.traits.known:
        _check_gradients(one, gradients)


def _check_parameters(one: Timed, addresses: Sequence[int]) -> None:
    """That the parameters which are stepped are still those that were handed over, where they were."""
    assert one.optimizer is not None
    held = {id(p) for group in one.optimizer.param_groups for p in group["params"]}
    if not held.issuperset(map(id, one.parameters)) or [p.data_ptr() for p in one.parameters] != addresses:
        raise ValueError("its steps replaced parameters instead of updating them in place")


def _check_gradients(one: Timed, gradients: Sequence[torch.Tensor]) -> None:
    """That there still are gradients to step with; those that steps change are given their values again."""
    for parameter, gradient in zip(one.parameters, gradients, strict=True):
        found = parameter.grad
        if found is None or not _is_whole(found, gradient):
            raise ValueError("its steps take gradients away, so that the next one has nothing to do")
        if not torch.equal(found, gradient):
            one.gradients = gradients


def _is_whole(found: torch.Tensor, gradient: torch.Tensor) -> bool:
    """Whether it is a gradient like the one that was given, and has its memory: what was freed is not to be read."""
    if found.layout is not gradient.layout or found.shape != gradient.shape:
        return False
    return found.untyped_storage().nbytes() >= gradient.nbytes


def state_bytes(optimizer: torch.optim.Optimizer, *, attributes: bool) -> int | None:
    """Of every tensor that an optimizer keeps, a storage that several share counted once; None where it shows none.

    Args:
        optimizer: after a step or more.
        attributes: whether tensors that are attributes count, in whatever containers, or those among the states alone.
    """
    every = [p for group in optimizer.param_groups for p in group["params"]]
    others = {id(tensor) for p in every for tensor in (p, p.grad)}
    kept = {name: value for name, value in vars(optimizer).items() if name not in ("param_groups", "defaults")}
    held: dict[int, int] = {}
    for tensor in _tensors(kept if attributes else optimizer.state, set()):
        if id(tensor) not in others:
            # A storage that cannot be had belongs to a layout of several tensors, sparse for one.
            with suppress(RuntimeError):
                held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(held.values()) if held else None


def _tensors(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    """Every tensor in nested mappings and sequences."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple | set | deque) and id(value) not in seen:
        seen.add(id(value))
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(inner, seen)


def measure_once(one: Timed, clock: Clock, *, queued: bool) -> None:
    """One round: the kernel, a whole step, and now and then some in a row."""
    sleep_s = min(_LONGEST_SLEEP_S, 1.5 * one.enqueue_s + 2e-4)
    one.renew()
    if not one.host_bound:
        kernel_ns, enqueue_s = clock.kernel(one.step, sleep_s)
        one.enqueue_s = max(0.5 * one.enqueue_s, enqueue_s)
        if kernel_ns is not None and enqueue_s < sleep_s:
            one.kernel_ns.append(kernel_ns)
        elif kernel_ns is not None and len(one.step_ns) >= 2 and not one.kernel_ns:
            one.host_bound = True
    else:
        one.step()
    one.renew()
    step_ns, host_ns = clock.step(one.step)
    one.step_ns.append(step_ns)
    if host_ns is not None:
        one.host_ns.append(host_ns)
    if queued:
        one.renew()
        count = max(2, min(_MOST_QUEUED, int(_QUEUED_S * 1e9 / max(1, step_ns))))
        one.queued_ns.append(clock.queued(one.step, count))


def profile_once(one: Timed) -> None:
    """Sum of kernel durations of one step, for steps whose launches overrun the queue."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        one.step()
        torch.cuda.synchronize()
    total_us = sum(getattr(event, "self_device_time_total", 0.0) for event in recorded.key_averages())
    one.profiled_ns = round(total_us * 1e3) or None
