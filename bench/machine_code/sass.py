"""Counting a kernel's machine instructions by what executes them: where time can go besides memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .compile import job_of
from .ptx import disassembled, resources
from .variants import Variant

_LINE = re.compile(
    r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(?P<name>[A-Z][A-Z0-9_]*(?:\.[A-Za-z0-9_]+)*)", re.MULTILINE
)
_DOUBLE = {"DADD", "DMUL", "DFMA", "DSETP", "DMNMX"}
_REGISTERS, _GRANULE, _WARP = 65536, 8, 32
"""Of a multiprocessor from sm_80 on, and how registers are handed out: so many a thread at a time."""


def counts(code: str) -> dict[str, int]:
    """Instructions of the main way, from the first 16-byte load to the last 16-byte store in address order.

    Divisions and roots stand there with their fast way; the slow ones are calls behind it.

    Args:
        code: nvdisasm's text of one kernel.

    Returns:
        ``instructions``, and among them ``double`` (double arithmetic), ``wide_conversions`` (between double and
        float32) and ``special`` (reciprocals and reciprocal roots, which divisions and roots begin with).
    """
    names = _LINE.findall(code)
    loads = [k for k, name in enumerate(names) if name.startswith("LDG") and ".128" in name]
    stores = [k for k, name in enumerate(names) if name.startswith("STG") and ".128" in name]
    if not loads or not stores:
        return dict.fromkeys(("instructions", "double", "wide_conversions", "special"), 0)
    body = names[loads[0] : stores[-1] + 1]
    return {
        "instructions": len(body),
        "double": sum(name.split(".")[0] in _DOUBLE for name in body),
        "wide_conversions": sum(name.startswith("F2F") and "F64" in name for name in body),
        "special": sum(name.startswith("MUFU") for name in body),
    }


def resident_warps(registers: int, warps: int) -> int:
    """Warps of such a kernel that a multiprocessor's registers hold at once, in whole programs."""
    held = -(-registers // _GRANULE) * _GRANULE * _WARP * warps
    return _REGISTERS // held * warps


def instructions(chosen: Sequence[Variant]) -> list[dict[str, Any]]:
    """One row a kernel: instructions an element, by kind, and how many warps are there to wait for memory."""
    from kernels import flags, step_kernel

    warps = int(step_kernel.LAUNCH_OPTIONS["num_warps"])
    elements = step_kernel.BLOCK // (_WARP * warps)
    rows = []
    for variant in chosen:
        cubin = job_of(variant).run()["cubin"]
        used = resources(cubin)
        rows.append(
            {
                "algorithm": variant.algorithm,
                "recipe": variant.recipe,
                "options": flags.describe(variant.flags),
                "dtype": str(variant.dtypes),
                "arch": variant.arch,
                "bytes": 16 * (used.loads_128 + used.stores_128) / elements,
                **{name: count / elements for name, count in counts(disassembled(cubin)).items()},
                "registers": used.registers,
                "warps": resident_warps(used.registers, warps),
            }
        )
    return rows
