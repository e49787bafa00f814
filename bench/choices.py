"""Names that a user types, in any case and with any separators: `adam`, `Adam`, `adam_atan2`, `AdamAtan2`."""

from __future__ import annotations

from collections.abc import Iterable

from lossscale.support.errors import choose, fold

__all__ = ["choose", "choose_all", "fold"]


def choose_all(argument: str, values: Iterable[str] | None, choices: Iterable[str]) -> list[str]:
    """The choices that are meant, once each; all of them when none is named."""
    known = list(choices)
    return list(dict.fromkeys(choose(argument, value, known) for value in values or known))
