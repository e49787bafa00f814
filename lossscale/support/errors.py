"""Bad input: one exception, and the checks that raise it."""

import difflib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

_LONGEST_VALUE = 200
_FILE_ENDINGS = frozenset({".csv", ".json", ".html", ".svg", ".png", ".pdf", ".txt", ".md", ".pt", ".pth", ".npz"})


class InputError(Exception):
    """What the user gave cannot be used. The commands print it as one line and exit 2.

    Args:
        argument: what was given, as the user spells it (``--scale``, ``STUDY``).
        value: its value.
        remedy: what is wrong with it or what to give instead, without a final full stop.
    """

    def __init__(self, argument: str, value: object, remedy: str) -> None:
        super().__init__(argument, value, remedy)  # the arguments as they came: the exception crosses process borders
        self.argument = argument
        self.value = value
        self.remedy = remedy

    def __str__(self) -> str:
        """One line: ``ARGUMENT VALUE: REMEDY``."""
        return one_line(f"{self.argument} {_shown(self.value)}: {self.remedy}")


class WorkerLost(Exception):
    """A process that worked for the command died, of a lack of memory say. The commands print one line and exit 1."""


def one_line(text: str) -> str:
    """The text with every run of white space, line ends included, as one space."""
    return " ".join(text.split())


def _shown(value: object) -> str:
    text = one_line(str(value))
    if len(text) > _LONGEST_VALUE:
        text = text[: _LONGEST_VALUE - 1] + "…"
    return text if text else repr(str(value))


@contextmanager
def input_errors(argument: str, value: object) -> Iterator[None]:
    """Turns a ValueError or TypeError of the body into an `InputError` with the same words.

    For calls that only validate, such as ``kernels.get_algorithm(name)``: wrapped around anything more, it would
    present a bug as the user's mistake.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        raise InputError(argument, value, str(error)) from error


def fold(name: str) -> str:
    """A name without what nobody remembers: case, hyphens and underscores."""
    return name.casefold().replace("-", "").replace("_", "")


def choose(argument: str, value: str, choices: Iterable[str]) -> str:
    """The choice that a user means, in any case and with any separators: ``adam_atan2``, ``Adam-Atan2``.

    Raises:
        InputError: if there is none; it names the nearest and all of them.
    """
    known = list(choices)
    if value in known:
        return value
    folded: dict[str, str] = {}
    for name in known:
        folded.setdefault(fold(name), name)
    return folded[fold(value)] if fold(value) in folded else _unknown(argument, value, known)


def check_choice(argument: str, value: str, choices: Iterable[str]) -> str:
    """Returns value if it is one of the choices as spelt; otherwise the error lists them and names the nearest."""
    known = list(choices)
    return value if value in known else _unknown(argument, value, known)


def _unknown(argument: str, value: str, known: list[str]) -> NoReturn:
    folded = {fold(name): name for name in reversed(known)}
    nearest = difflib.get_close_matches(fold(value), folded, n=1)
    suggestion = f"did you mean {folded[nearest[0]]}? " if nearest else ""
    raise InputError(
        argument, value, f"unknown; {suggestion}choose from {', '.join(known) or 'nothing: none is available'}"
    )


def check_ending(argument: str, path: Path | None, *endings: str) -> None:
    """Refuses a file name whose ending says another format than the one that would be written; None is no file."""
    if path is not None and path.suffix.lower() not in endings:
        raise InputError(
            argument, path, f"the file's name must end in {' or '.join(dict.fromkeys(filter(None, endings)))}"
        )


def check_directory_name(argument: str, path: Path | None) -> None:
    """Refuses a file's name for a new directory; None and directories that exist are none."""
    if path is not None and path.suffix.lower() in _FILE_ENDINGS and not path.is_dir():
        raise InputError(argument, path, f"names a directory here, and the name is a file's; leave {path.suffix} out")


def check_scale(argument: str, value: float) -> float:
    """Returns value if it can multiply a loss: finite and above zero."""
    if not (math.isfinite(value) and value > 0):
        raise InputError(argument, value, "a scale must be finite and above 0; give a number such as 1024 or 0.01")
    return value


def check_count(argument: str, value: int, minimum: int = 1) -> int:
    """Returns value if it is at least minimum."""
    if value < minimum:
        raise InputError(argument, value, f"must be at least {minimum}")
    return value
