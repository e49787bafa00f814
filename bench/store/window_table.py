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
ANSWER_HEAD: Final = ("numbers", "notices", "Adam", "RMSprop", "Adagrad")
_ANSWERED: Final = ("adam", "rmsprop", "adagrad")
_NUMBERS: Final = {
    "fp32": "all float32",
    "bf16-mixed": "passes in bfloat16 (bf16-mixed)",
    "bf16-state": "moments in bfloat16 (bf16-state)",
    "bf16-true": "all bfloat16 (bf16-true)",
    "fp16-mixed": "passes in float16 (fp16-mixed)",
    "fp16-state": "moments in float16 (fp16-state)",
    "fp16-true": "all float16, eager (fp16-true)",
}
_CAUSES: Final = {"E": "eps", "V": "range of v", "G": "range of g", "none: saturates": "saturates"}
_OPTIMIZERS: Final = ("adam", "adam amsgrad", "adamw", "rmsprop", "adagrad")
_FORMATS: Final = ("fp32", "bf16", "fp16")
_BELOW, _ABOVE = "s < 1", "s > 1"
_FULL: Final = 1024
"""Initialisations of a cell."""
_MOVED: Final = 0.5
"""With a smaller share of moved elements a cell is stalled, and its numbers are no answers."""

Row = Mapping[str, str]
Key = tuple[str, str, str, str]
Place = tuple[str, str]
"""Kind of threshold and side."""


def rows(path: Path) -> Iterator[list[str]]:
    """A line per cell, its optimizer and recipe in front.

    Args:
        path: the CSV.
    """
    for (name, recipe, policy, lr), cell in sorted(_cells(path).items(), key=lambda item: order(item[0])):
        yield [name, recipe, policy if lr == "0.01" else f"{policy}, lr {lr}", *_line(cell)]


def answers(path: Path) -> Iterator[list[str]]:
    """From which s and eps / (s · RMS g) on the weights differ by more than rounding, and the loss, per number format.

    Torch's default arithmetic, learning rate and eps of the study; medians over initialisations.

    Args:
        path: the CSV.
    """
    cells = _cells(path)
    for policy, title in _NUMBERS.items():
        of = [cells[name, "foreach", policy, "0.01"] for name in _ANSWERED]
        if any(int(cell["floor", _BELOW]["inits"]) == _FULL for cell in of):
            yield [title, "weights", *(_answer(cell, "floor") for cell in of)]
            yield ["", "loss", *(_answer(cell, "outcome") for cell in of)]
        else:
            yield [title, "", *(_answer(cell, "floor") for cell in of)]


def _answer(cell: Mapping[Place, Row], kind: str) -> str:
    """The scales at which something happens; where not all initialisations can be judged, how many can."""
    inits = int(cell["floor", _BELOW]["inits"])
    if inits == 0:
        return "no finite run"
    return _from(cell[kind, _BELOW], cell[kind, _ABOVE]) if inits >= _FULL else f"only {inits} finite runs"


def _from(below: Row, above: Row) -> str:
    """As ``≤ 2^-12 (2^-11), ≥ 2^15``: in parentheses eps / (s · RMS g) at the border below 1."""
    over = f" ({_over(below)})" if below["eps_over_r"] else ""
    if (below["q50"], above["q50"]) == ("-1", "1"):
        return f"any s{over}"
    ends = [f"≤ {_bracketed(below)}{over}"] if math.isfinite(float(below["q50"])) else []
    ends += [f"≥ {_bracketed(above)}"] if math.isfinite(float(above["q50"])) else []
    return ", ".join(ends) or "none"


def _cells(path: Path) -> dict[Key, dict[Place, Row]]:
    found: dict[Key, dict[Place, Row]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            options = row["options"].removesuffix("=True")
            key = (f"{row['optimizer']} {options}".strip(), row["recipe"], row["policy"], row["lr"])
            found.setdefault(key, {})[row["kind"], row["side"]] = row
    return found


def order(key: Key) -> tuple[int, int]:
    """Optimizers in the order of the file's, the number formats one after the other, the odd learning rate last."""
    name, _, policy, lr = key
    return (_OPTIMIZERS.index(name), _FORMATS.index(policy.partition("-")[0]) + (lr != "0.01"))


def _line(cell: Mapping[Place, Row]) -> list[str]:
    bits = [cell["run", side] for side in (_BELOW, _ABOVE)]
    below, above = (cell["floor", side] for side in (_BELOW, _ABOVE))
    loss = cell["outcome", _BELOW]
    formats = f"{below['denominator']} × {below['storage']}"
    if below["inits"] == "0":
        return [formats, "no finite run", *["—"] * (len(HEAD) - 3)]
    if float(below["moved"]) < _MOVED:
        return [formats, f"stalled: {float(below['moved']):.1%} of the elements move", *["—"] * (len(HEAD) - 3)]
    own = below["floor"] == below["mapped_floor"]
    return [
        formats,
        f"{float(below['floor']):.2g}" + ("" if own else f" (fp32’s; its own {float(below['mapped_floor']):.2g})"),
        f"{power(bits[0]['q50'])} · {power(bits[1]['q50'])}",
        _bracketed(below),
        _over(below),
        _bracketed(loss),
        _over(loss),
        _bracketed(above),
        ("≥ " if below["open"] == "True" else "") + f"{float(below['binades']):.0f}",
        f"{_limit(below)} · {_limit(above)}",
    ]


def power(text: str) -> str:
    """``2^-7``, or ``none`` of what never happens."""
    value = float(text)
    return f"2^{value:.0f}" if math.isfinite(value) else "none"


def _bracketed(row: Row) -> str:
    """A power, with its 95 % interval, or the powers that the tests of the loss leave open, where that is wider."""
    low, high = row["q50_lo"], row["q50_hi"]
    if row["kind"] == "outcome" and row["last_equivalent"]:
        first, last = float(row["q50"]), float(row["last_equivalent"])
        if math.isfinite(first) and abs(first - last) > 1:
            low, high = map(str, sorted((first, last + math.copysign(1.0, first))))
    if not low or low == high == row["q50"]:
        return power(row["q50"])
    return f"{power(row['q50'])} [{power(low)}, {power(high)}]"


def _over(row: Row) -> str:
    return f"2^{round(float(row['eps_over_r']))}" if row["eps_over_r"] else "—"


def _limit(row: Row) -> str:
    return " and ".join(_CAUSES.get(cause, cause) for cause in row["limit"].split("+"))
