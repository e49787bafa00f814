"""Files that torch.save wrote, read without running any code of theirs, and where in them an optimizer's state is."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..support.errors import InputError
from ..support.files import whole_file

KEY: Final = "--key"
TORCH_ENDINGS: Final = (".pt", ".pth", ".ckpt", ".bin", ".tar", "")
"""What files are called that torch writes; other endings promise another format."""
_DEEPEST: Final = 6
"""How many containers deep a checkpoint is searched."""
_SAVE: Final = "save one with torch.save(optimizer.state_dict(), FILE)"
_PLAIN: Final = "float(lr), list(betas), full_tensor(), dequantize()"
_TO_FILE: Final = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIRECTORY FILE"
"""How a distributed checkpoint becomes one of torch.save."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A file and the optimizer's state_dict in it.

    Attributes:
        path: the file.
        document: all that it holds.
        key: where the state_dict is, as `find_states` spells it.
        state_dict: a part of the document; whoever changes it changes the document.
        others: where further optimizers' state_dicts are.
        argument: what an error about the file calls it.
    """

    path: Path
    argument: str
    document: Any
    key: str
    state_dict: dict[str, Any]
    others: tuple[str, ...]


def read_checkpoint(path: Path, key: str | None, argument: str) -> Checkpoint:
    """The optimizer's state_dict at a key of a file, or the whole file; numpy numbers in it become Python's.

    Args:
        path: the file.
        key: where in it; None for its top.
        argument: what an error calls the file.

    Raises:
        InputError: the file cannot be read, holds a type that is refused, or has no such state_dict there; it names the
            type, or the keys where one is.
    """
    document = read_file(path, argument)
    found = dict(find_states(document))
    if not found:
        keys = (
            f"its keys are {', '.join(map(str, list(document)[:8]))}; "
            if isinstance(document, dict) and document
            else ""
        )
        raise InputError(argument, path, f"holds no optimizer's state_dict; {keys}{_SAVE}")
    if key is None and "" not in found:
        places = " or ".join(f"{KEY} {place}" for place in found)
        raise InputError(argument, path, f"holds no optimizer's state_dict at its top but further in; add {places}")
    where = key or ""
    if where not in found:
        places = ", ".join(place or "the top, which needs no key" for place in found)
        raise InputError(KEY, where, f"no optimizer's state_dict is there in {path}; there is one at {places}")
    state_dict = found[where]
    state_dict["param_groups"] = [
        {name: _python(value) for name, value in group.items()} for group in state_dict["param_groups"]
    ]
    if not all(isinstance(entry, dict) for entry in state_dict["state"].values()):
        raise InputError(argument, path, "keeps no dictionary of states per parameter; give a file that torch wrote")
    others = tuple(place for place in found if place != where)
    return Checkpoint(path=path, document=document, key=where, state_dict=state_dict, others=others, argument=argument)


def find_states(
    document: Any, place: str = "", depth: int = 0, seen: set[int] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every optimizer's state_dict in a document with its (first) place, such as ``optimizer_states.0``."""
    seen = set() if seen is None else seen
    if id(document) in seen:  # a file keeps one object once, however often it is named, inside itself too
        return
    if _is_state(document):
        seen.add(id(document))
        yield place, document
    elif depth < _DEEPEST:
        inside = list(children(document))
        if inside:
            seen.add(id(document))
        for name, inner in inside:
            yield from find_states(inner, f"{place}.{name}" if place else str(name), depth + 1, seen)


def children(document: Any) -> Iterator[tuple[Any, Any]]:
    """The entries of a dictionary, list or tuple with their names; nothing for anything else."""
    if isinstance(document, Mapping):
        yield from document.items()
    elif isinstance(document, list | tuple):
        yield from enumerate(document)


def _is_state(document: Any) -> bool:
    groups = document.get("param_groups") if isinstance(document, dict) else None
    whole = isinstance(groups, list) and groups and all(isinstance(group, dict) for group in groups)
    return bool(whole) and isinstance(document.get("state"), dict)


def read_file(path: Path, argument: str) -> Any:
    """What torch.save wrote, on the CPU. Numpy numbers and default dicts (as plain ones) are read too.

    Raises:
        InputError: the file cannot be read, is none of torch's, or holds a type that only its own code could read.
    """
    import torch

    try:
        # Storages of old files warn of being old.
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        if path.is_dir():
            raise InputError(argument, path, f"is a directory; give a file, or make one of it: {_TO_FILE}") from error
        raise InputError(argument, path, f"cannot be read ({error.strerror or error}); give a file that can") from error
    except Exception as error:  # torch reads any bytes as a pickle, and fails in as many ways
        refused = _refused_types(path, str(error))
        remedy = "is no file that torch.save wrote, or a damaged one; give one of torch.save(….state_dict(), FILE)"
        if refused:
            remedy = f"holds {refused}, which only running foreign code could read; save plain values: {_PLAIN}"
        raise InputError(argument, path, remedy) from error


def write_files(documents: Sequence[tuple[Any, Path, str]]) -> None:
    """Writes each document to its place as torch.save does: whole, and none of them where one cannot be written.

    Args:
        documents: what, where, and what an error calls the place.

    Raises:
        InputError: a place cannot be written.
    """
    import torch

    with ExitStack() as stack:
        places = [stack.enter_context(whole_file(path, argument=argument)) for _, path, argument in documents]
        for (document, _, _), temporary in zip(documents, places, strict=True):
            with temporary.open("wb") as file:
                torch.save(document, file)


def _plain_dict(factory: Any = None, *items: Any) -> dict[Any, Any]:
    """What a default dict is read as."""
    del factory
    return dict(*items)


def _harmless() -> list[Any]:
    """What may be called while a file is read, beyond torch's own list: constructors of plain values."""
    import numpy as np

    kinds = [type(np.dtype(code)) for code in ("?", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8")]
    values = (dict, list, set, int, float)
    named = [(value, f"{module}.{value.__name__}") for value in values for module in ("builtins", "__builtin__")]
    scalar = np.float64(0).__reduce__()[0]
    scalars = [(scalar, f"numpy.{module}.multiarray.scalar") for module in ("_core", "core")]
    return [(_plain_dict, "collections.defaultdict"), *named, *scalars, np.dtype, *kinds]


def _refused_types(path: Path, message: str) -> str:
    """The names of the types that a file was refused for, or nothing."""
    import torch

    try:
        with torch.serialization.safe_globals(_harmless()):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it reads archives only; a file of another kind raises whatever its reader does
        names = []
    found = sorted({*names, *re.findall(r"GLOBAL ([\w.]+)", message)})
    types = [name for name in found if not name.rpartition(".")[2].startswith("_")]  # not the helpers that make them
    return ", ".join(types or found)


def _python(value: Any) -> Any:
    """A numpy number as Python's, also inside a sequence."""
    import numpy as np

    if isinstance(value, np.generic):
        return value.item()
    return type(value)(map(_python, value)) if type(value) in (list, tuple) else value
