"""Tracebacks as results keep them."""

from __future__ import annotations

import re
import traceback
from typing import Final

_PLACES: Final = re.compile(
    r'(?<=File ")/[^"]*?/(?:(?=(?:bench|kernels|lossscale)/)|(?:site|dist)-packages/|lib/python3(?:\.\d+)?/)'
)


def kept_traceback(*, limit: int | None = None, most: int | None = None) -> str:
    """The traceback of the exception being handled, without where checkout and packages lie on this machine.

    Args:
        limit: as `traceback.format_exc`.
        most: characters; the last are kept.
    """
    text = _PLACES.sub("", traceback.format_exc(limit=limit))
    return text if most is None else text[-most:]
