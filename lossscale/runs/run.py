"""Runs a study in its directory, from nothing or from where a killed run stopped, up to its table and page."""

from __future__ import annotations

import dataclasses
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Final

from ..design.spec import RunSpec
from ..design.study import Study, StudyContext
from ..support.errors import InputError
from ..support.files import make_directory, remove_leftovers
from ..support.output import Output
from . import records
from .executor import run_cohorts
from .planning import Choices, planned_manifest
from .progress import Progress
from .records import Manifest
from .sources import SOURCES

REPORT: Final = "report.html"
_SHOWN: Final = 40

PageWriter = Callable[[Path, Output], None]
"""Writes a finished run's page, or says why it cannot."""


class RunState(Enum):
    """What the directory of a run holds of it."""

    NEW = "nothing yet"
    BEGUN = "a part of it"
    UNCOUNTED = "all pairs, but no summary of them"
    FINISHED = "all of it"


def default_directory(study: Study, choices: Choices) -> Path:
    """Where a run goes unless ``--out`` says otherwise; a quick one has a place of its own."""
    return Path("runs") / (f"{study.name}-quick" if choices.quick else study.name)


def run_study(study: Study, choices: Choices, run: Path, output: Output, *, page: PageWriter | None = None) -> None:
    """Runs the study into the directory ``run``; a run that is finished stays as it is, but for a lost summary.

    Args:
        study: which.
        choices: as the user gave them.
        run: the directory.
        output: where lines go.
        page: makes the page, when the run has changed or has none.

    Raises:
        InputError: for bad choices, for a directory that holds something else and for a finished run with damaged
            shards that is not to be resumed; nothing has been changed then.
        KeyboardInterrupt: after Ctrl-C, leaving a run that ``--resume`` continues.
    """
    manifest = planned_manifest(study, choices)
    run_state(run, manifest, resume=choices.resume)
    make_directory(run)
    with _alone_in(run):
        # Looked at again: another process may have finished it before we were alone.
        state = run_state(run, manifest, resume=choices.resume)
        try:
            changed = _complete(study, manifest, choices, run, state, output)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; continue with --resume (run directory {run})") from None
        if page is not None and (changed or not (run / REPORT).exists()):
            page(run, output)


def _complete(study: Study, manifest: Manifest, choices: Choices, run: Path, state: RunState, output: Output) -> bool:
    """Does what the directory lacks, and returns whether that was anything."""
    spec = manifest.run_spec
    if state is RunState.FINISHED and not _same_sources(run, manifest):
        output.note("made by an earlier version of this code; give another --out to run it again")
    if state in (RunState.FINISHED, RunState.UNCOUNTED) and spec is not None and not choices.resume:
        records.check_shards(run, spec.cohorts(), "--out")
        if state is RunState.UNCOUNTED:
            _conclude(study, records.read_manifest(run), run)  # that manifest says where the pairs came from
            return True
        return False
    changed = state is not RunState.FINISHED
    if state in (RunState.NEW, RunState.BEGUN):
        remove_leftovers(run)
        records.write_manifest(run, manifest)
    if spec is not None:
        changed = _advance(run, spec, manifest, choices, output) or changed
    elif changed:
        _execute(study, manifest, run, output)
    if changed:
        _conclude(study, manifest, run)
    return changed


def run_state(run: Path, manifest: Manifest, *, resume: bool) -> RunState:
    """What ``run`` holds of this run: it can begin, go on, or be taken as it is.

    Raises:
        InputError: if the directory holds something else, or a part of this run that was not to be resumed.
    """
    if not run.is_dir():
        return RunState.NEW
    if not (run / records.MANIFEST).exists():
        if any(not _leftover(entry) for entry in run.iterdir()):
            raise InputError("--out", run, "holds other files; give an empty or new directory")
        return RunState.NEW
    found = records.read_manifest(run, "--out")
    _refuse_other(run, found, manifest)
    if not found.finished and not resume:
        raise InputError("--out", run, "holds a part of this run; continue it with --resume, or give another --out")
    if resume:
        _refuse_other_machine(run, found, manifest)
    if not found.finished:
        return RunState.BEGUN
    if _has_summary(run):
        return RunState.FINISHED
    # Without its summary the run of a script has nothing: it is run again.
    return RunState.UNCOUNTED if manifest.spec is not None else RunState.BEGUN


def _refuse_other_machine(run: Path, found: Manifest, asked: Manifest) -> None:
    for name, value in asked.resume_key.items():
        # A finished run is shown whatever made it; what is redone of it is looked at in `_advance`.
        if found.resume_key.get(name) != value and not (found.finished and name == SOURCES):
            there = found.resume_key.get(name) or "none"
            remedy = (
                f"was begun with {name} {there}, here it is {value or 'none'}: the bits would mix; give another --out"
            )
            raise InputError("--resume", run, remedy)


def _refuse_other(run: Path, found: Manifest, asked: Manifest) -> None:
    differences = [
        "{} {} instead of {}".format(name, *_apart(str(theirs), str(ours)))
        for name, theirs, ours in (
            ("study", found.study, asked.study),
            ("seed", found.seed, asked.seed),
            *_differences(_decisive(found), _decisive(asked)),
            *_differences(found.options, asked.options),
        )
        if theirs != ours
    ]
    if differences:
        raise InputError("--out", run, f"holds another run ({'; '.join(differences[:3])}); give another --out")


def _decisive(manifest: Manifest) -> dict[str, Any]:
    """What decides the pairs of a run: where its bits are portable, not what computes them."""
    from ..engines.engine import is_portable

    spec = manifest.run_spec
    if spec is None:
        return {}
    return {
        name: value
        for name, value in spec.as_dict().items()
        if name not in ("device", "backend") or not is_portable(spec)
    }


def _differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in {**asked, **found} if asked else ():
        if name not in ("study", "seed"):
            yield name, found.get(name), asked.get(name)


def _apart(*texts: str) -> list[str]:
    """The texts, those that are long cut to where they begin to differ."""
    shortest = min(map(len, texts))
    shared = next((place for place in range(shortest) if len({text[place] for text in texts}) > 1), shortest)
    begin = max(shared - 12, 0) if max(map(len, texts)) > _SHOWN else 0
    return [
        f"{'…' if begin else ''}{text[begin : begin + _SHOWN]}{'…' if len(text) > begin + _SHOWN else ''}"
        for text in texts
    ]


def _has_summary(run: Path) -> bool:
    from .summary import is_readable

    return is_readable(run)


def _leftover(entry: Path) -> bool:
    """A temporary file of a writer that was killed before the manifest was there."""
    return entry.name.startswith(".") and entry.name.endswith(".tmp")


@contextmanager
def _alone_in(run: Path) -> Iterator[None]:
    """Holds the directory against a second process; the kernel lets go of it when this one dies."""
    descriptor = os.open(run, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                "--out", run, "another process is writing this run; wait for it or give another --out"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _advance(run: Path, spec: RunSpec, manifest: Manifest, choices: Choices, output: Output) -> bool:
    """Runs the cohorts whose shards are missing or damaged, and returns whether there were any."""
    checksums = records.read_checksums(run)
    left = [cohort for cohort in spec.cohorts() if not records.is_whole(run, cohort, checksums)]
    if not left:
        return False
    _refuse_other_sources(run, manifest)
    make_directory(run / records.PAIRS)
    with (
        Progress(spec, left, output) as progress,
        closing(run_cohorts(run, spec, left, choices.workers)) as ended,
    ):
        for cohort, digest in ended:
            checksums[cohort.name] = digest
            records.write_checksums(run, checksums)
            progress.done(cohort)
    return True


def _same_sources(run: Path, manifest: Manifest) -> bool:
    made = records.read_manifest(run).resume_key.get(SOURCES)
    return made == manifest.resume_key[SOURCES]


def _refuse_other_sources(run: Path, manifest: Manifest) -> None:
    """Cohorts of other code do not join those of a run."""
    if not _same_sources(run, manifest):
        remedy = "was made by another version of this code or study: the pairs would mix; give another --out"
        raise InputError("--resume", run, remedy)


def _execute(study: Study, manifest: Manifest, run: Path, output: Output) -> None:
    assert study.execute is not None, f"study {study.name} has neither a grid nor a script"
    options = manifest.options
    study.execute(
        StudyContext(
            study=study,
            run=run,
            seed=manifest.seed,
            steps=options["steps"],
            quick=options["quick"],
            device=options["device"],
            backend=options["backend"],
            note=output.note,
        )
    )


def _conclude(study: Study, manifest: Manifest, run: Path) -> None:
    """Writes the summary and, last, that the run is finished."""
    if study.grid is not None:
        from .summary import write_summary

        write_summary(run, study)
    records.write_manifest(run, dataclasses.replace(manifest, finished=True))
