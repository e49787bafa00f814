"""`python -m bench time step`."""

from __future__ import annotations

import threading
import time
from typing import Annotated, Any

import typer

from lossscale.support import cli, errors, files
from lossscale.support.output import Output, printed_as_errors

Names = list[str] | None
_EXTRA = ("queued_us", "host_moved_us", "predicted_us", "model_error", "differing_elements")


def time_step_command(
    provider: Annotated[
        Names, typer.Option("--provider", metavar="NAME", help="A name of `list`, or module:Class (repeat).")
    ] = None,
    workload: Annotated[
        Names,
        typer.Option(
            "--workload", metavar="NAME", help="resnet50, gpt2-124m, llama-1b, vit-b16, 2^20, or 10000x49 (repeat)."
        ),
    ] = None,
    optimizer: Annotated[
        Names, typer.Option("--optimizer", metavar="NAME", help="Only this one: adam, SGD (repeat).")
    ] = None,
    dtype: Annotated[Names, typer.Option("--dtype", metavar="fp32|bf16|fp16", help="Only this one (repeat).")] = None,
    device: cli.DeviceOption = "auto",
    quick: cli.QuickOption = False,
    json: cli.JsonOption = False,
    out: cli.OutOption = None,
) -> int:
    """Time one optimizer step: ours, torch's and anybody's, interleaved.

    Args:
        provider: who takes part, by default torch's implementations and ours.
        workload: resnet50, gpt2-124m, llama-1b, vit-b16, one tensor of 2^k elements, or COUNTxMEAN.
        optimizer: by default AdamW and SGD for the workloads named, all otherwise.
        dtype: of the tensors, by default fp32 for the workloads named.
        device: on a GPU kernel time and whole steps; on the CPU whole steps.
        quick: fewer workloads and less time.
        json: print one JSON document.
        out: also write it there.

    Returns:
        1 if nothing was timed, else 0.
    """
    chosen = cli.resolve_device(device)
    files.check_file("--out", out, ".json")
    import torch

    from ..store.schema import COLUMNS
    from .clock import make_clock
    from .run import time_all, usual_providers

    workloads = _workloads(workload, optimizer, dtype, chosen, quick)
    named = _providers(provider, chosen)
    if not workloads:
        raise errors.InputError("--optimizer", ", ".join(optimizer or ()), "no workload has it; name a --workload too")
    limit_s = 40.0 if quick else 240.0 if chosen == "cuda" else 1200.0
    with Output(as_json=json) as output:
        clock = make_clock(chosen)
        _check_memory(workloads, clock.free_bytes())
        on = torch.device(chosen)
        threads = threading.enumerate()
        # What providers print is not the command's answer.
        with printed_as_errors():
            document = time_all(
                workloads,
                lambda w: named or usual_providers(w, on),
                clock,
                deadline=time.monotonic() + limit_s,
                write=(lambda found: files.write_json(out, found)) if out is not None else (lambda found: None),
                longest_s=0.3 if quick else 2.5,
            )
        rows = document["rows"]
        shown = [name for name in (*COLUMNS, *_EXTRA) if any(row.get(name) is not None for row in rows)]
        output.table(rows, shown, **{name: value for name, value in document.items() if name != "rows"})
        for row in rows:
            if row.get("error"):
                last = row["error"].strip().splitlines()[-1]
                output.note(f"no time: {row.get('provider', '')} {row['optimizer']} {row['workload']}: {last}")
        for row in rows:
            if row.get("throttled"):
                reasons = ", ".join(row["throttled_by"]) or "something"
                name = f"{row['provider']} {row['optimizer']} {row['workload']}"
                output.note(f"times of a device that was held back by {reasons}: {name}")
        for line in document["not_offered"]:
            output.note(f"not offered: {line}")
        if left := [thread for thread in threading.enumerate() if thread not in threads]:
            output.note(f"threads that were left running beside the timings: {len(left)}, such as {left[0].name}")
        if document["not_run"]:
            output.note(f"not run in the time limit: {len(document['not_run'])} workloads")
    return 0 if any(row.get("step_us") or row.get("kernel_us") for row in rows) else 1


def _workloads(names: Names, optimizers: Names, dtypes: Names, device: str, quick: bool) -> list[Any]:
    from kernels import DTYPES

    from ..choices import choose_all
    from ..optimizers import parse_optimizers
    from .workloads import StepWorkload, cpu_steps, cuda_steps, parse_tensors

    kinds = choose_all("--dtype", dtypes, DTYPES) if dtypes else None
    titles = parse_optimizers(optimizers) if optimizers else None
    if names:
        return [
            StepWorkload(optimizer=title, tensors=tensors, dtype=kind)
            for tensors in map(parse_tensors, dict.fromkeys(names))
            for title in titles or ("AdamW", "SGD")
            for kind in kinds or ("fp32",)
        ]
    found = cuda_steps() if device == "cuda" else cpu_steps(quick=quick and not titles)
    return [w for w in found if (not titles or w.optimizer in titles) and (not kinds or w.dtype in kinds)]


def _providers(names: Names, device: str) -> list[Any]:
    import torch

    from ..providers.registry import parse_provider

    found = [parse_provider(name) for name in dict.fromkeys(names or ())]
    for one in found:
        if reason := one.missing(torch.device(device)):
            raise errors.InputError("--provider", one.name, reason)
    return found


def _check_memory(workloads: list[Any], free: int) -> None:
    for workload in workloads:
        # One provider's parameters and states, and the gradients.
        needed = workload.state_bytes() + 4 * workload.tensors.elements
        if needed > free:
            raise errors.InputError(
                "--workload",
                workload.tensors.name,
                f"{workload.optimizer} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} are free; take a smaller one",
            )
