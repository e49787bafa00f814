"""Tracebacks as results keep them."""

from __future__ import annotations

import re
import traceback
from typing import Final

_PLACES: Final = re.compile(
    r'(?<=File ")/[^"]*?/(?:(?=(?:bench|kernels|lossscale)/)|(?:site|dist)-packages/|lib/python3(?:\.\d+)?/)'
)
_STEERING: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters, but for tabs and ends of lines."""


def kept_traceback(*, limit: int | None = None, most: int | None = None) -> str:
    """The traceback of the exception being handled, without where checkout and packages lie on this machine.

    Args:
        limit: as `traceback.format_exc`.
        most: characters; the last are kept.
    """
    text = _writable(without_places(traceback.format_exc(limit=limit)))
    return text if most is None else text[-most:]


def first_line(error: BaseException) -> str:
    """What an exception says, its first line; its class may fail to say anything."""
    said = traceback.format_exception_only(error)[-1] if _is_unprintable(error) else str(error)
    return _writable(said.splitlines()[0]) if said else ""


def _writable(text: str) -> str:
    """A text with a question mark for what no file takes (half of a pair of code units) or what steers a terminal."""
    return _STEERING.sub("?", text.encode(errors="replace").decode())


def _is_unprintable(error: BaseException) -> bool:
    try:
        return not isinstance(str(error), str)
    except Exception:
        return True


def without_places(text: str) -> str:
    """What a process printed, its tracebacks without where checkout and packages lie on this machine."""
    return _PLACES.sub("", text)
