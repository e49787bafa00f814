"""`python -m bench tune`: which block and warp count each step kernel wants, measured on this GPU.

One large tensor per (algorithm, recipe, dtype), every launch shape interleaved, against a device copy of the same bytes
in the same run. The chosen constants live in `kernels.launch` with the measurement that chose them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from lossscale.support import cli, files

from ..optimizers import registered, titles
from ..providers import Ours
from .clock import DeviceClock
from .rows import bytes_moved
from .workloads import StepWorkload, one

SHAPES = tuple(itertools.product((512, 1024, 2048, 4096), (2, 4, 8)))
_ROUNDS = 9
_RECIPES = ("foreach", "fused", "native")


def _measure(workload: StepWorkload, recipe: str, clock: DeviceClock) -> Iterator[dict[str, Any]]:
    from kernels import step_kernel

    parameters = workload.parameters(torch.device("cuda"))
    for parameter, gradient in zip(parameters, workload.gradients(torch.device("cuda")), strict=True):
        parameter.grad = gradient
    ours = Ours(recipe=recipe, backend="triton")
    optimizer = ours.build(workload.optimizer, [{"params": parameters}], workload.options)
    moved = bytes_moved(workload)
    samples: dict[tuple[int, int], list[int]] = {shape: [] for shape in SHAPES}
    found = (step_kernel.BLOCK, step_kernel.LAUNCH_OPTIONS)
    try:
        for turn in range(_ROUNDS + 2):
            for shape in SHAPES:
                step_kernel.BLOCK, step_kernel.LAUNCH_OPTIONS = shape[0], {**found[1], "num_warps": shape[1]}
                if turn < 2:
                    optimizer.step()
                else:
                    samples[shape].append(clock.kernel(optimizer.step, 1e-3)[0] or 0)
    finally:
        step_kernel.BLOCK, step_kernel.LAUNCH_OPTIONS = found
    copy = clock.copy_gb_per_s(moved)
    for (block, warps), times in samples.items():
        gb_per_s = moved / float(np.median(times))
        yield {
            "optimizer": workload.optimizer,
            "recipe": recipe,
            "dtype": workload.dtype,
            "elements": workload.tensors.elements,
            "block": block,
            "num_warps": warps,
            "gb_per_s": gb_per_s,
            "copy_gb_per_s": copy,
            "share_of_copy": gb_per_s / copy,
        }


def tune_command(
    out: Annotated[Path, typer.Option("--out", help="JSON file for the table.")],
    elements: Annotated[int, typer.Option("--elements", help="Elements of the tensor.")] = 1 << 26,
) -> int:
    """Time every launch shape of every step kernel; the best shape of each is printed.

    Returns:
        0. Needs a CUDA device.
    """
    cli.resolve_device("cuda")
    clock = DeviceClock()
    rows: list[dict[str, Any]] = []
    for dtype, optimizer in itertools.product(("bf16", "fp32"), titles()):
        for recipe in (name for name in _RECIPES if name in registered(optimizer).recipes):
            workload = StepWorkload(optimizer=optimizer, tensors=one(elements), dtype=dtype)
            new = list(_measure(workload, recipe, clock))
            rows += new
            files.write_json(out, {"device": torch.cuda.get_device_name(), "rows": rows})
            ranked = sorted(new, key=lambda row: -row["gb_per_s"])
            shown = " ".join(
                f"{r['block']}x{r['num_warps']}:{r['share_of_copy']:.3f}" for r in (*ranked[:3], ranked[-1])
            )
            default = next(r for r in new if (r["block"], r["num_warps"]) == (1024, 4))
            print(
                f"{optimizer} {recipe} {dtype}: 1024x4 {default['share_of_copy']:.3f}; best, worst {shown}", flush=True
            )
    return 0


if __name__ == "__main__":
    typer.run(tune_command)
