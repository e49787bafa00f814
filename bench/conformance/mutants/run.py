"""`bench conform --mutants`: every mutant in a killable worker, and the table of who noticed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lossscale.support import errors, files
from lossscale.support.output import Output

from ...workers import Batch, Ending, Loss, Pool
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
    work = partial(run_trial, thorough=thorough)
    pool: Pool[Mutant, Trial] = Pool(
        count=max(1, min(8, len(os.sched_getaffinity(0)))),
        limit_s=_LIMIT_S,
        lost=_lost,
        environment={"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )
    batches = [Batch(work=work, items=(mutant,)) for mutant in mutants]
    found = {trial.name: trial for trial in pool.run(batches, on_result=on_trial).results}
    return iter([found[mutant.name] for mutant in mutants])


def _lost(batch: Batch[Mutant, Trial], mutant: Mutant, loss: Loss) -> Trial:
    """A mutant that hangs or dies was noticed by everyone; one whose text is gone is a fault of the catalogue."""
    del batch
    if loss.ending is Ending.RAISED:
        raise RuntimeError(f"mutant {mutant.name}: {loss.text}")
    return Trial(
        name=mutant.name,
        fault=mutant.fault,
        kind=mutant.kind,
        place=mutant.place,
        cases=0,
        killed_by=loss.text,
        killing=0,
        evidence=loss.text,
        let_through=(),
    )
