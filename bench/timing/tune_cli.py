"""`python -m bench tune`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from lossscale.support import cli, errors, files
from lossscale.support.output import Output

_COLUMNS = ("optimizer", "recipe", "dtype", "block", "num_warps", "gb_per_s", "share_of_copy")


def tune_command(
    out: cli.OutOption = None,
    elements: Annotated[int, typer.Option("--elements", metavar="N", help="Elements of the tensor.")] = 1 << 26,
    minutes: Annotated[
        float, typer.Option("--minutes", metavar="M", help="Time limit; the rest is counted as not run.")
    ] = 60.0,
    write: Annotated[bool, typer.Option("--write", help="Put the chosen shape into the kernel's source.")] = False,
    json: cli.JsonOption = False,
) -> int:
    """Time the launch shapes (block and warps) of every step kernel on this GPU, and choose the one they all have.

    Kernels that most people train with come first, with all shapes; those that follow are tried with ever fewer. A run
    that ended early goes on when it is given the same --out on the same machine, with the same kernels.

    The shape that gives up least at its worst kernel is chosen; the one at hand stays unless another is half a per
    cent better. Written constants make other machine code: kept results are stale then, and `static` holds the new
    kernels against its limits. Exit code 1 when no kernel could be measured.

    Args:
        out: the table with every sample; read first, if it is there.
        elements: of the one tensor.
        minutes: must be above 0.
        write: change kernels/launch/step_kernel.py.
        json: print one JSON document.
    """
    if not 1 <= elements <= 1 << 32:
        raise errors.InputError("--elements", elements, "must be from 1 to 2^32")
    if not 0 < minutes <= 1440:
        raise errors.InputError("--minutes", minutes, "must be above 0 and at most 1440")
    files.check_file("--out", out, ".json")
    cli.resolve_device("cuda", "device", "launch shapes are measured on a GPU alone")
    from kernels import step_kernel

    from ..store.kept import read_own
    from .clock import make_clock
    from .compilers import Compilers
    from .launch_shape import write_constants
    from .tune import tune

    earlier = [] if out is None else [read_own(out, "--out", "rows", "now", "elements")]
    with Output(as_json=json) as output, Compilers("cuda") as compilers:
        document = tune(
            make_clock("cuda"),
            elements=elements,
            deadline=time.monotonic() + 60 * minutes,
            earlier=earlier,
            compiled=compilers.compile,
            write=(lambda found: files.write_json(out, found)) if out is not None else (lambda found: None),
            said=output.note,
        )
        output.table(document["rows"], _COLUMNS, **{k: v for k, v in document.items() if k != "rows"})
        if document["not_run"]:
            output.note(
                f"not run in the time limit: {len(document['not_run'])} kernels; the same --out goes on with them"
            )
        if not document["rows"]:
            return 1
        chosen, now = document["chosen"], document["now"]
        same = [chosen["block"], chosen["num_warps"]] == now
        output.note(
            f"{'kept' if same else 'chosen'}: block {chosen['block']}, {chosen['num_warps']} warps, at most "
            f"{100 * chosen['worst_loss']:.1f} % below any kernel's best"
        )
        if write and not same:
            write_constants(Path(step_kernel.__file__), document)
            output.note("written to kernels/launch/step_kernel.py; kept results are stale now")
    return 0
