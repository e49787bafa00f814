"""What the compiled step kernels contain: `python -m bench static`. No GPU is needed.

Every kernel that the registry can reach is compiled ahead of time and held against the limits: 16-byte accesses in the
main body, no stack, bytes per element at the floor, every floating-point operation rounded to nearest, and exactly the
operations of its recipe.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lossscale.support import cli, errors, files
from lossscale.support.output import Output

from ..choices import choose_all
from ..workers import Batch, Ending, Loss, Pool
from .variants import ARCHITECTURES, QUICK_LIMIT, Variant, covering, variants

COLUMNS = ("algorithm", "recipe", "options", "dtype", "arch", "registers", "accesses", "bytes", "operations", "verdict")
_LIMIT_S, _BATCH = 300.0, 4
Numbered = tuple[int, Variant]
Row = dict[str, Any]


def run(chosen: list[Variant], processes: int, on_row: Callable[[Row], None]) -> list[Row]:
    """The rows of `chosen` in their order; what was compiled before is read here, the rest in worker processes.

    Args:
        chosen: the kernels.
        processes: how many workers; 1 does everything here.
        on_row: hears of each row as it ends.
    """
    from .compile import job_of
    from .reading import kept_reading

    found: dict[int, Row] = {}

    def add(result: tuple[int, Row]) -> None:
        found[result[0]] = result[1]
        on_row(result[1])

    numbered = list(enumerate(chosen))
    new = [item for item in numbered if kept_reading(job_of(item[1])) is None]
    processes = min(processes, len(new) // _BATCH)
    if processes > 1:
        pool: Pool[Numbered, tuple[int, Row]] = Pool(count=processes, limit_s=_LIMIT_S, lost=_lost)
        # Neighbours share their imports and little else: small batches keep all workers busy to the end.
        batches = [Batch(work=_examine, items=tuple(new[k : k + _BATCH])) for k in range(0, len(new), _BATCH)]
        pool.run(batches, on_result=add)
    for item in numbered:
        if item[0] not in found:
            add(_examine(item))
    return [found[number] for number in range(len(chosen))]


def examine(variant: Variant) -> Row:
    """The row of a variant."""
    from .limits import examine as hold

    return hold(variant)


def _examine(item: Numbered) -> tuple[int, Row]:
    number, variant = item
    return number, examine(variant)


def _lost(batch: Batch[Any, Any], item: Numbered, loss: Loss) -> tuple[int, Row]:
    """A compiler that dies or hangs breaks a limit; one that raises shows a bug."""
    del batch
    number, variant = item
    if loss.ending is Ending.RAISED:
        raise RuntimeError(f"{variant}: {loss.text}")
    row = dict.fromkeys(COLUMNS, "")
    known = {name: getattr(variant, name) for name in ("algorithm", "recipe", "arch")}
    return number, {**row, **known, "dtype": str(variant.dtypes), "registers": 0, "bytes": 0.0, "verdict": loss.text}


def static_command(
    arch: Annotated[list[str] | None, typer.Option("--arch", metavar="sm_NN", help="Compile for it (repeat).")] = None,
    optimizer: Annotated[
        list[str] | None, typer.Option("--optimizer", metavar="NAME", help="Only this one: adam, SGD (repeat).")
    ] = None,
    trainer: Annotated[bool, typer.Option("--trainer", help="The trainer's kernels, not the step kernels.")] = False,
    instructions: Annotated[
        bool, typer.Option("--instructions", help="Count machine instructions an element, unscaled kernels only.")
    ] = False,
    quick: cli.QuickOption = False,
    json: cli.JsonOption = False,
    out: cli.OutOption = None,
) -> int:
    """Compile every step kernel ahead of time and hold it against its limits; exit 1 when one is broken.

    Args:
        arch: targets, by default sm_80, sm_90 and sm_100.
        optimizer: algorithms, by default all.
        instructions: by kind, and how many warps fit; no limits are checked.
        trainer: whole training runs: no spills on sm_80 and sm_90; sm_100 is reported. One after the other, five
            minutes for all; what was compiled is kept, so that a run that was stopped goes on.
        quick: a small set in which every algorithm, recipe, dtype and target occurs.
        json: print one JSON document.
        out: also write it there.
    """
    files.check_file("--out", out, ".json")
    architectures = choose_all("--arch", arch, ARCHITECTURES)
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise errors.InputError(
            "TRITON_INTERPRET", os.environ["TRITON_INTERPRET"], "unset it: kernels are compiled here"
        )
    if trainer:
        return _trainer(architectures, json, out)
    from ..optimizers import parse_optimizers, registered

    names = [registered(title).name for title in parse_optimizers(optimizer)]
    chosen = variants(architectures, names)
    chosen = covering(chosen, QUICK_LIMIT) if quick else chosen
    if instructions:
        return _instructions([variant for variant in chosen if not variant.scaled and not variant.rows], json, out)
    with Output(as_json=json) as output:
        import triton

        count = 0

        def on_row(row: Row) -> None:
            nonlocal count
            count += 1
            if row["verdict"] != "holds" or count % 200 == 0:
                where = " ".join(str(row[name]) for name in COLUMNS[:5])
                output.note(f"{count}/{len(chosen)} {where}: {row['verdict']}")

        rows = run(chosen, len(os.sched_getaffinity(0)), on_row)
        broken = [row for row in rows if row["verdict"] != "holds"]
        document = {"triton": triton.__version__, "kernels": len(rows), "broken": len(broken)}
        if out is not None:
            files.write_json(out, {"rows": rows, **document})
        title = f"Triton {triton.__version__}: {len(rows) - len(broken)} of {len(rows)} kernels are within their limits"
        # A person reads what is broken, or one line per recipe; the document has every kernel.
        output.table(
            rows if json else broken or _per_recipe(rows), None if not broken else COLUMNS, title=title, **document
        )
    return int(bool(broken))


def _trainer(architectures: list[str], json: bool, out: Path | None) -> int:
    from .trainer import COLUMNS as columns
    from .trainer import examine as examine_trained
    from .trainer import trained

    with Output(as_json=json) as output:
        import triton

        chosen, rows = list(trained(architectures)), []
        for number, kernel in enumerate(chosen, 1):
            row = examine_trained(kernel)
            rows.append(row)
            if row["compile_s"] is not None or row["verdict"] != "holds":
                where = " ".join(str(row[name]) for name in columns[1:6])
                output.note(f"{number}/{len(chosen)} {where}: {row['spills']} spills, {row['verdict']}")
        broken = [row for row in rows if row["verdict"] != "holds"]
        document = {"triton": triton.__version__, "kernels": len(rows), "broken": len(broken)}
        if out is not None:
            files.write_json(out, {"rows": rows, **document})
        title = f"Triton {triton.__version__}: {len(rows) - len(broken)} of {len(rows)} kernels are within their limits"
        output.table(rows, columns, title=title, **document)
    return int(bool(broken))


def _instructions(chosen: list[Variant], json: bool, out: Path | None) -> int:
    from .sass import instructions

    with Output(as_json=json) as output:
        import triton

        rows = instructions(chosen)
        document = {"triton": triton.__version__, "kernels": len(rows)}
        if out is not None:
            files.write_json(out, {"rows": rows, **document})
        output.table(rows, title=f"Triton {triton.__version__}: machine instructions an element", **document)
    return 0


def _per_recipe(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per (algorithm, recipe, arch)."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["algorithm"], row["recipe"], row["arch"]), []).append(row)
    return [
        {
            "algorithm": algorithm,
            "recipe": recipe,
            "arch": arch,
            "kernels": len(found),
            "registers": f"{min(r['registers'] for r in found)}-{max(r['registers'] for r in found)}",
            "bytes per element": " ".join(f"{b:g}" for b in sorted({r["bytes"] for r in found})),
            "verdict": "holds",
        }
        for (algorithm, recipe, arch), found in sorted(groups.items())
    ]
