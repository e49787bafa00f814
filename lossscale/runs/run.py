"""Runs a study in its directory, from nothing or from where a killed run stopped, up to its table and page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from ..design.spec import Cohort
from ..design.study import Study, StudyContext
from ..support.errors import WorkerLost
from ..support.files import made_directory, make_directory, remove_leftovers
from ..support.interrupts import check
from ..support.output import Output
from . import records
from .executor import Executor, Local
from .lock import locked
from .planning import Choices
from .progress import Progress
from .records import Manifest
from .state import RunState, refuse_other_sources, run_state, same_sources
from .writers import Writer, read_writers, remove_writers

REPORT: Final = "report.html"
LARGE_RUN: Final = 250_000
"""Pairs from which on a command says what it cost."""

PageWriter = Callable[[Path, Output], None]
"""Writes a finished run's page, or says why it cannot."""


def default_directory(study: Study, choices: Choices) -> Path:
    """Where a run goes unless ``--out`` says otherwise; a quick one has a place of its own."""
    return Path("runs") / (f"{study.name}-quick" if choices.quick else study.name)


def is_large(run: Path) -> bool:
    """Whether a run has so many pairs; a script's has none."""
    spec = records.read_manifest(run).run_spec
    return spec is not None and spec.pairs >= LARGE_RUN


def run_study(
    study: Study,
    choices: Choices,
    run: Path,
    output: Output,
    *,
    executor: Executor | None = None,
    page: PageWriter | None = None,
) -> None:
    """Runs the study into the directory ``run``; a run that is finished stays as it is, but for a lost summary.

    Args:
        study: which.
        choices: as the user gave them.
        run: the directory.
        output: where lines go.
        executor: trains the cohorts; by default this machine does.
        page: makes the page, when the run has changed or has none.

    Raises:
        InputError: for bad choices, for a directory that holds something else and for a finished run with damaged
            shards that is not to be resumed; nothing has been changed then.
        WorkerLost: when a worker process dies, leaving a run that ``--resume`` continues.
        KeyboardInterrupt: after Ctrl-C, leaving such a run too.
    """
    executor = executor or Local(choices.executor, choices.workers)
    manifest = executor.plan(study, choices)
    check()
    run_state(run, manifest, resume=choices.resume)
    with made_directory(run), locked(run) as alone, _resumable(f"--resume (run directory {run})"):
        # Looked at again: another process may have finished it before we were alone.
        state = run_state(run, manifest, resume=choices.resume)
        if state is RunState.FINISHED and not same_sources(run, manifest):
            output.note("made by an earlier version of this code; give another --out to run it again")
        if alone and state in (RunState.NEW, RunState.BEGUN):
            remove_leftovers(run)
        if manifest.spec is None:
            changed = _complete_script(study, manifest, run, state, output)
        else:
            changed = _complete_grid(study, manifest, choices, run, state, output, executor)
        if page is not None and (changed or not (run / REPORT).exists()):
            page(run, output)


def run_share(
    study: Study, choices: Choices, run: Path, output: Output, *, executor: Executor | None = None
) -> dict[str, Any]:
    """Runs the cohorts of ``choices.share`` into a directory that other processes write to at the same time.

    The first of them makes the manifest. None of them finishes the run: `run_study` does, when it is to be resumed.

    Args:
        study: which; it has a grid.
        choices: as the user gave them, a share among them.
        run: the directory.
        output: where lines go.
        executor: trains the cohorts; by default this machine does.

    Returns:
        What is there of the share, as a row of the command's table.

    Raises:
        InputError: as `run_study`.
        WorkerLost: when a worker process dies, leaving a share that the same command continues.
        KeyboardInterrupt: after Ctrl-C, leaving such a share too.
    """
    share = choices.share
    assert share is not None, "a share is what this runs"
    executor = executor or Local(choices.executor, choices.workers)
    manifest = executor.plan(study, choices)
    check()
    run_state(run, manifest, resume=True, joining="--shard")
    with made_directory(run), locked(run, shared=True), _resumable(f"the same command (run directory {run})"):
        state = run_state(run, manifest, resume=True, joining="--shard")
        executor.check(run, manifest)
        if state is RunState.NEW and not records.create_manifest(run, manifest):
            state = run_state(run, manifest, resume=True, joining="--shard")
        spec = manifest.run_spec
        assert spec is not None, f"study {study.name} has no grid"
        cohorts = list(share.of(spec.cohorts()))
        _advance(run, manifest, cohorts, executor, output)
        hint = "when all shards are there, --resume in place of --shard finishes the run"
        hint = "the run is finished" if state is RunState.FINISHED else hint
        if cohorts:
            output.note(f"{study.name}: shard {share} is written to {run}; {hint}")
        else:
            few = sum(1 for _ in spec.cohorts())
            output.note(f"{study.name}: shard {share} is empty, since the run has {few} cohorts; {hint}")
    pairs = sum(cohort.kept for cohort in cohorts) * len(spec.pairings)
    return {"study": study.name, "shard": str(share), "cohorts": len(cohorts), "pairs": pairs}


@contextmanager
def _resumable(how: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; continue with {how}") from None
    except WorkerLost as lost:
        raise WorkerLost(f"{lost}; continue with {how}") from lost


def _complete_grid(
    study: Study,
    planned: Manifest,
    choices: Choices,
    run: Path,
    state: RunState,
    output: Output,
    executor: Executor,
) -> bool:
    """Does what the directory lacks, and returns whether that was anything."""
    spec = planned.run_spec
    assert spec is not None, f"study {study.name} has no grid"
    cohorts = list(spec.cohorts())
    if state in (RunState.NEW, RunState.BEGUN):
        executor.check(run, planned)
    if state is RunState.NEW:
        records.write_manifest(run, planned)
    trained = False
    if state in (RunState.FINISHED, RunState.UNCOUNTED) and not choices.resume:
        checksums = records.check_shards(run, cohorts, "--out")
    else:
        checksums, trained = _advance(run, planned, cohorts, executor, output)
    if state is RunState.FINISHED and not trained:
        return False
    _conclude(study, run, checksums)
    return True


def _advance(
    run: Path, planned: Manifest, cohorts: Sequence[Cohort], executor: Executor, output: Output
) -> tuple[dict[str, str], bool]:
    """Runs those of the cohorts whose shards are missing or damaged.

    Returns:
        The checksums of all of them, and whether there were any to run.
    """
    checksums = records.whole_shards(run, cohorts)
    left = [cohort for cohort in cohorts if cohort.name not in checksums]
    if not left:
        return checksums, False
    refuse_other_sources(run, planned)
    spec = planned.run_spec
    assert spec is not None, "only a grid has cohorts"
    make_directory(run / records.PAIRS)
    with (
        Writer(run, (planned.provenance, planned.resume_key)) as writer,
        Progress(spec, cohorts, left, output) as progress,
        closing(executor.train(run, planned, left)) as ended,
    ):
        for one in ended:
            if one.origin is not None:
                writer.works(one.origin)
            writer.wrote(one.cohort.name, one.digest)
            checksums[one.cohort.name] = one.digest
            progress.done(one.cohort)
            check()
    return checksums, True


def _conclude(study: Study, run: Path, checksums: dict[str, str]) -> None:
    """Writes what is known when all shards are there and, last, that the run is finished."""
    from .summary import write_summary

    records.write_checksums(run, checksums)
    write_summary(run, study)
    manifest = records.read_manifest(run)
    origins = [origin for written in read_writers(run) for origin in written.origins]
    records.write_manifest(run, manifest.finish([provenance for provenance, _ in origins]))
    remove_writers(run)


def _complete_script(study: Study, planned: Manifest, run: Path, state: RunState, output: Output) -> bool:
    """Runs the script unless the directory has all of it, and returns whether it was run."""
    if state is RunState.FINISHED:
        return False
    assert study.execute is not None, f"study {study.name} has neither a grid nor a script"
    records.write_manifest(run, planned)
    options = planned.options
    study.execute(
        StudyContext(
            study=study,
            run=run,
            seed=planned.seed,
            steps=options["steps"],
            quick=options["quick"],
            device=options["device"],
            backend=options["backend"],
            note=output.note,
        )
    )
    records.write_manifest(run, dataclasses.replace(planned, finished=True))
    return True
