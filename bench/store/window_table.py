"""The tables of the study `window`: from docs/window.csv, the thresholds.csv of its full run."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

HEAD: Final = (
    "policy",
    "denominator × storage",
    "φ",
    "last bits, s < 1 · s > 1",
    "beyond rounding, s < 1",
    "eps / (s · RMS g)",
    "loss, s < 1",
    "eps / (s · RMS g)",
    "beyond rounding, s > 1",
    "window",
    "limits",
)
_CAUSES: Final = {"E": "eps", "V": "range of v", "G": "range of g", "none: saturates": "saturates"}
_OPTIMIZERS: Final = ("adam", "adamw", "rmsprop", "adagrad")
_FORMATS: Final = ("fp32", "bf16", "fp16")
_BELOW, _ABOVE = "s < 1", "s > 1"

Row = Mapping[str, str]
Key = tuple[str, str, str, str]


def rows(path: Path, optimizer: str | None = None) -> Iterator[list[str]]:
    """A line per cell; of one optimizer, or of all with its name in front.

    Args:
        path: the CSV.
        optimizer: whose cells with torch's default arithmetic are shown; None for every cell.
    """
    found: dict[Key, dict[tuple[str, str], Row]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = (row["optimizer"], row["recipe"], row["policy"], row["lr"])
            found.setdefault(key, {})[row["kind"], row["side"]] = row
    for (name, recipe, policy, lr), cell in sorted(found.items(), key=lambda item: _place(item[0])):
        title = policy if lr == "0.01" else f"{policy}, lr {lr}"
        if optimizer is None:
            yield [name, recipe, title, *_line(cell)]
        elif name == optimizer and recipe == "foreach":
            yield [title, *_line(cell)]


def _place(key: Key) -> tuple[int, int]:
    """Optimizers in the order of the file's, the number formats one after the other, the odd learning rate last."""
    name, _, policy, lr = key
    return (_OPTIMIZERS.index(name), _FORMATS.index(policy.partition("-")[0]) + (lr != "0.01"))


def _line(cell: Mapping[tuple[str, str], Row]) -> list[str]:
    bits = [cell["run", side] for side in (_BELOW, _ABOVE)]
    below, above = (cell["floor", side] for side in (_BELOW, _ABOVE))
    loss = cell["outcome", _BELOW]
    formats = f"{below['denominator']} × {below['storage']}"
    if below["inits"] == "0":
        return [formats, "no finite run", *["—"] * (len(HEAD) - 3)]
    own = below["floor"] == below["mapped_floor"]
    return [
        formats,
        f"{float(below['floor']):.2g}" + ("" if own else f" (fp32’s; its own {float(below['mapped_floor']):.2g})"),
        f"{_power(bits[0]['q50'])} · {_power(bits[1]['q50'])}",
        _bracketed(below),
        _over(below),
        _power(loss["q50"]),
        _over(loss),
        _bracketed(above),
        ("≥ " if below["open"] == "True" else "") + f"{float(below['binades']):.0f}",
        f"{_limit(below)} · {_limit(above)}",
    ]


def _power(text: str) -> str:
    value = float(text)
    return f"2^{value:.0f}" if math.isfinite(value) else "none"


def _bracketed(row: Row) -> str:
    low, high = row["q50_lo"], row["q50_hi"]
    if not low or low == high == row["q50"]:
        return _power(row["q50"])
    return f"{_power(row['q50'])} [{_power(low)}, {_power(high)}]"


def _over(row: Row) -> str:
    return f"2^{round(float(row['eps_over_r']))}" if row["eps_over_r"] else "—"


def _limit(row: Row) -> str:
    return " and ".join(_CAUSES.get(cause, cause) for cause in row["limit"].split("+"))
