"""The small commands of `python -m bench`; what they need is imported when they run, so that --help is quick."""

from __future__ import annotations

import time
from pathlib import Path

from lossscale.support import cli, errors, files
from lossscale.support.output import Output


def time_step_command(
    device: cli.DeviceOption = "auto",
    quick: cli.QuickOption = False,
    json: cli.JsonOption = False,
    out: cli.OutOption = None,
) -> int:
    """Time one optimizer step: ours and torch's, interleaved.

    Args:
        device: on a GPU kernel time and whole steps; on the CPU the cost of many small tensors.
        quick: fewer workloads.
        json: print one JSON document.
        out: also write it there.
    """
    chosen = cli.resolve_device(device)
    from . import step_times

    with Output(as_json=json) as output:
        if chosen == "cuda":
            document = step_times.run(out or Path("timing.json"), time.monotonic() + (40.0 if quick else 240.0))
        else:
            document = step_times.run_cpu(quick=quick)
            if out is not None:
                files.write_json(out, document)
        shown = [name for name in step_times.COLUMNS if any(row.get(name) is not None for row in document["rows"])]
        output.table(document["rows"], shown, **{name: value for name, value in document.items() if name != "rows"})
    return 0


def golden_command(
    device: cli.DeviceOption = "auto",
    quick: cli.QuickOption = False,
    json: cli.JsonOption = False,
    out: cli.OutOption = None,
) -> int:
    """Replay the recorded bits through this torch.optim, and with --out record new ones.

    Args:
        device: the recordings are CUDA's: on the CPU most cases differ, by torch's own arithmetic there.
        quick: every 48th case.
        json: print one JSON document.
        out: an .npz file to record torch.optim's bits into.
    """
    chosen = cli.resolve_device(device)
    if out is not None and out.suffix != ".npz":
        raise errors.InputError("--out", out, "recordings are .npz files; give a name that ends in .npz")
    import torch

    from . import golden, recording

    with Output(as_json=json) as output:
        on = torch.device(chosen)
        recorded = golden.load()
        rows = list(golden.replay(recorded, on, range(0, len(recorded.cases), 48 if quick else 1)))
        if out is not None:
            cases, arrays, refused = recording.record(on, time.monotonic() + 3600, toy=quick)
            tables = recording.bias_corrections(on, 200 if quick else recording.TABLE_STEPS)
            arrays.update({f"bias_correction/{beta}": values for beta, values in tables.items()})
            golden.write(out, cases, arrays, recording.meta(on))
            output.note(f"{len(cases)} cases recorded into {out}, {len(refused)} refused by torch")
        output.table(rows, ("case", "optimizer", "recipe", "dtype", "path", "grad_scale", "outcome"))
    # The recording is of CUDA kernels: only there is a difference a failure.
    return int(chosen == "cuda" and any(row["outcome"] != "identical" for row in rows))
