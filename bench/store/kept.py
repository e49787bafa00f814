"""Result files: the ones that are kept, and reading any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lossscale.support.errors import InputError

RESULTS = Path(__file__).resolve().parents[1] / "results"


def kept_results() -> list[str]:
    """Result files of the repository, by device."""
    return sorted(str(path.relative_to(RESULTS)) for path in RESULTS.glob("*/*.json")) if RESULTS.is_dir() else []


def kept_timings(root: Path = RESULTS) -> list[Path]:
    """The timing results of the repository, by device."""
    return sorted(root.glob("*/timing.json"))


def read_own(path: Path, argument: str, *fields: str) -> dict[str, Any]:
    """What an earlier run of the same command left in a file that it goes on with; nothing where there is none.

    Args:
        path: of the file.
        argument: where the path came from.
        fields: that every such document has.

    Raises:
        InputError: if it cannot be read, is no JSON object, or lacks a field.
    """
    try:
        found = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(argument, path, "is there and cannot be gone on with: damaged; move it away") from error
    if type(found) is not dict or (found and not found.keys() >= set(fields)):
        raise InputError(argument, path, "is there and is no result of this command; move it away")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The document in `path`, or an empty one when there is none."""
    if not path.exists():
        return {}
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
