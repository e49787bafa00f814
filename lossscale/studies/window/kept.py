"""What documents keep of a run: its thresholds, its causes thinned out, and a small sheet of diagrams per optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from ...support.files import write_text
from .frames import MOVED_ON, read_frame
from .look import Drawing
from .picture import draw
from .script import CAUSES_TABLE, THRESHOLDS

EVERY: Final = 4
"""Of the powers of two that are no borders one in so many is kept."""

_CELL: Final = ["optimizer", "options", "recipe", "policy", "lr"]
_SMALL, _LARGE = 90, 130
"""Dots per inch of a sheet: of the first optimizer's, which stands in the text, and of the others'."""


def keep(run: Path, folder: Path, drawings: Sequence[Drawing], steps: int) -> Iterator[Path]:
    """Write the files and yield their paths.

    Args:
        run: a finished one.
        folder: where to.
        drawings: of the run, in the study's order.
        steps: how many its runs have.
    """
    yield _written(folder / "window.csv", (run / THRESHOLDS).read_text(encoding="utf-8"))
    kept = thinned(read_frame(run / CAUSES_TABLE), read_frame(run / THRESHOLDS))
    yield _written(folder / CAUSES_TABLE, kept.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    sheets = list(dict.fromkeys(drawn.cell.typed for drawn in drawings))
    for place, typed in enumerate(sheets):
        name = typed.partition("=")[0].replace(":", "-")
        out = folder / ("window.png" if not place else f"window-{name}.png")
        own = [drawn for drawn in drawings if drawn.cell.typed == typed]
        draw(own, steps, out, dots=_SMALL if place else _LARGE)
        yield out


def thinned(causes: pd.DataFrame, thresholds: pd.DataFrame) -> pd.DataFrame:
    """The rows of the powers divisible by `EVERY`, and of every cell's median borders beyond rounding."""
    borders = thresholds[(thresholds["kind"] == MOVED_ON) & (thresholds["inits"] > 0)]
    at = set(borders[[*_CELL, "q50"]].itertuples(index=False, name=None))
    border = [key in at for key in causes[[*_CELL, "power"]].itertuples(index=False, name=None)]
    return causes[(causes["power"] % EVERY == 0) | pd.Series(border, index=causes.index)]


def _written(path: Path, text: str) -> Path:
    write_text(path, text)
    return path
