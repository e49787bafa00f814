"""A compiled step kernel held against its limits.

16-byte accesses in the main body, no stack, bytes per element at the floor, every floating-point operation rounded to
nearest, and exactly the operations of its recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .compile import job_of
from .operations import expected
from .reading import read_job
from .variants import Variant


def examine(variant: Variant, kernel: Any = None) -> dict[str, Any]:
    """Compile a variant and hold it against the limits: a row whose `verdict` is "holds" or says what is broken."""
    from kernels import flags as bits
    from kernels import step_kernel

    reading = read_job(job_of(variant, kernel))
    used, body = reading.resources, reading.body
    elements = step_kernel.BLOCK // (32 * int(step_kernel.LAUNCH_OPTIONS["num_warps"]))
    loads, stores, floor = _accesses(variant, elements)
    measured = 16 * (used.loads_128 + used.stores_128) / elements
    broken = []
    if used.stack or used.spills:
        broken.append(f"{used.stack} bytes of stack, {used.spills} local accesses")
    if (used.loads_128, used.stores_128) != (loads, stores):
        broken.append(f"{used.loads_128} + {used.stores_128} 16-byte accesses, not {loads} + {stores}")
    if measured != floor:
        broken.append(f"{measured:g} bytes per element in 16-byte accesses, not {floor}")
    if reading.improper:
        broken.append("not rounded to nearest: " + ", ".join(sorted({*reading.improper})))
    if body is None:
        broken.append("no main body with 16-byte accesses")
    else:
        if body.narrow_stores:
            broken.append(f"{body.narrow_stores} narrow stores in the main body")
        broken += _unlike_recipe(variant, body.operations, elements)
    counted = {} if body is None else {name: count / elements for name, count in sorted(body.operations.items())}
    return {
        "algorithm": variant.algorithm,
        "recipe": variant.recipe,
        "options": bits.describe(variant.flags) + (f" rows={variant.rows}" if variant.rows else ""),
        "dtype": str(variant.dtypes),
        "arch": variant.arch,
        "registers": used.registers,
        "accesses": f"{used.loads_128} + {used.stores_128}",
        "bytes": measured,
        "operations": " ".join(f"{name} {count:.4g}" for name, count in counted.items()),
        "verdict": "; ".join(broken) or "holds",
    }


def _accesses(variant: Variant, elements: int) -> tuple[int, int, int]:
    """16-byte loads and stores a thread needs for its elements, and the bytes per element they come to."""
    from kernels import DTYPES

    dtype = variant.dtypes
    kept = [DTYPES[dtype.state].bytes] * variant.states.bit_count()
    param = DTYPES[dtype.param].bytes
    loaded = [param, param, *kept]
    stored = [param, *kept, *([param] if variant.scaled else []), *([DTYPES[dtype.copy].bytes] if dtype.copy else [])]
    loads, stores = (sum(size * elements // 16 for size in sizes) for sizes in (loaded, stored))
    return loads, stores, sum(loaded) + sum(stored)


def _unlike_recipe(variant: Variant, found: Mapping[str, int], elements: int) -> list[str]:
    """How the main body's operations differ from the recipe's list."""
    from kernels import get_algorithm

    recipe = get_algorithm(variant.algorithm).recipe(variant.recipe)
    wanted = expected(
        variant.algorithm,
        variant.recipe,
        variant.flags,
        variant.dtypes.param,
        recipe.unscale if variant.scaled else "",
    )
    if wanted is None:
        return []
    broken = []
    for name in sorted({*found, *wanted.element} - {"round", "round_state"}):
        each, once = wanted.element.get(name, 0), wanted.scalar.get(name, 0)
        # The compiler may move what is the same for all elements out of the body.
        if not elements * each <= found.get(name, 0) <= elements * each + once:
            broken.append(f"{found.get(name, 0) / elements:g} {name} per element, not {each} (+ {once} per thread)")
    return broken + _wrong_roundings(variant, found.get("round", 0), wanted.element, wanted.scalar, elements)


def _wrong_roundings(
    variant: Variant, found: int, element: Mapping[str, int], scalar: Mapping[str, int], elements: int
) -> list[str]:
    """Narrowings: every operation's, where the recipe rounds there; at least every low-precision store's."""
    dtype = variant.dtypes
    low_param, low_state = dtype.param != "fp32", dtype.state != "fp32"
    stored = (1 + variant.scaled) * low_param + variant.states.bit_count() * low_state + bool(dtype.copy)
    at_operations = element.get("round", 0) * low_param + element.get("round_state", 0) * low_state
    # A value that was rounded by its last operation needs no second rounding at its store, but may get one.
    least = max(at_operations, stored) * elements
    most = (at_operations + stored) * elements + (scalar.get("round", 0) if low_param else 0)
    return [] if least <= found <= most else [f"{found / elements:g} roundings per element, not {least / elements:g}"]
