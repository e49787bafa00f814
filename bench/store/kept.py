"""Result files: the ones that are kept, and reading any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"


def kept_results() -> list[str]:
    """Result files of the repository, by device."""
    return sorted(str(path.relative_to(RESULTS)) for path in RESULTS.glob("*/*.json")) if RESULTS.is_dir() else []


def kept_timings(root: Path = RESULTS) -> list[Path]:
    """The timing results of the repository, by device."""
    return sorted(root.glob("*/timing.json"))


def read_json(path: Path) -> dict[str, Any]:
    """The document in `path`, or an empty one when there is none."""
    if not path.exists():
        return {}
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
