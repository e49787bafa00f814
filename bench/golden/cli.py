"""`python -m bench golden`."""

from __future__ import annotations

import time

from lossscale.support import cli, files
from lossscale.support.output import Output


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
    files.check_file("--out", out, ".npz")
    import torch

    from ..conformance.rows import Outcome
    from . import format, powf, recording, replay

    with Output(as_json=json) as output:
        on = torch.device(chosen)
        recorded = format.load()
        rows = list(replay.replay(recorded, on, range(0, len(recorded.cases), 48 if quick else 1)))
        if out is not None:
            cases, arrays, refused = recording.record(on, time.monotonic() + 3600, toy=quick)
            tables = powf.bias_corrections(on, 200 if quick else powf.TABLE_STEPS)
            arrays.update({f"bias_correction/{beta}": values for beta, values in tables.items()})
            format.write(out, cases, arrays, recording.meta(on))
            output.note(f"{len(cases)} cases recorded into {out}, {len(refused)} refused by torch")
        output.table(rows, ("case", "optimizer", "recipe", "dtype", "path", "grad_scale", "outcome"))
        if chosen != "cuda":
            output.note("The recordings are of CUDA kernels: what differs here is torch's own arithmetic on a CPU.")
    # The recording is of CUDA kernels: only there is a difference a failure.
    return int(chosen == "cuda" and any(row["outcome"] is not Outcome.IDENTICAL for row in rows))
