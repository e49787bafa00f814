"""The hash of the code that decides the pairs of a run: shards of two definitions of one arm must not mix."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from ..design.study import Study

SOURCES = "sources"
"""Its name in a manifest's resume key."""


def digest(study: Study) -> str:
    """Of the sources of the kernels, of what trains and measures, and of the study, without comments and blanks."""
    found = importlib.util.find_spec("kernels")
    assert found is not None and found.origin is not None
    package = Path(__file__).resolve().parents[1]
    # The registry has imported the study's module, wherever it lies.
    own = sys.modules.get(f"{package.name}.studies.{study.name.replace('-', '_')}")
    folders = [Path(found.origin).parent, *(package / room for room in ("design", "models", "engines"))]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    shared = (package / name for name in ("theory.py", "diagnose/rounding.py", "diagnose/steps.py"))
    files += [*shared, *([Path(own.__file__)] if own is not None and own.__file__ else [])]
    hashed = hashlib.sha256()
    for path in files:
        hashed.update("\n".join(_code(path)).encode())
    return hashed.hexdigest()[:16]


def _code(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.rstrip()
