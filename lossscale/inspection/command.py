"""The command: reads a checkpoint and prints what its states say about the next step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..checkpoints.files import KEY, read_checkpoint
from ..checkpoints.recognise import OPTIMIZER, saved_by
from ..design.options import find_algorithm
from ..support.cli import JsonOption
from ..support.output import Output

CHECKPOINT = "CHECKPOINT"

CheckpointArgument = Annotated[
    Path, typer.Argument(metavar=CHECKPOINT, help="A file of torch.save.", show_default=False)
]
KeyOption = Annotated[
    str | None, typer.Option(KEY, metavar="KEY", help="Where the file has the optimizer: optimizer_states.0, …")
]
OptimizerOption = Annotated[
    str | None, typer.Option(OPTIMIZER, metavar="NAME", help="What saved it, if its states do not tell: adam, sgd, …")
]
LayersOption = Annotated[bool, typer.Option("--layers", help="A row for each parameter instead of each number.")]


def command(
    checkpoint: CheckpointArgument,
    key: KeyOption = None,
    optimizer: OptimizerOption = None,
    layers: LayersOption = False,
    as_json: JsonOption = False,
) -> None:
    """Where a saved optimizer state stands: what eps decides, what stalls, how near under- and overflow are.

    Every margin says of which quantile it is. Numbers of updates beside parameters need the parameters in the file.
    """
    read = read_checkpoint(checkpoint, key, CHECKPOINT)
    candidates = saved_by(read) if optimizer is None else (find_algorithm(OPTIMIZER, optimizer),)
    from .report import Inspection

    found = Inspection(read, candidates[0])
    with Output(as_json) as output:
        rows: list[dict[str, Any]] = found.layer_rows() if layers else found.rows()
        warned = [{"kind": w.kind, "group": w.group, "number": w.number, "text": w.text} for w in found.warnings]
        output.table(rows, optimizer=candidates[0].title, warnings=warned, left_out=found.left_out)
        for warning in found.warnings:
            output.note(f"warning: {warning}")
        for note in found.notes(candidates):
            output.note(note)
