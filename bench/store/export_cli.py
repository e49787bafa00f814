"""`python -m bench export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lossscale.support import cli, errors, files


def export_command(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="A timing result.")],
    form: Annotated[str, typer.Option("--format", metavar="pytorch|csv", help="What to write.")] = "pytorch",
    out: cli.OutOption = None,
) -> None:
    """A result of `time step` or of a campaign in a form that others read, with every sample.

    pytorch is a JSON list of records of the PyTorch benchmark database, one metric each; csv has one line a sample.

    Args:
        result: what `time step --out` or a campaign wrote.
        form: pytorch or csv.
        out: a file, by default standard output.
    """
    from .export import FORMATS
    from .load import read_result

    name = errors.choose("--format", form, list(FORMATS))
    errors.check_ending("--out", out, ".csv" if name == "csv" else ".json")
    text = FORMATS[name](read_result(result, "RESULT"))
    if out is None:
        sys.stdout.write(text)
    else:
        files.write_text(out, text)
