"""The parts of the GPU campaign: each writes its results whole, again and again, until its deadline."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lossscale.support import files, provenance

from ..conformance.cases import cpu_cases, cuda_cases
from ..conformance.execution import by_variant, case_pool
from ..conformance.report import counts
from ..conformance.rows import Outcome, Row
from ..golden import format, hypotheses, powf, recording
from ..golden import replay as replaying
from ..providers import Ours, reference_for
from ..store.kept import kept_timings, read_json
from ..timing.clock import Clock, make_clock
from ..timing.run import time_all
from ..tracebacks import kept_traceback
from ..workers import run_here

_WRITE_EVERY_S = 10.0
_CASE_LIMIT_S = 60.0
_WORST_CASES = 2_000
_STEPS_LIMIT_S = 150.0


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
    batches, written = by_variant(pairs, device), [time.monotonic()]
    rows: list[Row] = []

    def write(**extra: Any) -> None:
        kept = [row.in_full() for row in rows if row.outcome.failed][:_WORST_CASES]
        passed = [_short(row) for row in rows if not row.outcome.failed]
        document = {"failures": kept, "passed": passed, "markdown": counts.markdown(rows, limit=14), **extra}
        _update(out / "conform.json", conformance=document, tally=counts.tally(rows))

    def on_row(row: Row) -> None:
        rows.append(row)
        if time.monotonic() - written[0] > _WRITE_EVERY_S:
            write(cases=len(pairs), finished=False)
            written[0] = time.monotonic()

    workers = 0 if dry_run else max(1, min(14, len(os.sched_getaffinity(0)) - 1))
    if workers:
        done = case_pool(workers=workers, limit_s=_CASE_LIMIT_S).run(batches, deadline=deadline, on_result=on_row)
    else:
        done = run_here(batches, deadline, on_row)
    write(
        cases=len(pairs),
        not_run=done.not_run,
        replaced_workers=done.replaced_workers,
        finished=True,
        machine=_machine(dry_run),
    )


def _machine(dry_run: bool) -> dict[str, Any]:
    try:
        return provenance.collect(_device(dry_run).type).as_dict()
    except Exception:
        return {"error": kept_traceback(most=800)}


def _short(row: Row) -> list[Any]:
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
            sections[name] = {"error": kept_traceback(most=1500)}
        _update(out / "conform.json", golden=sections)
        return sections[name]

    def replay() -> dict[str, Any]:
        if not format.RECORDED.exists():
            return {"missing": str(format.RECORDED.name)}
        recorded = format.load()
        rows = list(replaying.replay(recorded, device, range(0, len(recorded.cases), 48 if dry_run else 1)))
        wrong = [row for row in rows if row["outcome"] is not Outcome.IDENTICAL]
        return {"cases": len(rows), "identical": len(rows) - len(wrong), "different": wrong}

    section("replay", replay)

    def tables() -> list[dict[str, Any]]:
        made = powf.bias_corrections(device, 200 if dry_run else powf.TABLE_STEPS)
        arrays.update({f"bias_correction/{beta}": values for beta, values in made.items()})
        rows = powf.compare_tables(made, format.BIAS_CORRECTIONS)
        recorded = powf.recorded_tables(format.BIAS_CORRECTIONS, len(made["0.9"]))
        return [*rows, *powf.fused_powf(device, recorded), *powf.foreach_powf(device, recorded)]

    section("powf", tables)

    def record() -> dict[str, Any]:
        cases, found, refused = recording.record(device, deadline - 5, toy=dry_run)
        format.write(out / "golden.npz", cases, {**found, **arrays}, recording.meta(device))
        return {"recorded": len(cases), "refused": refused[:40], "refused_in_all": len(refused)}

    section("recording", record)


def unconfirmed(out: Path, deadline: float, dry_run: bool) -> None:
    """Questions about torch's arithmetic that only a GPU settles; section `unconfirmed` of conform.json."""
    rows: list[dict[str, Any]] = []
    for row in hypotheses.run(_device(dry_run)):
        rows.append(row)
        if time.monotonic() > deadline:
            rows.append({"check": "the rest", "outcome": "not run: time was up"})
            break
    _update(out / "conform.json", unconfirmed=rows)


def steps(out: Path, deadline: float, dry_run: bool) -> None:
    """Whole steps over one tensor of every size and models, ours beside torch's; section `steps` of timing.json."""
    from ..timing.run import whole_step_providers
    from ..timing.workloads import whole_steps

    clock = _clock(dry_run)
    time_all(
        whole_steps(toy=dry_run),
        lambda workload: whole_step_providers(workload, clock.device),
        clock,
        deadline=min(deadline, time.monotonic() + _STEPS_LIMIT_S),
        longest_s=_longest_s(dry_run),
        write=lambda document: _update(out / "timing.json", steps=document),
    )


def population(out: Path, deadline: float, dry_run: bool) -> None:
    """Whole training runs: their bits, the chain from torch.optim, peers beside them; into population.json."""
    from ..timing.population import run

    minutes = max(0.1, (deadline - time.monotonic()) / 60)
    write = partial(files.write_json, out / "population.json")
    run.run_all("cpu" if dry_run else "cuda", write, minutes=minutes, dry=dry_run)


def study(out: Path, deadline: float, dry_run: bool) -> None:
    """A quick study's pairs into studies.parquet, and held against the CPU's; section `study` of conform.json."""
    from . import study as quick

    _update(out / "conform.json", study=quick.study(out, deadline, dry_run))


def tune(out: Path, deadline: float, dry_run: bool) -> None:
    """Launch shapes of the step kernels; section `tune` of timing.json. On a CPU a stand-in takes the launches."""
    from ..timing import host_cost
    from ..timing import tune as tuning
    from ..timing.compilers import Compilers

    sizes: dict[str, Any] = {"elements": 1 << 26}
    if dry_run:
        sizes = {"elements": 1 << 10, "shapes": tuning.SHAPES[:2], "rounds": 1}
    # What an earlier campaign has of today's kernels on such a machine, here or among the kept results.
    earlier = [read_json(path).get("tune") for path in (out / "timing.json", *kept_timings())]
    with host_cost.without_launches() if dry_run else nullcontext(), Compilers(_device(dry_run).type) as compilers:
        tuning.tune(
            _clock(dry_run),
            deadline=deadline,
            earlier=[found for found in earlier if isinstance(found, dict)],
            compiled=tuning.not_ahead if dry_run else compilers.compile,
            write=lambda document: _update(out / "timing.json", tune=document),
            said=print,
            **sizes,
        )


def timing(out: Path, deadline: float, dry_run: bool) -> None:
    """Kernel timings of every optimizer into timing.json, rewritten after every workload."""
    from ..timing.run import usual_providers
    from ..timing.workloads import cuda_steps

    clock = _clock(dry_run)
    time_all(
        cuda_steps(toy=dry_run),
        lambda workload: usual_providers(workload, clock.device),
        clock,
        deadline=deadline,
        longest_s=_longest_s(dry_run),
        write=lambda document: _update(out / "timing.json", **document),
    )


def _longest_s(dry_run: bool) -> float:
    """Of the rounds of one workload."""
    return 0.1 if dry_run else 2.5


def _clock(dry_run: bool) -> Clock:
    return make_clock("cpu" if dry_run else "cuda")
