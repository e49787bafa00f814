"""What the processes of an unfinished run have written: a file for each, to which it alone adds lines.

``writers/XXXXXXXX.jsonl`` begins with the process's provenance and resume key; a line follows for every shard, when it
is in its place, and one for every further machine that the process had at work. A line that a kill cut short counts for
nothing, and so does the shard that it was about. When the run is finished ``checksums.json`` and the manifest's
``nodes`` take their place.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ..support.errors import InputError
from ..support.files import make_directory, writable
from ..support.output import to_json

WRITERS: Final = "writers"

Origin = tuple[Mapping[str, Any], Mapping[str, str]]
"""Provenance and resume key of a process."""


class Writer:
    """This process's lines; a context manager.

    Args:
        run: directory of the run, whose manifest is there.
        origin: of this process.

    Raises:
        InputError: if the directory cannot be written.
    """

    def __init__(self, run: Path, origin: Origin) -> None:
        folder = make_directory(run / WRITERS)
        name = folder / f"{secrets.token_hex(4)}.jsonl"
        self._run = run
        with writable("--out", run):
            self._file = os.fdopen(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "w", encoding="utf-8")
        self._origins: set[str] = set()
        self.works(origin)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def works(self, origin: Origin) -> None:
        """Notes a process that works for the run, once."""
        provenance, key = origin
        line = to_json({"provenance": provenance, "resume_key": key}, indent=None)
        if line not in self._origins:
            self._origins.add(line)
            self._add(line)

    def wrote(self, cohort: str, digest: str) -> None:
        """Notes that the cohort's shard is in its place, with its SHA-256."""
        self._add(to_json({"cohort": cohort, "sha256": digest}, indent=None))

    def _add(self, line: str) -> None:
        with writable("--out", self._run):
            self._file.write(line + "\n")
            self._file.flush()


@dataclass
class Written:
    """The lines of one file.

    Attributes:
        path: the file.
        origins: of those that worked for it, the process itself first.
        checksums: SHA-256 of its shards, by cohort name.
    """

    path: Path
    origins: list[Origin] = field(default_factory=list)
    checksums: dict[str, str] = field(default_factory=dict)


def read_writers(run: Path) -> Iterator[Written]:
    """What each process wrote, in the order of the files' names.

    Raises:
        InputError: for a file that this user cannot read.
    """
    for path in sorted((run / WRITERS).glob("*.jsonl")):
        written = Written(path)
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise InputError("--out", path, f"cannot be read ({error.strerror}); let this user read it") from error
        for line in lines:
            try:
                document = json.loads(line)
            except ValueError:
                continue
            if not isinstance(document, dict) or not ({"cohort", "provenance"} & set(document)):
                continue
            if "cohort" in document:
                written.checksums[document["cohort"]] = document["sha256"]
            else:
                written.origins.append((document["provenance"], document["resume_key"]))
        yield written


def remove_writers(run: Path) -> None:
    """Removes all of it."""
    shutil.rmtree(run / WRITERS, ignore_errors=True)
