"""Which launch shape the step kernels have: what is left to try, what is chosen, and where it is written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lossscale.support import files

Shape = tuple[int, int]
"""Block and warps."""
# A shape must beat the one at hand by so much of a copy before anybody's machine code is changed for it.
_WORTH = 0.005
HALVED_AFTER = (2, 6)
"""Kernels measured, after which half of the shapes that are left go: what all kernels share is decided by its worst."""
_FEWEST = 4


def kernel_of(row: dict[str, Any]) -> tuple[str, str, str]:
    """Whose row it is: optimizer, recipe and dtype."""
    return row["optimizer"], row["recipe"], row["dtype"]


def losses(rows: Sequence[dict[str, Any]]) -> dict[Shape, float]:
    """Of every shape tried on all kernels in the rows: the largest share of a kernel's best that it gives up."""
    best: dict[tuple[str, str, str], float] = {}
    for row in rows:
        best[kernel_of(row)] = max(best.get(kernel_of(row), 0.0), row["gb_per_s"])
    found: dict[Shape, list[float]] = {}
    for row in rows:
        shape = (row["block"], row["num_warps"])
        found.setdefault(shape, []).append(1 - row["gb_per_s"] / best[kernel_of(row)])
    return {shape: max(lost) for shape, lost in found.items() if len(lost) == len(best)}


def shapes_left(rows: Sequence[dict[str, Any]], shapes: Sequence[Shape], now: Shape) -> list[Shape]:
    """The shapes that the next kernel is tried with: all, and after `HALVED_AFTER` kernels the better half each time.

    A shape that was not tried on an earlier kernel cannot be chosen any more. The shape at hand stays.
    """
    lost = losses(rows)
    measured = len({kernel_of(row) for row in rows})
    left = [shape for shape in shapes if shape in lost] if rows else list(shapes)
    kept = max(_FEWEST, len(shapes) >> sum(measured >= after for after in HALVED_AFTER))
    best = set(sorted(left, key=lambda shape: lost.get(shape, 0.0))[:kept])
    return [shape for shape in left if shape in best or shape == now]


def choose_shape(rows: Sequence[dict[str, Any]], now: Shape) -> dict[str, Any]:
    """The one shape that all kernels have: the one that loses least, at its worst kernel, against each kernel's best.

    Only shapes that were tried on every kernel can be. The shape at hand stays unless another loses `_WORTH` less.

    Returns:
        block, num_warps and ``worst_loss``, the largest share of a kernel's best rate that it gives up; ``now_loss`` is
        that of the shape at hand, None if it was not tried.
    """
    lost = losses(rows)
    chosen = min(lost, key=lambda shape: lost[shape])
    if now in lost and lost[now] - lost[chosen] < _WORTH:
        chosen = now
    return {
        "block": chosen[0],
        "num_warps": chosen[1],
        "worst_loss": lost[chosen],
        "now_loss": lost.get(now),
    }


_BLOCK_LINES = re.compile(r'^BLOCK = \d+\n"""(?P<first>[^"]*?)\n\n[^"]*"""$', re.MULTILINE)
_WARPS = re.compile(r'^(LAUNCH_OPTIONS = \{"num_warps": )\d+', re.MULTILINE)


def write_constants(path: Path, document: dict[str, Any]) -> None:
    """Put the chosen shape, and the measurement that chose it, into the source of the step kernel.

    Raises:
        ValueError: if the source has no such constants.
    """
    chosen, machine = document["chosen"], document["provenance"]
    block, warps = chosen["block"], chosen["num_warps"]
    measured = (
        f"{machine['device_name']}, Triton {machine['packages']['triton']}, one tensor of {document['elements']:,}\n"
        f"(`bench tune`): within {100 * chosen['worst_loss']:.1f}% of the best shape for every kernel tried."
    )
    each = block // (32 * warps)
    first = f"Elements per program on a GPU: {each} per thread at {warps} warps."
    text = path.read_text(encoding="utf-8")
    text, blocks = _BLOCK_LINES.subn(lambda _: f'BLOCK = {block}\n"""{first}\n\n{measured}\n"""', text)
    text, options = _WARPS.subn(rf"\g<1>{warps}", text)
    if (blocks, options) != (1, 1):
        raise ValueError(f"{path.name} does not have BLOCK and LAUNCH_OPTIONS where they are looked for")
    files.write_text(path, text)
