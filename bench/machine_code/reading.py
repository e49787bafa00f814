"""What is read off a compiled kernel, kept on disk: compiling and disassembling are done once per source and compiler.

The folder is `lossscale-bench/static` in the user's cache (`XDG_CACHE_HOME`, or `~/.cache`); it may be removed at any
time. Files are written whole, and a folder that cannot be written is no error: then nothing is kept.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lossscale.support import errors, files

from . import ptx
from .compile import Job


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A compiled kernel, read.

    Attributes:
        resources: of the machine code.
        improper: operations of the PTX, in any block, that are not rounded to nearest.
        body: the main body; None when there is none.
    """

    resources: ptx.Resources
    improper: tuple[str, ...]
    body: ptx.Body | None


def read_job(job: Job) -> Reading:
    """The reading of a job: a kept one, or compiled now and kept."""
    if (kept := kept_reading(job)) is not None:
        return kept
    compiled = job.run()
    reading = Reading(
        resources=ptx.resources(compiled["cubin"]),
        improper=ptx.improper_in(compiled["ptx"]),
        body=ptx.main_body(compiled["ptx"]),
    )
    _keep(_path(job), reading)
    return reading


def kept_reading(job: Job) -> Reading | None:
    """The reading that was kept of a job; None where there is none, or what is there is damaged."""
    return _load(_path(job))


def _path(job: Job) -> Path:
    return cache_folder() / f"{_readers()[:8]}-{job.key()[:40]}.json"


def cache_folder() -> Path:
    """Where readings are kept. The specification of XDG_CACHE_HOME has relative paths ignored."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "lossscale-bench" / "static"


@cache
def _readers() -> str:
    """Hash of the code that reads: another reader would see other things."""
    return hashlib.sha256(inspect.getsource(ptx).encode()).hexdigest()


def _keep(path: Path, reading: Reading) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        body = reading.body and {**vars(reading.body), "operations": dict(reading.body.operations)}
        files.write_json(path, {"resources": vars(reading.resources), "improper": reading.improper, "body": body})
    except (OSError, errors.InputError):
        # A cache that cannot be written saves nothing, and breaks nothing.
        return


def _load(path: Path) -> Reading | None:
    try:
        stored: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        body = stored["body"]
        if body is not None:
            body = ptx.Body(
                operations=Counter(body["operations"]),
                improper=tuple(body["improper"]),
                vector_bytes=tuple(body["vector_bytes"]),
                narrow_stores=body["narrow_stores"],
                narrow_loads=body["narrow_loads"],
            )
        return Reading(resources=ptx.Resources(**stored["resources"]), improper=tuple(stored["improper"]), body=body)
    except (OSError, ValueError, KeyError, TypeError):
        return None
