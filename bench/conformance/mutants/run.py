"""`bench conform --mutants`: every mutant in a killable worker, and the table of who noticed."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

from lossscale.support import errors, files
from lossscale.support.output import Output

from .catalog import MUTANTS, UNKILLABLE
from .mutant import Mutant
from .tolerance import STYLES
from .trial import Trial, run_trial

# A mutant may hang or take its process along.
_LIMIT_S = 120.0


def run_mutants(
    output: Output,
    *,
    optimizers: Sequence[str] | None,
    quick: bool,
    out: Path | None,
    junit: Path | None,
) -> int:
    """Run the mutants and show the table.

    Args:
        output: of the command.
        optimizers: only mutants of these, by class name.
        quick: stop at the first case that shows a fault, and leave the tolerance styles out.
        out: a .json or .html file to write as well.
        junit: an .xml file to write as well.

    Returns:
        1 if a mutant survived, else 0.
    """
    chosen = [mutant for mutant in MUTANTS if optimizers is None or mutant.optimizer in optimizers]
    if not chosen:
        raise errors.InputError("--optimizer", ", ".join(optimizers or ()), "there is no mutant of it")
    trials = list(run_all(chosen, thorough=not quick, on_trial=lambda trial: output.note(_line(trial))))
    survivors = [trial for trial in trials if not trial.killed_by]
    through = {style: sum(style in trial.let_through for trial in trials) for style in STYLES}
    rows = [vars_of(trial) for trial in trials]
    document: dict[str, Any] = {
        "mutants": len(trials),
        "killed": len(trials) - len(survivors),
        "let_through": {} if quick else through,
        "unkillable": dict(UNKILLABLE),
    }
    if out is not None:
        if out.suffix == ".html":
            from .page import mutants_page

            files.write_text(out, mutants_page(trials, document))
        else:
            files.write_json(out, {"rows": rows, **document})
    if junit is not None:
        from .page import mutants_junit

        files.write_text(junit, mutants_junit(trials), argument="--junit")
    shown = [
        {"mutant": t.name, "where": t.place, "killing": f"{t.killing}/{t.cases}", "first": t.killed_by} for t in trials
    ]
    if output.as_json:
        output.table(rows, **document)
    else:
        output.table(shown, title=f"{len(trials)} mutants, {len(trials) - len(survivors)} killed")
        output.note()
        for trial in survivors:
            output.note(f"survived: {trial.name} ({trial.fault}) {trial.place}")
        if not quick:
            output.note("Let through on the same cases by the tolerances of other suites:")
            for style, count in through.items():
                output.note(f"  {style}: {count} of {len(trials)}")
        output.note("Not counted, because they cannot show:")
        for name, reason in UNKILLABLE.items():
            output.note(f"  {name}: {reason}")
    return int(bool(survivors))


def vars_of(trial: Trial) -> dict[str, Any]:
    """A trial as a row."""
    return {
        "mutant": trial.name,
        "fault": trial.fault,
        "kind": trial.kind,
        "where": trial.place,
        "outcome": "killed" if trial.killed_by else "survived",
        "cases": trial.cases,
        "killing": trial.killing,
        "killed_by": trial.killed_by,
        "evidence": trial.evidence,
        "let_through": list(trial.let_through),
    }


def _line(trial: Trial) -> str:
    return f"{'killed  ' if trial.killed_by else 'SURVIVED'} {trial.name}: {trial.fault}"


def run_all(
    mutants: Sequence[Mutant], *, thorough: bool, on_trial: Callable[[Trial], None] = lambda trial: None
) -> Iterator[Trial]:
    """Trials in the order of `mutants`, from as many interpreter processes as there are cores."""
    found: dict[str, Trial] = {}
    queue = list(mutants)[::-1]
    context = multiprocessing.get_context("spawn")
    workers: dict[Any, tuple[Any, Mutant, float]] = {}
    idle: list[tuple[Any, Connection]] = []

    def start() -> tuple[Any, Connection]:
        ours, theirs = context.Pipe()
        from ..pool import environment

        with environment({"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}):
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
        theirs.close()
        return process, ours

    count = max(1, min(8, len(os.sched_getaffinity(0)), len(queue)))
    try:
        while len(found) < len(mutants):
            while queue and len(workers) < count:
                process, connection = idle.pop() if idle else start()
                mutant = queue.pop()
                connection.send((mutant, thorough))
                workers[connection] = (process, mutant, time.monotonic())
            for ready in wait(list(workers), timeout=0.5):
                process, mutant, _ = workers.pop(ready)
                try:
                    connection = cast("Connection", ready)
                    trial = connection.recv()
                    idle.append((process, connection))
                except (EOFError, OSError):
                    process.join(timeout=5)
                    trial = _ended(mutant, f"the process died (exit code {process.exitcode})")
                if isinstance(trial, BaseException):
                    raise trial
                found[mutant.name] = trial
                on_trial(trial)
            for connection, (process, mutant, since) in list(workers.items()):
                if time.monotonic() - since > _LIMIT_S:
                    process.kill()
                    del workers[connection]
                    found[mutant.name] = _ended(mutant, f"no answer within {_LIMIT_S:g} s")
                    on_trial(found[mutant.name])
    finally:
        for process in [process for process, _, _ in workers.values()] + [process for process, _ in idle]:
            process.kill()
            process.join(timeout=10)
    return iter([found[mutant.name] for mutant in mutants])


def _serve(connection: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            mutant, thorough = connection.recv()
        except EOFError:
            return
        try:
            connection.send(run_trial(mutant, thorough=thorough))
        except Exception as error:
            # A mutant whose text is gone is a fault of the catalogue, not a kill.
            connection.send(error)


def _ended(mutant: Mutant, why: str) -> Trial:
    """A mutant that hangs or dies was noticed by everyone."""
    return Trial(
        name=mutant.name,
        fault=mutant.fault,
        kind=mutant.kind,
        place=mutant.place,
        cases=0,
        killed_by=why,
        killing=0,
        evidence=why,
        let_through=(),
    )
