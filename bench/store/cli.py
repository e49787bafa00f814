"""`python -m bench compare`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from lossscale.support import cli, errors, files
from lossscale.support.output import Output

_COLUMNS = ("provider", "optimizer", "dtype", "workload", "measure", "a_us", "b_us", "ratio", "lo", "hi", "verdict")


def compare_command(
    a: Annotated[Path, typer.Argument(help="A timing result.")],
    b: Annotated[Path, typer.Argument(help="Another.")],
    fail_above: Annotated[
        float | None, typer.Option("--fail-above", metavar="R", help="Exit 1 if B is shown to be R times as slow.")
    ] = None,
    unlike: Annotated[bool, typer.Option("--unlike", help="Compare other machines or versions too.")] = False,
    json: cli.JsonOption = False,
    out: cli.OutOption = None,
) -> int:
    """Compare two results of `time step`: B's median over A's, with an interval that holds at least 95 % of the time.

    The interval speaks of the two runs as they were: what changes from one run to the next, clocks or neighbours say,
    is not in it. Where it holds 1, no difference is shown.

    Args:
        a: what `time step --out` or a campaign wrote.
        b: the same, later or otherwise.
        fail_above: exit 1 if the whole interval of a ratio is above it.
        unlike: results of unlike machines or versions are refused otherwise.
        json: print one JSON document.
        out: also write it there.
    """
    if fail_above is not None and not 0 < fail_above < math.inf:
        raise errors.InputError("--fail-above", fail_above, "must be above 0 and finite; 1.05 allows five per cent")
    errors.check_ending("--out", out, ".json")
    from .compare import HELD_BACK, ratios, unlike_work
    from .freshness import unlike as apart
    from .load import KEY, read_result

    first, second = read_result(a, "A"), read_result(b, "B")
    # Not read again: a pipe has nothing more to say.
    if a.samefile(b) or first.document == second.document:
        raise errors.InputError("B", b, "is A again; give two results")
    differences = apart(first.document, second.document)
    if differences and not unlike:
        raise errors.InputError("B", b, f"not like A ({'; '.join(differences)}); --unlike compares them all the same")
    found = list(ratios(first, second))
    other_work = [
        {**dict(zip(KEY, key, strict=True)), "differs": apart_by}
        for key, row in first.rows.items()
        if key in second.rows and (apart_by := unlike_work(row, second.rows[key]))
    ]
    if not found:
        reason = f" ({other_work[0]['differs']})" if other_work else ""
        raise errors.InputError("B", b, f"has no time in common with A{reason}; give results of the same workloads")
    broken = [one for one in found if fail_above is not None and one.is_above(fail_above)]
    undecided = [one for one in found if one.lo is None]
    held_back = [one for one in found if one.verdict == HELD_BACK]
    rows = [one.as_dict() for one in found]
    document: dict[str, Any] = {
        "only_in_a": [dict(zip(KEY, key, strict=True)) for key in first.rows if key not in second.rows],
        "only_in_b": [dict(zip(KEY, key, strict=True)) for key in second.rows if key not in first.rows],
        "other_work": other_work,
        "unlike": differences,
        "above": len(broken),
        "too_few_samples": len(undecided),
        "held_back": len(held_back),
    }
    with Output(as_json=json) as output:
        if out is not None:
            files.write_json(out, {"rows": rows, **document})
        shown = ("table", *_COLUMNS) if any(row["table"] for row in rows) else _COLUMNS
        output.table(rows, shown, title=f"{len(rows)} ratios, B over A", **document)
        for line in differences:
            output.note(f"unlike: {line}")
        for name, label in (("only_in_a", "A"), ("only_in_b", "B")):
            if document[name]:
                output.note(f"{len(document[name])} rows are in {label} alone")
        for row in other_work:
            name = " ".join(filter(None, (row[part] for part in KEY)))
            output.note(f"no ratio, the work is not the same: {name}: {row['differs']}")
        if undecided and fail_above is not None:
            output.note(f"{len(undecided)} ratios of too few samples cannot fail: time both results again, for longer")
        if held_back:
            failing = " and cannot fail: time it again" if fail_above is not None else ""
            output.note(f"{len(held_back)} ratios are of times that a device took while it was held back{failing}")
        for one in broken:
            output.note(f"above {fail_above:g}: {' '.join(filter(None, one.key))} {one.measure}: {one.ratio:.3f}")
    return int(bool(broken))
