"""The launch shape of the step kernels, block and warps, measured on this GPU and written where the kernels have it.

One large tensor per (algorithm, recipe, dtype), every launch shape interleaved, beside a device copy of the same bytes
in the same run. Nothing is tuned while anybody trains: an in-place kernel that was run once more to be timed would have
stepped once more.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from lossscale.support import files, provenance

from ..optimizers import registered, titles
from ..providers import Ours
from .clock import Clock
from .rows import bytes_moved
from .workloads import StepWorkload, one

Shape = tuple[int, int]
"""Block and warps."""
SHAPES: tuple[Shape, ...] = tuple(itertools.product((512, 1024, 2048, 4096), (2, 4, 8)))
ROUNDS = 9
RECIPES = ("foreach", "fused", "native")
# A shape must beat the one at hand by so much of a copy before anybody's machine code is changed for it.
_WORTH = 0.005
_SLEEP_S = 1e-3


def kernels_to_tune() -> Iterator[tuple[str, str, str]]:
    """(optimizer, recipe, dtype) of every step kernel that has arithmetic of its own."""
    for dtype, optimizer in itertools.product(("bf16", "fp32"), titles()):
        for recipe in (name for name in RECIPES if name in registered(optimizer).recipes):
            yield optimizer, recipe, dtype


def tune(
    clock: Clock,
    *,
    elements: int,
    shapes: Sequence[Shape] = SHAPES,
    rounds: int = ROUNDS,
    deadline: float = float("inf"),
    write: Callable[[dict[str, Any]], None] = lambda document: None,
    said: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time every shape of every kernel.

    Args:
        clock: of the device.
        elements: of the tensor.
        shapes: block and warps.
        rounds: samples of each.
        deadline: by `time.monotonic`; kernels for which no time is left are under `not_run`.
        write: given the document after every kernel.
        said: told a line for every kernel.

    Returns:
        The document: ``rows``, ``now`` (the shape in the sources) and ``chosen``.
    """
    from kernels import step_kernel

    now = (step_kernel.BLOCK, step_kernel.LAUNCH_OPTIONS["num_warps"])
    document: dict[str, Any] = {
        "provenance": provenance.collect(clock.device.type).as_dict(),
        "elements": elements,
        "now": list(now),
        "rows": [],
        "not_run": [],
    }
    for optimizer, recipe, dtype in kernels_to_tune():
        if time.monotonic() > deadline:
            document["not_run"].append([optimizer, recipe, dtype])
            continue
        workload = StepWorkload(optimizer=optimizer, tensors=one(elements), dtype=dtype)
        rows = list(_measure(workload, recipe, clock, shapes, rounds))
        document["rows"] += rows
        document["chosen"] = choose_shape(document["rows"], now)
        write(document)
        best = sorted(rows, key=lambda row: -row["share_of_copy"])
        shown = " ".join(f"{r['block']}x{r['num_warps']}:{r['share_of_copy']:.3f}" for r in (*best[:3], best[-1]))
        said(f"{optimizer} {recipe} {dtype}: best and worst {shown}")
    write(document)
    return document


def _measure(
    workload: StepWorkload, recipe: str, clock: Clock, shapes: Sequence[Shape], rounds: int
) -> Iterator[dict[str, Any]]:
    parameters = workload.parameters(clock.device)
    for parameter, gradient in zip(parameters, workload.gradients(clock.device), strict=True):
        parameter.grad = gradient
    # Each shape has an optimizer of its own: one keeps the kernel that it found at its first step.
    steps = {shape: _stepper(workload, recipe, parameters, shape) for shape in shapes}
    samples: dict[Shape, list[int]] = {shape: [] for shape in shapes}
    for number, shape in ((n, shape) for n in range(rounds + 1) for shape in shapes):
        kernel_ns, _ = clock.kernel(steps[shape], _SLEEP_S)
        took = clock.step(steps[shape])[0] if kernel_ns is None else kernel_ns
        # The first round warms up.
        samples[shape] += [took] if number else []
    moved = bytes_moved(workload)
    copy = clock.copy_gb_per_s(moved)
    for (block, warps), times in samples.items():
        gb_per_s = moved / max(1.0, float(np.median(times)))
        yield {
            "optimizer": workload.optimizer,
            "recipe": recipe,
            "dtype": workload.dtype,
            "block": block,
            "num_warps": warps,
            "gb_per_s": gb_per_s,
            "copy_gb_per_s": copy,
            "share_of_copy": gb_per_s / copy,
            "samples_ns": times,
        }


def _stepper(workload: StepWorkload, recipe: str, parameters: list[torch.Tensor], shape: Shape) -> Callable[[], Any]:
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


def choose_shape(rows: Sequence[dict[str, Any]], now: Shape) -> dict[str, Any]:
    """The one shape that all kernels have: the one that loses least, at its worst kernel, against each kernel's best.

    The shape at hand stays unless another loses `_WORTH` less.

    Returns:
        block, num_warps and ``worst_loss``, the largest share of a kernel's best rate that it gives up; ``now_loss`` is
        that of the shape at hand, None if it was not tried.
    """
    best: dict[tuple[str, ...], float] = {}
    for row in rows:
        key = (row["optimizer"], row["recipe"], row["dtype"])
        best[key] = max(best.get(key, 0.0), row["gb_per_s"])
    losses: dict[Shape, float] = {}
    for row in rows:
        shape = (row["block"], row["num_warps"])
        loss = 1 - row["gb_per_s"] / best[row["optimizer"], row["recipe"], row["dtype"]]
        losses[shape] = max(losses.get(shape, 0.0), loss)
    chosen = min(losses, key=lambda shape: losses[shape])
    if now in losses and losses[now] - losses[chosen] < _WORTH:
        chosen = now
    return {
        "block": chosen[0],
        "num_warps": chosen[1],
        "worst_loss": losses[chosen],
        "now_loss": losses.get(now),
    }


_BLOCK_LINES = re.compile(r'^BLOCK = \d+\n"""(?P<first>[^"]*?)\n\n[^"]*"""$', re.MULTILINE)
_WARPS = re.compile(r'^(LAUNCH_OPTIONS = \{"num_warps": )\d+', re.MULTILINE)


def write_constants(path: Path, document: dict[str, Any]) -> None:
    """Put the chosen shape, and the measurement that chose it, into the source of the step kernel.

    Raises:
        ValueError: if the source has no such constants.
    """
    chosen, machine = document["chosen"], document["provenance"]
    block, warps = chosen["block"], chosen["num_warps"]
    measured = (
        f"{machine['device_name']}, Triton {machine['packages']['triton']}, one tensor of {document['elements']:,}\n"
        f"(`bench tune`): within {100 * chosen['worst_loss']:.1f}% of the best shape for every kernel tried."
    )
    each = block // (32 * warps)
    first = f"Elements per program on a GPU: {each} per thread at {warps} warps."
    text = path.read_text(encoding="utf-8")
    text, blocks = _BLOCK_LINES.subn(lambda _: f'BLOCK = {block}\n"""{first}\n\n{measured}\n"""', text)
    text, options = _WARPS.subn(rf"\g<1>{warps}", text)
    if (blocks, options) != (1, 1):
        raise ValueError(f"{path.name} does not have BLOCK and LAUNCH_OPTIONS where they are looked for")
    files.write_text(path, text)
