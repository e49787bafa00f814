"""`python -m bench conform`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from lossscale.support import cli, errors, files
from lossscale.support.output import Output, printed_as_errors

Names = list[str] | None


def conform_command(
    provider: Annotated[
        Names, typer.Option("--provider", metavar="NAME", help="A name of `list`, or module:Class (repeat).")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="NAME",
            help="The reference that it claims to equal: torch-fused, reference-foreach, float64 …",
        ),
    ] = None,
    ulp: Annotated[
        int | None, typer.Option("--ulp", metavar="N", help="Claim this many ulp from float64 per step instead.")
    ] = None,
    optimizer: Annotated[
        Names, typer.Option("--optimizer", metavar="NAME", help="Only this one: adam, SGD (repeat).")
    ] = None,
    dtype: Annotated[Names, typer.Option("--dtype", metavar="fp32|bf16|fp16", help="Only this one (repeat).")] = None,
    mutants: Annotated[bool, typer.Option("--mutants", help="Break our own kernels: does the suite notice?")] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Also write the rows as JUnit XML.")
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", metavar="M", help="Time limit; the rest is counted as not run.")
    ] = 60.0,
    device: cli.DeviceOption = "auto",
    quick: cli.QuickOption = False,
    json: cli.JsonOption = False,
    out: cli.OutOption = None,
) -> int:
    """Compare optimizers bit by bit with a reference, and say the strongest claim that holds.

    Exit code 1 when a claim fails: ours claim their recipes, a class of yours claims to equal the reference, and every
    provider claims it with --against. A step that raises, hangs or replaces parameters always fails.

    Args:
        provider: who is tested; by default ours, torch's, and the packages that are installed.
        against: torch-foreach, torch-for-loop, torch-fused, reference-RECIPE or float64.
        ulp: the claim is a distance from float64 (with --against float64, 1 by default).
        optimizer: by default all that the provider has; needed for module:Class.
        dtype: by default all.
        mutants: run deliberately broken kernels instead of providers.
        junit: an XML file.
        minutes: must be above 0.
        device: where to run.
        quick: fewer layouts and steps; without --provider also only the most useful cases of each, under half a minute
            on two cores.
        json: print one JSON document.
        out: a .json or .html file to write as well.
    """
    chosen = cli.resolve_device(device)
    if not 0 < minutes < math.inf:
        raise errors.InputError("--minutes", minutes, "must be above 0 and finite")
    if ulp is not None:
        errors.check_count("--ulp", ulp, 0)
    files.check_file("--out", out, ".json", ".html")
    files.check_file("--junit", junit, ".xml")
    from ..choices import choose_all
    from .cases import DTYPES

    optimizers, dtypes = _optimizers(optimizer, provider), choose_all("--dtype", dtype, DTYPES)
    if mutants:
        if provider or against or ulp is not None:
            raise errors.InputError(
                "--mutants", "", "mutants are of our own kernels: leave --provider, --against and --ulp out"
            )
        from .mutants.run import run_mutants

        with Output(as_json=json) as output:
            return run_mutants(output, optimizers=optimizers if optimizer else None, quick=quick, out=out, junit=junit)
    entrants = _entrants(provider, against, ulp, chosen)
    from .report import document as report
    from .rows import Row
    from .selection import QUICK_CASES
    from .suite import Selection, deadline_after, failed, run

    with Output(as_json=json) as output:
        rows: list[Row] = []
        progress = report.Progress(output)

        def on_row(row: Row) -> None:
            rows.append(row)
            progress.show(row)

        limit = QUICK_CASES if quick and not provider else None
        selection = Selection(optimizers=optimizers, dtypes=dtypes, quick=quick, limit=limit)
        # What providers print is not the command's answer.
        with printed_as_errors():
            done = run(entrants, selection, device=chosen, deadline=deadline_after(60 * minutes), on_row=on_row)
        if not any(row.outcome.compared or row.outcome.broke for row in rows):
            if done.not_run:
                left = f"the limit left out {done.not_run} comparisons, and none was made; give more"
                raise errors.InputError("--minutes", minutes, left)
            why = next((row.detail for row in rows if row.detail), "no case fits this selection")
            raise errors.InputError("--provider", ", ".join(provider or ["all"]), f"nothing could be compared: {why}")
        broken = failed(rows, entrants)
        document = report.document(rows, broken, chosen, done.not_run, command=cli.command_line())
        if out is not None:
            if out.suffix == ".html":
                from .report.page import conformance_page

                files.write_text(out, conformance_page(rows, document))
            else:
                files.write_json(out, document)
        if junit is not None:
            from .report.junit import junit_xml

            files.write_text(junit, junit_xml(rows, broken), argument="--junit")
        report.show(output, document, rows, broken)
    return int(bool(broken))


def _optimizers(names: Names, providers: Names) -> list[str]:
    from ..optimizers import parse_optimizers

    chosen = parse_optimizers(names)
    for text in providers or ():
        if ":" in text and not names:
            raise errors.InputError("--provider", text, "say which optimizer it is: --optimizer Adam, say")
    return chosen


def _entrants(names: Names, against: str | None, ulp: int | None, device: str) -> list[Any]:
    import torch

    from ..providers import registry
    from .suite import entrant

    on = torch.device(device)
    reference = registry.parse_reference(against) if against is not None else None
    if against is not None and reference is None and ulp is None:
        ulp = 1
    providers = [registry.parse_provider(name) for name in dict.fromkeys(names or registry.default_names(on))]
    for one in providers:
        reason = registry.missing_in_worker(one, on)
        if names and reason:
            raise errors.InputError("--provider", one.name, reason)
    chosen = against is not None or ulp is not None
    return [entrant(one, on, against=reference, allowed=ulp, chosen=chosen) for one in providers]
