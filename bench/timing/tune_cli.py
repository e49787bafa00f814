"""`python -m bench tune`."""

from __future__ import annotations

from typing import Annotated

import typer

from lossscale.support import cli, errors, files
from lossscale.support.output import Output

_COLUMNS = ("optimizer", "recipe", "dtype", "block", "num_warps", "gb_per_s", "share_of_copy")


def tune_command(
    out: cli.OutOption = None,
    elements: Annotated[int, typer.Option("--elements", help="Elements of the tensor.")] = 1 << 26,
    write: Annotated[bool, typer.Option("--write", help="Put the chosen shape into the kernel's source.")] = False,
    json: cli.JsonOption = False,
) -> None:
    """Time every launch shape (block and warps) of every step kernel on this GPU, and choose the one they all have.

    The shape that gives up least at its worst kernel is chosen; the one at hand stays unless another is half a per
    cent better. Written constants make other machine code: kept results are stale then, and `static` holds the new
    kernels against its limits.

    Args:
        out: the table with every sample.
        elements: of the one tensor.
        write: change kernels/launch/step_kernel.py.
        json: print one JSON document.
    """
    if not 1 <= elements <= 1 << 32:
        raise errors.InputError("--elements", elements, "must be from 1 to 2^32")
    cli.resolve_device("cuda", "device", "launch shapes are measured on a GPU alone")
    from pathlib import Path

    from kernels import step_kernel

    from .clock import make_clock
    from .tune import tune, write_constants

    with Output(as_json=json) as output:
        document = tune(
            make_clock("cuda"),
            elements=elements,
            write=(lambda found: files.write_json(out, found)) if out is not None else (lambda found: None),
            said=output.note,
        )
        chosen, now = document["chosen"], document["now"]
        output.table(document["rows"], _COLUMNS, **{k: v for k, v in document.items() if k != "rows"})
        same = [chosen["block"], chosen["num_warps"]] == now
        output.note(
            f"{'kept' if same else 'chosen'}: block {chosen['block']}, {chosen['num_warps']} warps, at most "
            f"{100 * chosen['worst_loss']:.1f} % below any kernel's best"
        )
        if write and not same:
            write_constants(Path(step_kernel.__file__), document)
            output.note("written to kernels/launch/step_kernel.py; kept results are stale now")
