"""Names that a user types, in any case and with any separators: `adam`, `Adam`, `adam_atan2`, `AdamAtan2`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from lossscale.support.errors import InputError


def fold(name: str) -> str:
    """A name without what nobody remembers: case, hyphens and underscores."""
    return name.casefold().replace("-", "").replace("_", "")


def choose(argument: str, value: str, choices: Iterable[str]) -> str:
    """The choice that is meant.

    Raises:
        InputError: if there is none; it names the nearest, whatever its case, and all of them.
    """
    known = list(choices)
    if value in known:
        return value
    folded: dict[str, str] = {}
    for name in known:
        folded.setdefault(fold(name), name)
    if fold(value) in folded:
        return folded[fold(value)]
    nearest = difflib.get_close_matches(fold(value), folded, n=1)
    suggestion = f"did you mean {folded[nearest[0]]}? " if nearest else ""
    raise InputError(
        argument, value, f"unknown; {suggestion}choose from {', '.join(known) or 'nothing: none is available'}"
    )


def choose_all(argument: str, values: Iterable[str] | None, choices: Iterable[str]) -> list[str]:
    """The choices that are meant, once each; all of them when none is named."""
    known = list(choices)
    return list(dict.fromkeys(choose(argument, value, known) for value in values or known))
