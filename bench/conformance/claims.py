"""What a run shows about each provider: the strongest claim that holds, per optimizer, options and dtype."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .cases import DEFAULTS
from .rows import Outcome, Row

# From here a distance says that another formula was computed, not that it was rounded in another way.
FAR = 2**16


def strongest(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One line per (provider, optimizer, option set, dtype).

    Identity to the reference, over every case that could be compared; else the distance from float64 in ulp per step;
    else none. Scale equivariance (a run against the provider's own run on another loss) stands beside it.
    """
    cells: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.provider, row.optimizer, row.option_set, row.dtype), []).append(row)
    return [
        {
            "provider": provider,
            "optimizer": optimizer,
            "options": options,
            "dtype": dtype,
            "cases": len(found),
            **_claim(found),
        }
        for (provider, optimizer, options, dtype), found in cells.items()
    ]


def _claim(rows: Sequence[Row]) -> dict[str, Any]:
    own = [row for row in rows if row.against == row.provider]
    compared = [row for row in rows if row.against not in (row.provider, "float64")]
    measured = [row for row in rows if row.against == "float64" and row.outcome.compared]
    broken = [row for row in rows if row.outcome.broke]
    answered = [row for row in compared if row.outcome is Outcome.IDENTICAL or row.outcome.failed]
    ulp = max((row.max_ulp for row in measured), default=None)
    scaling = _scaling(own)
    differing = sum(row.outcome.failed for row in answered)
    tested = sum(row.outcome.compared or row.outcome.broke for row in rows)
    common = {"ulp": ulp, "scaling": scaling, "compared": tested, "answered": len(answered), "differing": differing}
    if rows and rows[0].option_set == DEFAULTS:
        # Which defaults a constructor has says nothing about arithmetic.
        return {"strength": None, "claim": "", **common, "answered": 0}
    if rows and all(row.outcome in (Outcome.UNSUPPORTED, Outcome.MISSING) for row in rows):
        return {"strength": 0, "claim": f"not offered: {rows[0].detail}", **common}
    if broken:
        return {"strength": 0, "claim": f"fails: {_last_line(broken[0].detail)}", **common}
    if answered and all(row.outcome is Outcome.IDENTICAL for row in answered):
        return {"strength": 3, "claim": f"identical to {answered[0].against}", **common}
    if ulp is not None and ulp <= FAR:
        return {"strength": 2, "claim": f"{ulp} ulp from float64 per step", **common}
    if ulp is not None:
        return {"strength": 1, "claim": "none: " + ("not a number" if ulp > 2**40 else f"{ulp:.1e} ulp"), **common}
    if answered:
        return {"strength": 1, "claim": f"none: {differing} of {len(answered)} cases differ", **common}
    return {"strength": None, "claim": "" if own else "nothing to compare with", **common}


def _scaling(rows: Sequence[Row]) -> str:
    """Whether 2^k times the loss with mapped hyperparameters repeats the run, bit for bit."""
    answered = [row for row in rows if row.outcome in (Outcome.IDENTICAL, Outcome.MISMATCH)]
    if not answered:
        return ""
    return "holds" if all(row.outcome is Outcome.IDENTICAL for row in answered) else "fails"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:160] if lines else ""


def summary(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per (provider, optimizer, dtype): the weakest of its cells' claims, and how many options have it."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((cell["provider"], cell["optimizer"], cell["dtype"]), []).append(cell)
    return [
        {"provider": provider, "optimizer": optimizer, "dtype": dtype, **_weakest(found)}
        for (provider, optimizer, dtype), found in groups.items()
    ]


def _weakest(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    counts = {name: sum(cell[name] for cell in cells) for name in ("cases", "compared")}
    offered = [cell for cell in cells if not cell["claim"].startswith("not offered")]
    if not offered:
        return {"options": f"0 of {len(cells)}", "claim": cells[0]["claim"], "scaling": "", "strength": 0, **counts}
    # Where none of an option's cases could be held against the reference, its distance is no weaker claim.
    held = [cell for cell in offered if cell["answered"] or cell["strength"] == 0] or offered
    least = min((cell["strength"] for cell in held if cell["strength"] is not None), default=None)
    weak = [cell for cell in held if cell["strength"] == least]
    worst = max(weak, key=lambda cell: cell["ulp"] or 0)
    scaling = {cell["scaling"] for cell in offered} - {""}
    return {
        "options": f"{len(held)} of {len(cells)}",
        "claim": worst["claim"],
        "scaling": "fails" if "fails" in scaling else "holds" if scaling else "",
        "strength": least,
        **counts,
    }
