"""The parts of a script's run: one file each, written whole, made here or on processes, and found again on a resume."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ..support.files import write_bytes, write_json
from ..support.interrupts import check
from .workers import in_processes

PARTS: Final = "parts"
_DIGESTS: Final = "digests.json"

Arrays = Mapping[str, np.typing.NDArray[Any]]


class Part(Protocol):
    """A piece of work whose result does not depend on the other pieces; sent to another process as it is."""

    @property
    def name(self) -> str:
        """Of its file."""

    @property
    def work(self) -> float:
        """What it costs, in any unit that all parts share."""

    def compute(self, run: Path) -> Arrays:
        """Its result. ``run`` is for reading parts of an earlier stage."""


def advance(
    run: Path, parts: Sequence[Part], *, title: str, note: Callable[[str], None], workers: int | None = None
) -> None:
    """Makes the parts that the run lacks; those that are there, whole, stay.

    A part's bytes depend on nothing but the part, so a run that was killed ends with those of one that was not.

    Args:
        run: directory of the run.
        parts: all of them.
        title: of the stage, for the lines about it.
        note: takes a line about how far it is.
        workers: processes; by default one per core, but this process alone for a single part.
    """
    digests = _read_digests(run)
    left = [part for part in parts if not _is_whole(run, part, digests)]
    there = len(parts) - len(left)
    note(f"{title}: {len(left)} parts" + (f"; {there} are there already" if there else ""))
    total, done, begun = sum(part.work for part in left) or 1.0, 0.0, time.monotonic()
    watched = sys.stderr.isatty()
    quarter = 1
    with _bar(watched) as bar, closing(_made(run, left, workers)) as made:
        task = bar.add_task(title, total=total)
        for part, digest in made:
            digests[part.name] = digest
            write_json(run / PARTS / _DIGESTS, dict(sorted(digests.items())))
            done += part.work
            bar.update(task, completed=done)
            if not watched and done < total and 4.0 * done / total >= quarter:
                quarter = int(4.0 * done / total) + 1
                spent = time.monotonic() - begun
                note(f"  {100.0 * done / total:.0f} %: {spent:.0f} s, {spent * (total / done - 1.0):.0f} s left")
    if left:
        note(f"{title}: {time.monotonic() - begun:.0f} s")


def read_part(run: Path, name: str) -> dict[str, np.typing.NDArray[Any]]:
    """A part's arrays by name.

    Raises:
        FileNotFoundError: when the run lacks it.
    """
    with np.load(_path(run, name)) as archive:
        return {key: archive[key] for key in archive.files}


def _bar(watched: bool) -> Bar:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Bar(*columns, console=Console(stderr=True), transient=True, disable=not watched)


def _made(run: Path, parts: Sequence[Part], workers: int | None) -> Generator[tuple[Part, str]]:
    count = min(len(os.sched_getaffinity(0)) if workers is None else workers, len(parts))
    if count > 1:
        yield from in_processes(functools.partial(_make, run), parts, count, name=lambda part: part.name)
        return
    for part in parts:
        check()
        yield part, _make(run, part)


def _make(run: Path, part: Part) -> str:
    from ..engines.threads import one_thread

    with one_thread():
        arrays = part.compute(run)
    buffer = io.BytesIO()
    packed: dict[str, Any] = dict(arrays)
    np.savez_compressed(buffer, **packed)
    data = buffer.getvalue()
    write_bytes(_path(run, part.name), data)
    return hashlib.sha256(data).hexdigest()


def _path(run: Path, name: str) -> Path:
    return run / PARTS / f"{name}.npz"


def _is_whole(run: Path, part: Part, digests: Mapping[str, str]) -> bool:
    path = _path(run, part.name)
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == digests.get(part.name)


def _read_digests(run: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((run / PARTS / _DIGESTS).read_text())
    except (OSError, ValueError):
        return {}
    return found
