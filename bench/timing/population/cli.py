"""`python -m bench time population`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lossscale.support import cli, errors, files
from lossscale.support.output import Output

COLUMNS = ("provider", "engine", "device", "models", "steps", "us_per_model_step", "first_s", "final_loss")


def time_population_command(
    device: cli.DeviceOption = "auto",
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="Time limit of everything.")] = 4.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Small sizes: does every stage work?")] = False,
    record: Annotated[bool, typer.Option("--record", help="Write the CPU's hashes that others are held to.")] = False,
    json: cli.JsonOption = False,
    out: cli.OutOption = None,
) -> int:
    """Whole training runs of many small models: their bits here, torch.optim's on their gradients, and the peers' time.

    Args:
        device: where.
        minutes: what has not begun by then is listed as not run.
        dry_run: small sizes.
        record: run every case on this CPU and keep the hashes; nothing else.
        json: print one JSON document.
        out: a folder for population.json, or the file; written as the run goes on.
    """
    chosen = cli.resolve_device(device)
    if record:
        from .bits import record_expected

        record_expected()
        return 0
    path = out / "population.json" if out is not None and out.is_dir() else out
    errors.check_ending("--out", path, ".json")
    with Output(as_json=json) as output:
        document = _run(chosen, path, minutes, dry_run)
        rows: list[dict[str, Any]] = document.pop("rows", [])
        output.table(rows, COLUMNS, **document)
        for name in ("bits", "chain"):
            unequal = [row for row in document.get(name, []) if row["outcome"] != "equal"]
            output.note(f"{name}: {len(document.get(name, []))} compared, {len(unequal)} differ")
        for line in document["not_offered"]:
            output.note(f"not offered: {line}")
        for error in document["errors"]:
            output.note(f"failed: {error['stage']}: {error['item']}: {error['error'].strip().splitlines()[-1]}")
        wrong = [row for name in ("bits", "chain") for row in document.get(name, []) if row["outcome"] != "equal"]
    return 1 if wrong or document["errors"] else 0


def _run(device: str, path: Path | None, minutes: float, dry: bool) -> dict[str, Any]:
    from .run import run_all

    if path is not None and not path.parent.is_dir():
        raise errors.InputError("--out", str(path), "its folder does not exist; make it")

    def write(document: dict[str, Any]) -> None:
        if path is not None:
            files.write_json(path, document)

    return run_all(device, write, minutes=minutes, dry=dry)
