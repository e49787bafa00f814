"""The parts of the GPU campaign: each writes its results whole, again and again, until its deadline."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lossscale.support import files, provenance

from . import golden, recording
from . import unconfirmed as open_questions
from .conformance import pool, table
from .conformance.cases import cpu_cases, cuda_cases
from .providers import Ours, reference_for
from .results import read_json

_WRITE_EVERY_S = 10.0
_CASE_LIMIT_S = 60.0
_WORST_CASES = 2_000


def _device(dry_run: bool) -> torch.device:
    return torch.device("cpu" if dry_run else "cuda")


def _update(path: Path, **sections: Any) -> None:
    """Rewrite a JSON document with some of its sections replaced."""
    files.write_json(path, {**read_json(path), **sections})


def conform(out: Path, deadline: float, dry_run: bool) -> None:
    """Ours against torch.optim: every recipe, option and dtype; sections `conformance` and `tally` of conform.json."""
    # Workers own the device: this process must not hold a context beside theirs.
    device = "cpu" if dry_run else "cuda"
    cases = cpu_cases(toy=True) if dry_run else cuda_cases()
    backend = "auto" if dry_run else "triton"
    pairs = [(Ours(recipe=case.recipe, backend=backend), reference_for(case.recipe), case) for case in cases]
    tasks, written = pool.group(pairs), [time.monotonic()]
    rows: list[Any] = []

    def write(**extra: Any) -> None:
        kept = [row for row in rows if row.outcome in table.FAILURES][:_WORST_CASES]
        passed = [_short(row) for row in rows if row.outcome not in table.FAILURES]
        document = {"failures": kept, "passed": passed, "markdown": table.markdown(rows, limit=14), **extra}
        _update(out / "conform.json", conformance=document, tally=table.tally(rows))

    def on_row(row: Any) -> None:
        rows.append(row)
        if time.monotonic() - written[0] > _WRITE_EVERY_S:
            write(cases=len(pairs), finished=False)
            written[0] = time.monotonic()

    workers = 0 if dry_run else max(1, min(14, len(os.sched_getaffinity(0)) - 1))
    if workers:
        report = pool.Pool(workers=workers, device=device, case_limit_s=_CASE_LIMIT_S).run(tasks, deadline, on_row)
    else:
        report = pool.run_here(tasks, device, deadline, on_row)
    write(
        cases=len(pairs),
        not_run=report.not_run,
        replaced_workers=report.replaced_workers,
        finished=True,
        machine=_machine(dry_run),
    )


def _machine(dry_run: bool) -> dict[str, Any]:
    try:
        return provenance.collect(_device(dry_run).type).as_dict()
    except Exception:
        return {"error": traceback.format_exc()[-800:]}


def _short(row: Any) -> list[Any]:
    """A passed case in one line: what it was, without the empty fields of a failure."""
    return [
        row.optimizer,
        row.recipe,
        row.dtype,
        row.options,
        row.shape,
        row.values,
        row.steps,
        row.outcome,
        row.detail,
    ]


def replay_golden(out: Path, deadline: float, dry_run: bool) -> None:
    """Recorded bits re-run on this device, powf tables compared, new bits recorded into golden.npz."""
    device, sections = _device(dry_run), {}
    arrays: dict[str, Any] = {}

    def section(name: str, work: Callable[[], Any]) -> Any:
        try:
            sections[name] = work()
        except Exception:
            sections[name] = {"error": traceback.format_exc()[-1500:]}
        _update(out / "conform.json", golden=sections)
        return sections[name]

    def replay() -> dict[str, Any]:
        if not golden.RECORDED.exists():
            return {"missing": str(golden.RECORDED.name)}
        recorded = golden.load()
        rows = list(golden.replay(recorded, device, range(0, len(recorded.cases), 48 if dry_run else 1)))
        wrong = [row for row in rows if row["outcome"] != "identical"]
        return {"cases": len(rows), "identical": len(rows) - len(wrong), "different": wrong}

    section("replay", replay)

    def tables() -> list[dict[str, Any]]:
        made = recording.bias_corrections(device, 200 if dry_run else recording.TABLE_STEPS)
        arrays.update({f"bias_correction/{beta}": values for beta, values in made.items()})
        rows = recording.compare_tables(made, golden.BIAS_CORRECTIONS)
        recorded = recording.recorded_tables(golden.BIAS_CORRECTIONS, len(made["0.9"]))
        return [*rows, *recording.fused_powf(device, recorded), *recording.foreach_powf(device, recorded)]

    section("powf", tables)

    def record() -> dict[str, Any]:
        cases, found, refused = recording.record(device, deadline - 5, toy=dry_run)
        golden.write(out / "golden.npz", cases, {**found, **arrays}, recording.meta(device))
        return {"recorded": len(cases), "refused": refused[:40], "refused_in_all": len(refused)}

    section("recording", record)


def unconfirmed(out: Path, deadline: float, dry_run: bool) -> None:
    """Questions about torch's arithmetic that only a GPU settles; section `unconfirmed` of conform.json."""
    rows: list[dict[str, Any]] = []
    for row in open_questions.run(_device(dry_run)):
        rows.append(row)
        if time.monotonic() > deadline:
            rows.append({"check": "the rest", "outcome": "not run: time was up"})
            break
    _update(out / "conform.json", unconfirmed=rows)


def timing(out: Path, deadline: float, dry_run: bool) -> None:
    """Step timings into timing.json, rewritten after every workload."""
    from . import step_times

    step_times.run(out / "timing.json", deadline, dry_run=dry_run)
