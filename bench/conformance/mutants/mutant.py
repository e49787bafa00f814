"""What a mutant is, and how its copy of `kernels` comes into being.

A mutant is an edit of the source text, so that the code that is broken is the code that runs: rules, launch tables, the
optimizer's bookkeeping. The edited copy is imported as a package of its own beside the sound one.
"""

from __future__ import annotations

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

from ...providers.base import Provider, build_or_unsupported
from .place import find, sources

SOUND = Path(inspect.getfile(kernels)).parent
_HELD: list[tempfile.TemporaryDirectory[str]] = []


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A replacement in one function of `kernels`, wherever its file is.

    Attributes:
        inside: dotted name of the function, class or constant that holds the text (`place.find`).
        old: text that must be there exactly once.
        new: what takes its place.
    """

    inside: str
    old: str
    new: str

    def apply(self, files: Mapping[str, str]) -> tuple[str, str]:
        """The file that is edited, out of the package's (`place.sources`), and its text after the edit.

        Raises:
            ValueError: if the function or the text is not there once: the mutant is out of date.
        """
        file, at = self._find(files)
        return file, files[file][:at] + self.new + files[file][at + len(self.old) :]

    def line(self, files: Mapping[str, str]) -> tuple[str, int]:
        """File and line number of the edit."""
        file, at = self._find(files)
        return file, files[file].count("\n", 0, at) + 1

    def _find(self, files: Mapping[str, str]) -> tuple[str, int]:
        place = find(files, self.inside)
        text = files[place.file]
        count = text.count(self.old, place.start, place.end)
        if count != 1:
            raise ValueError(f"kernels/{place.file}, {self.inside}: found {count} times: {self.old!r}")
        return place.file, text.index(self.old, place.start, place.end)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A fault that really happens.

    Attributes:
        name: short and stable.
        fault: what is wrong, in a sentence.
        optimizer: torch's class name, whose cases are run.
        recipe: which recipe's cases are run.
        edits: the changes.
        kind: "arithmetic", "state", "happening" or "launch".
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
        file, line = edit.line(sources(SOUND))
        return f"kernels/{file}:{line} {edit.inside}"


def edited(mutant: Mutant) -> dict[str, str]:
    """The files of `kernels` that the mutant changes, with its edits made one after the other."""
    files = sources(SOUND)
    changed = {}
    for edit in mutant.edits:
        file, text = edit.apply(files)
        changed[file] = files[file] = text
    return changed


@cache
def load(mutant: Mutant) -> ModuleType:
    """The mutant's copy of `kernels`, imported under a name of its own."""
    name = "kernels_with_" + "".join(c if c.isalnum() else "_" for c in mutant.name)
    held = tempfile.TemporaryDirectory(prefix=name)
    # The interpreter reads the sources again when a kernel runs: they stay as long as the process.
    _HELD.append(held)
    root = Path(held.name) / name
    shutil.copytree(SOUND, root, ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
    for table in SOUND.rglob("*.npz"):
        (root / table.relative_to(SOUND)).symlink_to(table)
    for file, text in edited(mutant).items():
        (root / file).write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, root / "__init__.py", submodule_search_locations=[str(root)])
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, kw_only=True)
class MutantProvider(Provider):
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
