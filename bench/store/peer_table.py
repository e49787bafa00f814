"""The table of what holds for other optimizers: from the results of `bench conform` in bench/results/cpu-peers/."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .kept import read_json

_ORDER: Final = ("optimi", "optimi-kahan", "bitsandbytes", "torchao", "torch-compiled", "torch-fused", "torch-foreach")
"""Other packages first; what is not named follows in alphabetical order."""
_DTYPES: Final = ("fp32", "bf16", "fp16")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The folder's results by provider."""
    names = sorted(path.stem for path in folder.glob("*.json"))
    order = sorted(names, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    return {name: read_json(folder / f"{name}.json") for name in order}


def table(results: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and lines: a line per provider and optimizer, a column per dtype; no line where nothing was compared."""
    lines = []
    for provider, result in results.items():
        cells: dict[str, dict[str, str]] = {}
        for row in result["summary"]:
            cells.setdefault(row["optimizer"], {})[row["dtype"]] = _words(row["claim"])
        lines += [
            [provider, optimizer, *(claims.get(dtype, "–") for dtype in _DTYPES)]
            for optimizer, claims in cells.items()
            if set(claims.values()) != {"–"}
        ]
    return ["provider", "optimizer", *_DTYPES], lines


def origin(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Where the results come from: processor, packages, revision."""
    found = [result["provenance"] for result in results.values()]
    names = ("torch", "torch-optimi", "bitsandbytes", "torchao")
    packages = [f"{name} {found[0]['packages'][name]}" for name in names]
    compared = sum(row["compared"] for result in results.values() for row in result["summary"])
    return (
        f"{found[0]['processor']} with {found[0]['cpu_capability']}; {', '.join(packages)}; "
        f"revision {found[0]['git_revision'][:10]}; {compared:,} comparisons."
    )


def _words(claim: str) -> str:
    """A claim as short as a cell of the table."""
    if not claim or claim.startswith("not offered"):
        return "–"
    if "replaced parameters" in claim:
        return "fails: replaces parameters"
    return claim.removesuffix(" from float64 per step").replace("identical to", "=")
