"""`python -m bench conform` and `python -m bench list`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lossscale.support import cli, errors, files
from lossscale.support.output import Output

Names = list[str] | None


def conform_command(
    provider: Annotated[Names, typer.Option("--provider", help="A name of `list`, or module:Class (repeat).")] = None,
    against: Annotated[str | None, typer.Option("--against", help="The reference that it claims to equal.")] = None,
    ulp: Annotated[int | None, typer.Option("--ulp", help="Claim this many ulp from float64 per step instead.")] = None,
    optimizer: Annotated[Names, typer.Option("--optimizer", help="torch's class name (repeat).")] = None,
    dtype: Annotated[Names, typer.Option("--dtype", metavar="fp32|bf16|fp16", help="(repeat)")] = None,
    mutants: Annotated[bool, typer.Option("--mutants", help="Break our own kernels: does the suite notice?")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Also write the rows as JUnit XML.")] = None,
    minutes: Annotated[float, typer.Option("--minutes", help="Time limit; the rest is counted as not run.")] = 60.0,
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
        quick: a selection that takes under half a minute on two cores.
        json: print one JSON document.
        out: a .json or .html file to write as well.
    """
    chosen = cli.resolve_device(device)
    if minutes <= 0:
        raise errors.InputError("--minutes", minutes, "must be above 0")
    if ulp is not None:
        errors.check_count("--ulp", ulp, 0)
    for path, suffixes in ((out, (".json", ".html")), (junit, (".xml",))):
        if path is not None and path.suffix not in suffixes:
            option = "--out" if path is out else "--junit"
            raise errors.InputError(option, path, f"the file's name must end in {' or '.join(suffixes)}")
    from . import report

    optimizers, dtypes = _optimizers(optimizer, provider), _dtypes(dtype)
    if mutants:
        if provider or against or ulp is not None:
            raise errors.InputError(
                "--mutants", "", "mutants are of our own kernels: leave --provider, --against and --ulp out"
            )
        from .mutants.run import run_mutants

        with Output(as_json=json) as output:
            return run_mutants(output, optimizers=optimizer, quick=quick, out=out, junit=junit)
    plans = _plans(provider, against, ulp, chosen)
    from .suite import Selection, deadline_after, failed, run

    with Output(as_json=json) as output:
        rows: list[Any] = []
        progress = report.Progress(output)

        def on_row(row: Any) -> None:
            rows.append(row)
            progress.show(row)

        selection = Selection(optimizers=optimizers, dtypes=dtypes, quick=quick)
        done = run(plans, selection, device=chosen, deadline=deadline_after(60 * minutes), on_row=on_row)
        if not any(row.outcome in ("identical", "close", "mismatch", "error", "timeout") for row in rows):
            why = next((row.detail for row in rows if row.detail), "no case fits this selection")
            raise errors.InputError("--provider", ", ".join(provider or ["all"]), f"nothing could be compared: {why}")
        broken = failed(rows, plans)
        document = report.document(rows, broken, chosen, done.not_run)
        if out is not None:
            if out.suffix == ".html":
                from .page import conformance_page

                files.write_text(out, conformance_page(rows, document))
            else:
                files.write_json(out, document)
        if junit is not None:
            files.write_text(junit, report.junit_xml(rows, broken), argument="--junit")
        report.show(output, document, rows, broken)
    return int(bool(broken))


def _optimizers(names: Names, providers: Names) -> list[str]:
    from kernels import ALGORITHMS

    titles = [algorithm.title for algorithm in ALGORITHMS.values()]
    for name in names or ():
        errors.check_choice("--optimizer", name, titles)
    for text in providers or ():
        if ":" in text and not names:
            raise errors.InputError("--provider", text, "say which optimizer it is: --optimizer Adam, say")
    return list(names or titles)


def _dtypes(names: Names) -> list[str]:
    from .cases import DTYPES

    for name in names or ():
        errors.check_choice("--dtype", name, DTYPES)
    return list(names or DTYPES)


def _plans(names: Names, against: str | None, ulp: int | None, device: str) -> list[Any]:
    import torch

    from ..providers import registry
    from .suite import claims_of

    on = torch.device(device)
    if against == "float64" and ulp is None:
        ulp = 1
    reference = registry.parse_reference(against) if against is not None else None
    providers = [registry.parse_provider(name) for name in dict.fromkeys(names or registry.default_names(on))]
    for one in providers:
        # Whether the interpreter runs is decided in the worker's environment, not in this process.
        reason = "" if getattr(one, "backend", "") == "interpreter" and device == "cpu" else one.missing(on)
        if names and reason:
            raise errors.InputError("--provider", one.name, reason)
    chosen = against is not None or ulp is not None
    return [claims_of(one, on, against=reference, allowed=ulp, chosen=chosen) for one in providers]


def list_command(device: cli.DeviceOption = "auto", json: cli.JsonOption = False) -> None:
    """Providers (and why one is missing), workloads, and the results that are kept.

    Args:
        device: where they would run.
        json: print one JSON document.
    """
    chosen = cli.resolve_device(device)
    import torch

    from ..providers import registry
    from ..workloads import cpu_steps, cuda_steps
    from .report import kept_results

    with Output(as_json=json) as output:
        found = registry.reasons(torch.device(chosen))
        rows = [{"provider": name, "here": reason or "yes"} for name, reason in found.items()]
        workloads = [
            f"{w.optimizer} {w.dtype} {w.tensors} x {w.elements // w.tensors}"
            for w in (cuda_steps() if chosen == "cuda" else cpu_steps())
        ]
        results = kept_results()
        output.table(rows, title=f"Providers on {chosen}", workloads=workloads, results=results)
        output.note()
        output.note(f"{len(workloads)} timing workloads, such as {workloads[0]}")
        output.note("Kept results: " + (", ".join(results) or "none"))
