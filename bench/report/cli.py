"""`python -m bench report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lossscale.support import cli, errors, files
from lossscale.support.output import Output

DEFAULT = Path("runs/bench.html")


def report_command(
    results: Annotated[
        list[Path] | None, typer.Argument(metavar="[RESULT]...", help="Timing results, by default those that are kept.")
    ] = None,
    check_fresh: Annotated[
        bool,
        typer.Option("--check-fresh", help="Exit 1 if no GPU result matches today's kernels; no page without --out."),
    ] = False,
    json: cli.JsonOption = False,
    out: cli.OutOption = None,
) -> int:
    """One page of timing results: roofline, share of the ceiling, launches, the cost model, history and staleness.

    Args:
        results: what `time step --out` or a campaign wrote.
        check_fresh: fail where every GPU result is stale.
        json: print one JSON document, the results and their staleness.
        out: the page, by default runs/bench.html.
    """
    from ..store.kept import RESULTS, kept_timings
    from ..store.load import read_result
    from .page import freshness_rows, report_page
    from .source import Source

    errors.check_ending("--out", out, ".html")
    paths = list(dict.fromkeys(results or kept_timings()))
    if not paths and not check_fresh:
        raise errors.InputError("RESULT", "", "no result is kept in this repository; name one")
    sources = [
        Source(
            path=path,
            label=str(path.relative_to(RESULTS)) if path.is_relative_to(RESULTS) else str(path),
            result=read_result(path, "RESULT"),
        )
        for path in paths
    ]
    # A GPU's first: it is what the page is for.
    sources.sort(key=lambda source: source.result.document.get("provenance", {}).get("device") != "cuda")
    with Output(as_json=json) as output:
        rows: list[dict[str, Any]] = freshness_rows(sources)
        fresh = [row for row in rows if row["fresh"] and row["device"] == "cuda"]
        target = None if check_fresh and out is None else out or DEFAULT
        if target is not None:
            _require_jinja()
            files.write_text(target, report_page(sources))
        shown = [{**row, "stale": ", ".join(row["stale"])} for row in rows] if not json else rows
        output.table(shown, page=target, fresh_gpu_results=len(fresh))
        if target is not None:
            output.note(f"page: {target}")
        if check_fresh:
            output.note(
                f"{len(fresh)} of {len(rows)} results are a GPU's and match today's kernels"
                + ("" if fresh else ": run `python -m bench campaign` on a GPU")
            )
    return int(check_fresh and not fresh)


def _require_jinja() -> None:
    from importlib.util import find_spec

    if find_spec("jinja2") is None:
        raise errors.InputError("--out", "", "the page needs Jinja2: pip install Jinja2, then make it again")
