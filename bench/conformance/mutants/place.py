"""Where a function of `kernels` stands, found by its dotted name in whatever file it is."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Place:
    """A definition in a file.

    Attributes:
        file: path inside the package.
        start, end: character positions of its whole lines in the file's text.
    """

    file: str
    start: int
    end: int


def sources(root: Path) -> dict[str, str]:
    """The text of every file of the package at `root`, by its path inside."""
    return {p.relative_to(root).as_posix(): p.read_text(encoding="utf-8") for p in sorted(root.rglob("*.py"))}


def find(files: Mapping[str, str], name: str) -> Place:
    """The definition that a dotted name means in a package's files.

    Args:
        files: the package's texts (`sources`).
        name: a function, class, method or constant of module level, `chunk_table`, `StepOptimizer._member`; after as
            many names of its modules as make it unambiguous, `adam._flags` or `algorithms.adam._flags`. Folders that
            are not named may change.

    Raises:
        ValueError: if nothing has that name, or several things have.
    """
    found = [
        Place(file=file, start=start, end=end)
        for file, text in files.items()
        for start, end in _meant(module_parts(Path(file)), text, name)
    ]
    if len(found) != 1:
        where = ", ".join(place.file for place in found)
        raise ValueError(f"{name}: in {where}: name its module too" if found else f"{name}: nothing has that name")
    return found[0]


def module_of(package: ModuleType, name: str) -> Any:
    """The module of a package in which a dotted name is defined."""
    (root,) = package.__path__
    parts = module_parts(Path(find(sources(Path(root)), name).file))
    return importlib.import_module(".".join((package.__name__, *parts)))


def module_parts(file: Path) -> tuple[str, ...]:
    """The dotted name of a file inside its package, in parts."""
    parts = file.with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def _meant(module: tuple[str, ...], text: str, name: str) -> Iterator[tuple[int, int]]:
    """Spans of the definitions of a module that the name can mean."""
    defined = definitions(text)
    parts = tuple(name.split("."))
    for cut in range(len(parts)):
        span = defined.get(".".join(parts[cut:]))
        if span and module[len(module) - cut :] == parts[:cut]:
            yield span


@lru_cache(maxsize=512)
def definitions(text: str) -> dict[str, tuple[int, int]]:
    """Where each function, class, method and constant of module level stands: start and end by its dotted name."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    return {name: (starts[node.lineno - 1], starts[node.end_lineno]) for name, node in _named(ast.parse(text).body, "")}


def _named(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Any]]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _named(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and not prefix:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, node) for target in targets if isinstance(target, ast.Name))
