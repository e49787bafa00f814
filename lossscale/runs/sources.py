"""The hash of the code that decides the pairs of a run: shards of two definitions of one arm must not mix."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCES = "sources"
"""Its name in a manifest's resume key."""


def digest(study: str) -> str:
    """Of the sources of the kernels, of what trains and measures, and of the study, without comments and blanks."""
    found = importlib.util.find_spec("kernels")
    assert found is not None and found.origin is not None
    package = Path(__file__).resolve().parents[1]
    own = _module_file(f"{package.name}.studies.{study.replace('-', '_')}")
    folders = [Path(found.origin).parent, *(package / room for room in ("design", "models", "engines"))]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    shared = (package / name for name in ("theory.py", "diagnose/rounding.py", "diagnose/steps.py"))
    files += [*shared, *([own] if own is not None else [])]
    hashed = hashlib.sha256()
    for path in files:
        hashed.update("\n".join(_code(path)).encode())
    return hashed.hexdigest()[:16]


def _module_file(name: str) -> Path | None:
    """Where the registry found the study's module, wherever that is; or would find it, in a process without one."""
    module = sys.modules.get(name)
    found = importlib.util.find_spec(name) if module is None else None
    origin = found.origin if found is not None else getattr(module, "__file__", None)
    return Path(origin) if origin else None


def _code(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.rstrip()
