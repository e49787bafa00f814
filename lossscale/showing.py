"""The commands of ``python -m lossscale`` that show finished runs: pages, verdicts, pictures, what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import studies
from .support.cli import JsonOption, OutOption
from .support.errors import InputError, check_directory_name, check_ending
from .support.output import Output

if TYPE_CHECKING:
    from .report.finished import FinishedRun

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run.", show_default=False)]
RunsArgument = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs.", show_default=False)]
FolderOption = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Where to, such as docs.", show_default=False)
]


def report(runs: RunsArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Write the HTML page of one run or several, by default report.html in the first."""
    from .report.libraries import LibraryMissing
    from .report.page import write_report

    check_ending("--out", out, ".html")
    with Output(as_json) as output:
        try:
            page = write_report(runs, out, find_study=studies.get)
        except LibraryMissing as missing:
            raise InputError("RUN", " ".join(map(str, runs)), str(missing)) from missing
        output.table([{"page": page}])


def verdicts(runs: RunsArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """What became of every prediction of these runs: predicted beside measured. --out FILE.csv keeps the table."""
    from .report.finished import read_finished
    from .report.neutral import prediction_rows
    from .support.files import write_text

    check_ending("--out", out, ".csv")
    with Output(as_json) as output:
        found = [read_finished(run, studies.get) for run in runs]
        rows = [
            {"study": item.study.name, **row} for item in found for row in prediction_rows(item.study, item.summary)
        ]
        if out is not None:
            import pandas as pd

            write_text(out, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
        output.table(rows, [name for name in rows[0] if name not in ("says", "reasons")] if rows else None)
        for item in found:
            _say_how_it_stands(output, item)


def picture(run: RunArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Draw the one picture of a run's study, by default picture.svg in the run; an --out that ends in .png is a PNG."""
    from .report.finished import read_finished
    from .report.libraries import LibraryMissing

    check_ending("--out", out, ".svg", ".png", ".pdf")
    with Output(as_json) as output:
        finished = read_finished(run, studies.get)
        target = out or run / "picture.svg"
        try:
            finished.presentation.picture(run, target)
        except LibraryMissing as missing:
            raise InputError("RUN", run, str(missing)) from missing
        output.table([{"picture": target}])


def keep(run: RunArgument, out: FolderOption, as_json: JsonOption = False) -> None:
    """Write the tables and pictures that documents keep of a run, small ones, into the folder --out."""
    from .report.finished import read_finished
    from .report.libraries import LibraryMissing
    from .support.files import made_directory

    check_directory_name("--out", out)
    with Output(as_json) as output:
        finished = read_finished(run, studies.get)
        try:
            with made_directory(out):
                written = list(finished.presentation.keep(run, out))
        except LibraryMissing as missing:
            raise InputError("RUN", run, str(missing)) from missing
        output.table([{"kept": path, "bytes": path.stat().st_size} for path in written])
        _say_how_it_stands(output, finished)


def _say_how_it_stands(output: Output, finished: FinishedRun) -> None:
    """What a reader of the kept numbers must know: a part of the study, a run that was not finished, other code."""
    from .report.standing import as_sentence, remarks

    for remark in remarks(finished.manifest, finished.study):
        output.note(f"{finished.path}: {as_sentence(remark)}")
