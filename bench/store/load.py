"""Reading a timing result that somebody names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossscale.support.errors import InputError

from .freshness import SCHEMA
from .schema import StepRow, is_above_zero

Key = tuple[str, ...]
KEY = ("provider", "optimizer", "dtype", "workload", "table")


@dataclass(frozen=True, kw_only=True)
class Result:
    """A timing result.

    Attributes:
        document: all of it: machine, versions, fingerprints.
        rows: by `KEY`; the table is "" for the timings themselves, "steps" for a campaign's whole steps.
    """

    document: Mapping[str, Any]
    rows: Mapping[Key, StepRow]


def read_result(path: Path, argument: str) -> Result:
    """A result of `bench time step` or of a campaign's timing.json.

    Raises:
        InputError: if the file is not there, empty, damaged, of another schema, or has no timings.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(argument, path, f"cannot be read: {reason}; give a timing result") from error
    return parse_result(text, argument, path)


def parse_result(text: str, argument: str, path: Path) -> Result:
    """A result from its text; `path` is what errors call it. Errors as `read_result`, but for files."""
    if not text.strip():
        raise InputError(argument, path, "the file is empty; give a timing result")
    try:
        document = json.loads(text)
        if "\\ud" in text.lower():
            # Half of a pair of code units is no text that could be written again.
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(argument, path, f"damaged: {error}; make the result again") from error
    if isinstance(document, dict) and "rows" not in document and isinstance(document.get("steps"), dict):
        # A campaign whose part for kernels has not run.
        document = {**document["steps"], "rows": [], "steps": document["steps"]}
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        raise InputError(argument, path, "no timing result: it has no rows; give what `bench time step --out` wrote")
    if document.get("schema") != SCHEMA:
        raise InputError(argument, path, f"schema {document.get('schema')}, not {SCHEMA}; make the result again")
    try:
        _check_header(document)
        tables = {"": document, "steps": document.get("steps") or {}}
        if not isinstance(tables["steps"], dict):
            raise ValueError("steps are no record")
        rows: dict[Key, StepRow] = {}
        for table, found in tables.items():
            for row in map(StepRow.from_dict, _timed(found.get("rows", []))):
                if rows.setdefault(key_of(row, table), row) is not row:
                    raise ValueError(f"two rows of {' '.join(filter(None, key_of(row, table)))}")
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(argument, path, f"damaged: {error}; make the result again") from error
    if not rows:
        raise InputError(argument, path, "it holds no step times; give what `bench time step --out` wrote")
    return Result(document=document, rows=rows)


def _check_header(document: Mapping[str, Any]) -> None:
    for name in ("provenance", "fingerprints"):
        if not isinstance(document.get(name, {}), dict):
            raise ValueError(f"{name} is {document[name]!r}")
    if not isinstance(document.get("provenance", {}).get("packages", {}), dict):
        raise ValueError("the packages in provenance are no table")
    launch, ceilings = document.get("launch_ns"), document.get("ceilings", [])
    if launch is not None and not is_above_zero(launch):
        raise ValueError(f"launch_ns is {launch!r}")
    if not isinstance(ceilings, list) or not all(isinstance(one, dict) for one in ceilings):
        raise ValueError(f"ceilings are {ceilings!r}")
    copies = document.get("copy_gb_per_s", {})
    if not isinstance(copies, dict) or not all(map(is_above_zero, copies.values())):
        raise ValueError(f"copy_gb_per_s is {copies!r}")
    for rate in (one.get("copy_gb_per_s") for one in ceilings):
        if not is_above_zero(rate):
            raise ValueError(f"a ceiling's copy_gb_per_s is {rate!r}")


def key_of(row: StepRow, table: str) -> Key:
    """What names a row in every result."""
    return row.provider, row.optimizer, row.dtype, row.workload, table


def _timed(rows: Any) -> list[Any]:
    """Rows of a provider; a workload that failed as a whole has a row without one."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("rows are no list of records")
    return [row for row in rows if "provider" in row]
