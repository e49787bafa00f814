"""What the directory of a run holds of it, and whether this process may go on with that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

from ..design.spec import AUTO
from ..support.errors import InputError
from . import records
from .lock import LOCK
from .records import Manifest
from .sources import SOURCES
from .writers import WRITERS, read_writers

_SHOWN: Final = 40


class RunState(Enum):
    """What the directory of a run holds of it."""

    NEW = "nothing yet"
    BEGUN = "a part of it"
    UNCOUNTED = "all pairs, but no summary of them"
    FINISHED = "all of it"


def run_state(run: Path, manifest: Manifest, *, resume: bool, joining: str = "--resume") -> RunState:
    """What ``run`` holds of this run: it can begin, go on, or be taken as it is.

    Args:
        run: the directory.
        manifest: of the run that was asked for.
        resume: whether a part of it may be gone on with.
        joining: what an error calls that wish.

    Raises:
        InputError: if the directory holds something else, or a part of this run that was not to be resumed.
    """
    if not run.is_dir():
        return RunState.NEW
    # Listed before the manifest is looked for: what another process adds comes after its manifest.
    others = [entry for entry in run.iterdir() if not _leftover(entry)]
    if not (run / records.MANIFEST).exists():
        if others:
            raise InputError("--out", run, "holds other files; give an empty or new directory")
        return RunState.NEW
    found = records.read_manifest(run, "--out")
    _refuse_other(run, found, manifest)
    if not found.finished and not resume:
        raise InputError("--out", run, "holds a part of this run; continue it with --resume, or give another --out")
    if resume:
        _refuse_other_machine(run, found, manifest, joining)
    if not found.finished:
        return RunState.BEGUN
    if _has_summary(run) and not (run / WRITERS).exists():
        return RunState.FINISHED
    # Without its summary the run of a script has nothing: it is run again.
    return RunState.UNCOUNTED if manifest.spec is not None else RunState.BEGUN


def same_sources(run: Path, manifest: Manifest) -> bool:
    """Whether the code that made the run is this one."""
    made = records.read_manifest(run).resume_key.get(SOURCES)
    return made == manifest.resume_key[SOURCES]


def refuse_other_sources(run: Path, manifest: Manifest) -> None:
    """Cohorts of other code do not join those of a run."""
    if not same_sources(run, manifest):
        remedy = "was made by another version of this code or study: the pairs would mix; give another --out"
        raise InputError("--resume", run, remedy)


def _refuse_other_machine(run: Path, found: Manifest, asked: Manifest, joining: str) -> None:
    for name, value in asked.resume_key.items():
        # A finished run is shown whatever made it; what is redone of it is looked at by `refuse_other_sources`.
        there = found.resume_key.get(name, "")
        if there != value and not (found.finished and name == SOURCES):
            remedy = (
                f"was begun with {name} {there or 'none'}, here it is {value or 'none'}: the bits would mix; give "
                "another --out"
            )
            raise InputError(joining, run, remedy)
    for written in read_writers(run):
        for _, key in written.origins:
            if key != found.resume_key:
                remedy = "tells of shards made on another kind of machine or by other code; remove it and --resume"
                raise InputError("--out", written.path, remedy)


def _refuse_other(run: Path, found: Manifest, asked: Manifest) -> None:
    decided, deciding = _decisive(found), _decisive(asked)
    if decided.get("engine") == AUTO and "engines" not in decided:
        # Older manifests do not say which engines it took. No cohort joins such a run: its sources are others.
        deciding.pop("engines", None)
    differences = [
        "{} {} instead of {}".format(name, *_apart(str(theirs), str(ours)))
        for name, theirs, ours in (
            ("study", found.study, asked.study),
            ("seed", found.seed, asked.seed),
            *_differences(decided, deciding),
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
    """The lock, or a temporary file of a writer that was killed before the manifest was there."""
    return entry.name == LOCK or (entry.name.startswith(".") and entry.name.endswith(".tmp"))
