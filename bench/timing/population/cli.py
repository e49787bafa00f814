"""`python -m bench time population`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from lossscale.support import cli, errors, files, memory
from lossscale.support.output import Output

COLUMNS: Final = (
    *("provider", "engine", "device", "network", "per_model", "models", "steps"),
    *("us_per_model_step", "cpu_us_per_model_step", "first_s", "final_loss", "outcome"),
)
ARMS: Final = 8
"""Models of a family, which share their data."""
MOST_HIDDEN: Final = 64
"""The trainer's code has a line per weight."""


def time_population_command(
    device: cli.DeviceOption = "auto",
    models: Annotated[
        list[int] | None, typer.Option("--models", metavar="N", help="Time so many models alone; repeat for several.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="T", help="Time so many steps alone.")] = None,
    network: Annotated[
        str | None, typer.Option("--network", metavar="NAME", help="mlp-6-H-1, H hidden units; timed alone.")
    ] = None,
    growth: Annotated[
        bool, typer.Option("--growth", help="Growth with models, steps and width: a table, and a picture in --out.")
    ] = False,
    minutes: Annotated[float, typer.Option("--minutes", metavar="M", min=0.1, help="Time limit of everything.")] = 4.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Small sizes: does every stage work?")] = False,
    record: Annotated[bool, typer.Option("--record", help="Write the CPU's hashes that others are held to.")] = False,
    json: cli.JsonOption = False,
    out: cli.OutOption = None,
) -> int:
    """Whole training runs of many small models: their bits here, torch.optim's on their gradients, and the peers' time.

    With --models, --steps or --network the peers' time alone. Whoever's losses are not ours after 20 steps is refused.

    Args:
        device: where.
        models: how many, a multiple of 8; by default 8,192 and 65,536.
        steps: of every model; by default 200.
        network: of every model; by default mlp-6-6-1.
        growth: time a row of models, of steps and of widths.
        minutes: what has not begun by then is listed as not run.
        dry_run: small sizes.
        record: run every case on this CPU and keep the hashes; nothing else.
        json: print one JSON document.
        out: a folder for population.json, or the file; written as the run goes on. With growth a folder for
            population-growth.csv and population-growth.png.
    """
    chosen = cli.resolve_device(device)
    timed = {"--models": models, "--steps": steps, "--network": network}
    given = [name for name, value in timed.items() if value not in (None, [])]
    others = {"--growth": growth, "--dry-run": dry_run, "--record": record}
    modes = [name for name, value in others.items() if value]
    for name in modes:
        other = next((x for x in (*given, *modes) if x != name), None)
        if other is not None:
            raise errors.InputError(name, f"with {other}", "has sizes of its own; leave out one of the two")
    if record:
        from .bits import record_expected

        record_expected()
        return 0
    if growth:
        return _growth(chosen, out, minutes, json)
    run = _whole(chosen, minutes, dry_run)
    if given:
        run = _sized(chosen, models or [8192, 65536], 200 if steps is None else steps, network or "mlp-6-6-1", minutes)
    path = out / "population.json" if out is not None and out.is_dir() else out
    files.check_file("--out", path, ".json")
    if path is not None and not path.parent.is_dir():
        raise errors.InputError("--out", str(path), "its folder does not exist; make it")

    def write(document: dict[str, Any]) -> None:
        if path is not None:
            files.write_json(path, document)

    with Output(as_json=json) as output:
        document = run(write)
        rows: list[dict[str, Any]] = document.pop("rows", [])
        output.table(rows, COLUMNS, **document)
        return _told(document, output)


_Run = Callable[[Callable[[dict[str, Any]], None]], dict[str, Any]]


def _whole(device: str, minutes: float, dry: bool) -> _Run:
    def run(write: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        from .run import run_all

        return run_all(device, write, minutes=minutes, dry=dry)

    return run


def _sized(device: str, models: Sequence[int], steps: int, name: str, minutes: float) -> _Run:
    """A run of these sizes alone, checked before anything begins.

    Raises:
        InputError: for sizes that cannot be had.
    """
    hidden = hidden_of(name)
    errors.check_count("--steps", steps)
    for count in models:
        check_models(count, steps, hidden, device)

    def run(write: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        from .problem import of_width
        from .run import run_sizes

        sizes = [(count, steps) for count in dict.fromkeys(models)]
        return run_sizes(device, write, sizes, network=of_width(hidden), minutes=minutes)

    return run


def hidden_of(name: str) -> int:
    """Hidden units of a network by its name.

    Raises:
        InputError: for a name that says none, or more than the trainer's kernel is made for.
    """
    found = re.fullmatch(r"mlp-6-([1-9][0-9]*)-1", name)
    if found is None or int(found[1]) > MOST_HIDDEN:
        raise errors.InputError("--network", name, f"give mlp-6-H-1 with H from 1 to {MOST_HIDDEN}, such as mlp-6-6-1")
    return int(found[1])


def check_models(models: int, steps: int, hidden: int, device: str) -> None:
    """Refuse a number of models that makes no whole families, or does not fit into memory.

    Raises:
        InputError: with what fits.
    """
    if models < ARMS or models % ARMS:
        remedy = f"must be a multiple of {ARMS}, the models of a family, which share their data"
        raise errors.InputError("--models", models, remedy)
    # Parameters, gradients and moments of the peer that keeps most (stacked, with temporaries), and the samples.
    numbers = 8 * hidden + 1
    each = 4 * (12 * numbers + 2 * 7 * steps // ARMS)
    free = memory.free_bytes(device)
    if models * each > free:
        fits = free // each // ARMS * ARMS
        remedy = f"take about {models * each / 1e9:.1f} GB, of {free / 1e9:.1f} that are free; give at most {fits:,}"
        raise errors.InputError(
            "--models", models, remedy if fits else f"{remedy.partition(';')[0]}; give fewer --steps"
        )


def _told(document: dict[str, Any], output: Output) -> int:
    """Notes under the table, and the exit code."""
    for name in ("bits", "chain"):
        if name in document:
            unequal = [row for row in document[name] if row["outcome"] != "equal"]
            output.note(f"{name}: {len(document[name])} compared, {len(unequal)} differ")
    for row in document.get("agreement", []):
        if row["outcome"] == "refused":
            apart = row["relative_difference"]
            output.note(
                f"refused: {row['provider']}, {row['engine']}: its losses after {row['steps']} steps are not ours "
                f"(mean {row['final_loss']:.6g} against {row['reference_loss']:.6g}, {apart:.1e} apart)"
            )
    for line in document["not_offered"]:
        output.note(f"not offered: {line}")
    for line in document["not_run"]:
        output.note(f"not run for lack of time (--minutes): {line}")
    for error in document["errors"]:
        output.note(f"failed: {error['stage']}: {error['item']}: {error['error'].strip().splitlines()[-1]}")
    wrong = [row for name in ("bits", "chain") for row in document.get(name, []) if row["outcome"] != "equal"]
    return 1 if wrong or document["errors"] else 0


def _growth(device: str, out: Path | None, minutes: float, json: bool) -> int:
    """Growth as a table; with ``out`` also as the two files."""
    if out is not None and not out.is_dir():
        raise errors.InputError("--out", str(out), "give a folder that exists, for a table and a picture")
    from . import growth as stage

    with Output(as_json=json) as output:
        document = stage.measure(device, minutes=minutes)
        rows: list[dict[str, Any]] = document.pop("rows", [])
        if out is not None:
            files.write_text(out / stage.TABLE, stage.csv_text(rows, document))
            stage.draw(rows, out / stage.PICTURE, document)
        output.table(rows, stage.COLUMNS, **document)
        return _told(document, output)
