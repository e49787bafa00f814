"""The launch shape of the step kernels, block and warps, measured on this GPU and written where the kernels have it.

One large tensor per (algorithm, recipe, dtype), launch shapes interleaved, beside a device copy of the same bytes in
the same run: those kernels first that most people train with, all shapes on the first two of them and ever fewer on
those that follow, more samples of the better ones. Compiling takes most of the time: processes do it ahead.
Nothing is tuned while anybody trains: an in-place kernel that was run once more to be timed would have stepped once
more.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch

from lossscale.support import provenance

from ..optimizers import registered
from ..providers import Ours
from ..store import freshness
from ..store.schema import is_above_zero
from .clock import Clock
from .launch_shape import HALVED_AFTER, Shape, choose_shape, kernel_of, losses, shapes_left
from .rows import bytes_moved
from .workloads import StepWorkload, by_use, one

Kernel = tuple[str, str, str]
"""Optimizer, recipe and dtype."""
Compile = Callable[[Sequence[tuple[Kernel, Shape]], float], Any]
"""``compile(jobs, limit_s)``: makes kernels ready as far as that goes in the time."""
SHAPES: tuple[Shape, ...] = tuple(itertools.product((512, 1024, 2048, 4096), (2, 4, 8)))
ROUNDS = 9
RECIPES = ("foreach", "fused", "native")
_SLEEP_S = 1e-3
# Of the time that is left: compiling ahead may take it before each kernel, or group of them, is measured.
_COMPILING = 0.5


def kernels_to_tune() -> Iterator[Kernel]:
    """Every step kernel that has arithmetic of its own: default recipes first, and what most people train with."""
    every = [
        (optimizer, recipe) for optimizer in by_use() for recipe in RECIPES if recipe in registered(optimizer).recipes
    ]
    for optimizer, recipe in sorted(every, key=lambda pair: pair[1] != registered(pair[0]).default_recipe):
        for dtype in ("fp32", "bf16"):
            yield optimizer, recipe, dtype


def not_ahead(jobs: Sequence[tuple[Kernel, Shape]], limit_s: float) -> None:
    """Compiles nothing: each kernel is compiled when it is measured."""
    del jobs, limit_s


def tune(
    clock: Clock,
    *,
    elements: int,
    shapes: Sequence[Shape] = SHAPES,
    rounds: int = ROUNDS,
    deadline: float = float("inf"),
    earlier: Iterable[Mapping[str, Any]] = (),
    compiled: Compile = not_ahead,
    write: Callable[[dict[str, Any]], None] = lambda document: None,
    said: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time the shapes of every kernel.

    Args:
        clock: of the device.
        elements: of the tensor.
        shapes: block and warps.
        rounds: samples of the better quarter of the shapes.
        deadline: by `time.monotonic`; kernels for which no time is left are under `not_run`.
        earlier: documents of runs that ended early: what they have of the same kernels on the same machine is kept.
        compiled: makes kernels ready before they are measured.
        write: given the document after every kernel.
        said: told a line for every kernel.

    Returns:
        The document: ``rows``, ``now`` (the shape in the sources), ``resumed`` (the kernels of earlier runs) and, where
        there are rows, ``chosen``.
    """
    import kernels

    step_kernel = kernels.step_kernel
    now = (step_kernel.BLOCK, step_kernel.LAUNCH_OPTIONS["num_warps"])
    document: dict[str, Any] = {
        "provenance": provenance.collect(clock.device.type).as_dict(),
        "fingerprints": {name: kernels.fingerprint(name) for name in kernels.ALGORITHMS},
        "elements": elements,
        "now": list(now),
        "rows": [],
        "resumed": [],
        "not_run": [],
    }
    rows: list[dict[str, Any]] = document["rows"]
    for kernel, found in _kept(earlier, document, shapes):
        rows += found
        document["resumed"].append(list(kernel))
        said(f"{' '.join(kernel)}: of an earlier run")
    todo = [kernel for kernel in kernels_to_tune() if list(kernel) not in document["resumed"]]
    for kernels_of_group in _groups(todo, len(document["resumed"])):
        tried = shapes_left(rows, shapes, now)
        jobs = [(kernel, shape) for kernel in kernels_of_group for shape in tried]
        if (left_s := deadline - time.monotonic()) > 0:
            compiled(jobs, _COMPILING * left_s)
        for kernel in kernels_of_group:
            # Evenly: what one does not need goes to those that follow.
            left = len(todo) - len({kernel_of(row) for row in rows}) + len(document["resumed"])
            until = time.monotonic() + (deadline - time.monotonic()) / max(1, left)
            measured = _measure(kernel, clock, elements, tried, now, rounds, until, deadline)
            if not measured:
                document["not_run"].append(list(kernel))
                continue
            rows += measured
            document["chosen"] = choose_shape(rows, now)
            write(document)
            said(_line(kernel, measured))
    if rows:
        document["chosen"] = choose_shape(rows, now)
    write(document)
    return document


def _groups(todo: Sequence[Kernel], measured: int) -> Iterator[Sequence[Kernel]]:
    """The kernels between one halving of the shapes and the next."""
    bounds = [0, *(max(0, after - measured) for after in HALVED_AFTER), len(todo)]
    yield from (todo[first:last] for first, last in itertools.pairwise(bounds) if first < last and todo[first:last])


def _line(kernel: Kernel, rows: Sequence[dict[str, Any]]) -> str:
    best = sorted(rows, key=lambda row: -row["share_of_copy"])
    shown = " ".join(f"{r['block']}x{r['num_warps']}:{r['share_of_copy']:.3f}" for r in (*best[:3], best[-1]))
    return f"{' '.join(kernel)}: best and worst of {len(rows)} {shown}"


def _kept(
    earlier: Iterable[Mapping[str, Any]], document: Mapping[str, Any], shapes: Sequence[Shape]
) -> Iterator[tuple[Kernel, list[dict[str, Any]]]]:
    """What earlier documents have of kernels whose code, machine, tensor and shape at hand are still the same."""
    found: dict[Kernel, list[dict[str, Any]]] = {}
    for one_earlier in earlier:
        same = all(one_earlier.get(name) == document[name] for name in ("elements", "now"))
        if not same or freshness.unlike(one_earlier, document):
            continue
        prints = one_earlier.get("fingerprints", {})
        here: dict[Kernel, list[dict[str, Any]]] = {}
        for row in filter(_is_row, one_earlier.get("rows", [])):
            name = registered(row["optimizer"]).name
            if prints.get(name) == document["fingerprints"].get(name) and (row["block"], row["num_warps"]) in shapes:
                here.setdefault(kernel_of(row), []).append(row)
        found = {**here, **found}
    if not losses([row for rows in found.values() for row in rows]):
        # No shape was tried on all of them, and none could be chosen.
        return
    # In the order of importance: the first ones were tried with all shapes.
    yield from ((kernel, found[kernel]) for kernel in kernels_to_tune() if kernel in found)


def _is_row(row: object) -> bool:
    """Whether it is a row as `_measure` makes them, of an optimizer that still is there: files outlive versions."""
    if not isinstance(row, dict) or row.get("optimizer") not in by_use():
        return False
    if not all(isinstance(row.get(name), str) for name in ("recipe", "dtype")):
        return False
    rates = row.get("gb_per_s"), row.get("copy_gb_per_s"), row.get("share_of_copy")
    return all(map(is_above_zero, rates)) and {"recipe", "dtype", "block", "num_warps", "samples_ns"} <= row.keys()


def _measure(
    kernel: Kernel,
    clock: Clock,
    elements: int,
    shapes: Sequence[Shape],
    now: Shape,
    rounds: int,
    until: float,
    deadline: float,
) -> list[dict[str, Any]]:
    """A row for every shape; none where the deadline came before each had a sample.

    All get a third of the rounds, the better half of them half, and the best quarter and the shape at hand all, or as
    many as there is time for.
    """
    optimizer, recipe, dtype = kernel
    workload = StepWorkload(optimizer=optimizer, tensors=one(elements), dtype=dtype)
    if time.monotonic() > deadline:
        return []
    parameters = stepped(workload, clock.device)
    # Each shape has an optimizer of its own: one keeps the kernel that it found at its first step.
    steps: dict[Shape, Callable[[], Any]] = {}
    for shape in shapes:
        if time.monotonic() > deadline:
            return []
        steps[shape] = stepper(workload, recipe, parameters, shape)
    samples: dict[Shape, list[int]] = {shape: [] for shape in shapes}
    alive = list(shapes)
    for shape in alive:
        # Warms up.
        _sample(clock, steps[shape])
    for share, last in ((1, rounds // 3), (2, rounds // 2), (4, rounds)):
        kept = max(2, len(shapes) // share)
        best = sorted(alive, key=lambda shape: float(np.median(samples[shape] or [0])))[:kept]
        alive = [shape for shape in alive if shape in best or shape == now]
        while len(samples[alive[0]]) < max(1, last):
            if time.monotonic() > (until if all(samples.values()) else deadline):
                break
            for shape in alive:
                samples[shape].append(_sample(clock, steps[shape]))
    if not all(samples.values()):
        return []
    moved = bytes_moved(workload)
    copy = clock.copy_gb_per_s(moved)
    found = []
    for (block, warps), times in samples.items():
        gb_per_s = moved / max(1.0, float(np.median(times)))
        found.append(
            {
                "optimizer": optimizer,
                "recipe": recipe,
                "dtype": dtype,
                "block": block,
                "num_warps": warps,
                "gb_per_s": gb_per_s,
                "copy_gb_per_s": copy,
                "share_of_copy": gb_per_s / copy,
                "samples_ns": times,
            }
        )
    return found


def _sample(clock: Clock, step: Callable[[], Any]) -> int:
    kernel_ns, _ = clock.kernel(step, _SLEEP_S)
    return clock.step(step)[0] if kernel_ns is None else kernel_ns


def stepped(workload: StepWorkload, device: torch.device) -> list[torch.Tensor]:
    """Parameters with gradients."""
    parameters = workload.parameters(device)
    for parameter, gradient in zip(parameters, workload.gradients(device), strict=True):
        parameter.grad = gradient
    return parameters


def stepper(workload: StepWorkload, recipe: str, parameters: list[torch.Tensor], shape: Shape) -> Callable[[], Any]:
    """Steps over the parameters, which all shapes share, with kernels of that shape."""
    from kernels import step_kernel

    optimizer = Ours(recipe=recipe, backend="triton").build(
        workload.optimizer, [{"params": parameters}], workload.options
    )
    options = {**step_kernel.LAUNCH_OPTIONS, "num_warps": shape[1]}
    with mock.patch.multiple(step_kernel, BLOCK=shape[0], LAUNCH_OPTIONS=options):
        # The first step chooses the block and compiles, the second keeps what the first has launched.
        optimizer.step()
        optimizer.step()
    return optimizer.step
