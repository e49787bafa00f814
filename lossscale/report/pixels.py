"""Arrays of colours as pictures in a page: a PNG with a palette, one pixel an element."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def palette_uri(places: npt.NDArray[np.uint8], colors: Sequence[str]) -> str:
    """The picture as a data URI.

    Args:
        places: [rows, columns] of the palette, the first row at the top.
        colors: the palette, such as ``#0072B2``, at most 256.
    """
    rows, columns = places.shape
    lines = np.zeros((rows, columns + 1), np.uint8)  # every line begins with its filter: none
    lines[:, 1:] = places
    palette = bytes.fromhex("".join(color.removeprefix("#") for color in colors))
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)  # eight bits, a palette, not interlaced
    parts = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
