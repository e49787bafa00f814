"""The table of causes of the study `window`: from docs/causes.csv, which `lossscale keep` writes of its full run."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .window_table import order, power

REPAIRED: Final = ("none", "E", "V", "G", "EV", "EG", "VG", "EVG")
HEAD: Final = (
    "optimizer",
    "recipe",
    "policy",
    "s",
    "deviate",
    "share of eps",
    "of v's range",
    "of g's range",
    "unexplained",
    "f: as it is",
    *(f"f: {' + '.join(names)} repaired" for names in REPAIRED[1:]),
    "by eps / v / g alone, joint",
)


def rows(causes: Path, thresholds: Path) -> Iterator[list[str]]:
    """A line per cell and side: the first power of two at which its median pair deviates by more than rounding.

    Args:
        causes: docs/causes.csv.
        thresholds: docs/window.csv.
    """
    borders = {(*_cell(row), row["q50"]) for row in _read(thresholds) if row["kind"] == "floor"}
    found = [row for row in _read(causes) if row["at"] == "run" and (*_cell(row), row["power"]) in borders]
    for row in sorted(found, key=lambda row: (*order(_cell(row)), row["policy"], row["recipe"], int(row["power"]))):
        name, recipe, policy, lr = _cell(row)
        yield [
            *(name, recipe, policy if lr == "0.01" else f"{policy}, lr {lr}", power(row["power"])),
            f"{row['deviating']} of {row['pairs']}",
            *(_share(row[column]) for column in ("share_E", "share_V", "share_G", "unexplained")),
            *(f"{float(row[f'f_{repaired}']):.1f}" for repaired in REPAIRED),
            f"{row['by_E']} / {row['by_V']} / {row['by_G']}, {row['by_joint']}",
        ]


def _share(text: str) -> str:
    return f"{float(text):.2f}".replace("-0.00", "0.00")


def _cell(row: dict[str, str]) -> tuple[str, str, str, str]:
    options = row["options"].removesuffix("=True")
    return f"{row['optimizer']} {options}".strip(), row["recipe"], row["policy"], row["lr"]


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
