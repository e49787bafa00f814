"""What a mutant is, and how its copy of `kernels` comes into being.

A mutant is an edit of the source text, so that the code that is broken is the code that runs: rules, launch tables, the
optimizer's bookkeeping. The edited copy is imported as a package of its own beside the sound one.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import kernels

from ...providers.base import build_or_unsupported

SOUND = Path(inspect.getfile(kernels)).parent
_HELD: list[tempfile.TemporaryDirectory[str]] = []


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A replacement in one file of `kernels`.

    Attributes:
        file: its path inside the package.
        inside: the function or class that holds the text, or "" for the whole file.
        old: text that must be there exactly once.
        new: what takes its place.
    """

    file: str
    inside: str
    old: str
    new: str

    def apply(self, source: str) -> str:
        """The file's text after the edit.

        Raises:
            ValueError: if the text is not there once: the mutant is out of date.
        """
        start, end = _span(source, self.inside)
        if source.count(self.old, start, end) != 1:
            found = source.count(self.old, start, end)
            raise ValueError(f"kernels/{self.file}, {self.inside or 'whole file'}: found {found} times: {self.old!r}")
        at = source.index(self.old, start, end)
        return source[:at] + self.new + source[at + len(self.old) :]

    def line(self, source: str) -> int:
        """Line number of the edit."""
        start, end = _span(source, self.inside)
        return source.count("\n", 0, source.index(self.old, start, end)) + 1


def _span(source: str, name: str) -> tuple[int, int]:
    """Where a function or class (dotted for a method) stands in the text."""
    if not name:
        return 0, len(source)
    body: list[Any] = ast.parse(source).body
    node: Any = None
    for part in name.split("."):
        named = [n for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name == part]
        if not named:
            raise ValueError(f"no {name} in this file")
        node = named[0]
        body = node.body
    lines = source.splitlines(keepends=True)
    start = sum(map(len, lines[: node.lineno - 1]))
    return start, start + sum(map(len, lines[node.lineno - 1 : node.end_lineno]))


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A fault that really happens.

    Attributes:
        name: short and stable.
        fault: what is wrong, in a sentence.
        optimizer: torch's class name, whose cases are run.
        recipe: which recipe's cases are run.
        edits: the changes.
        kind: "arithmetic", "state" or "launch".
        options: constructor arguments added to every case, for faults that hide elsewhere.
        far: also run the tables at an offset beyond 2^31 elements.
    """

    name: str
    fault: str
    optimizer: str
    edits: tuple[Edit, ...]
    recipe: str = "foreach"
    kind: str = "arithmetic"
    far: bool = False

    @property
    def place(self) -> str:
        """File, line and function of its first edit."""
        edit = self.edits[0]
        line = edit.line((SOUND / edit.file).read_text(encoding="utf-8"))
        return f"kernels/{edit.file}:{line}" + (f" {edit.inside}" if edit.inside else "")


@cache
def load(mutant: Mutant) -> ModuleType:
    """The mutant's copy of `kernels`, imported under a name of its own."""
    name = "kernels_with_" + "".join(c if c.isalnum() else "_" for c in mutant.name)
    held = tempfile.TemporaryDirectory(prefix=name)
    # The interpreter reads the sources again when a kernel runs: they stay as long as the process.
    _HELD.append(held)
    root = Path(held.name) / name
    shutil.copytree(SOUND, root, ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
    for table in SOUND.glob("*.npz"):
        (root / table.name).symlink_to(table)
    for edit in mutant.edits:
        path = root / edit.file
        path.write_text(edit.apply(path.read_text(encoding="utf-8")), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, root / "__init__.py", submodule_search_locations=[str(root)])
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, kw_only=True)
class MutantProvider:
    """The drop-ins of a mutant, on the interpreter."""

    mutant: Mutant

    @property
    def name(self) -> str:
        """The provider's name in results."""
        return f"mutant {self.mutant.name}"

    def missing(self, device: torch.device) -> str:
        """Why mutants cannot run here; empty when they can."""
        return "" if device.type == "cpu" else "mutants run in the interpreter, on the CPU"

    def build(self, optimizer: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The mutant's drop-in."""
        made = getattr(load(self.mutant), optimizer)
        return build_or_unsupported(made, groups, {**options, "recipe": self.mutant.recipe, "backend": "interpreter"})
