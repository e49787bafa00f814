"""What the compiled step kernels contain: `python -m bench static`. No GPU is needed.

Every kernel that the registry can reach is compiled ahead of time and held against the limits: 16-byte accesses in the
main body, no stack, bytes per element at the floor, every floating-point operation rounded to nearest, and exactly the
operations of its recipe.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from lossscale.support import cli, errors, files
from lossscale.support.output import Output

from .variants import ARCHITECTURES, Variant, covering, variants

COLUMNS = ("algorithm", "recipe", "options", "dtype", "arch", "registers", "accesses", "bytes", "operations", "verdict")


def compile_variant(variant: Variant, kernel: Any = None) -> Mapping[str, Any]:
    """Triton's results for the variant: PTX text and cubin bytes under "ptx" and "cubin".

    Args:
        variant: what to compile.
        kernel: a step kernel with `step_kernel`'s arguments to compile in its place.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kernels import get_algorithm, step_kernel

    from .conformance.inputs import TORCH_DTYPES

    dtype = variant.dtypes
    constants = step_kernel.kernel_constants(
        get_algorithm(variant.algorithm).recipe(variant.recipe),
        variant.flags,
        states=variant.states,
        dtypes=(
            TORCH_DTYPES[dtype.param],
            TORCH_DTYPES[dtype.param],
            TORCH_DTYPES[dtype.state],
            TORCH_DTYPES[dtype.copy] if dtype.copy else None,
        ),
        scaled=variant.scaled,
        found_inf=variant.found_inf,
    )
    pointers = {
        "table_ptr": "*i64",
        "chunks_ptr": "*i32",
        "rows_ptr": "*fp64",
        "steps_ptr": "*fp32",
        "powers_ptr": "*fp32",
        "grad_scale_ptr": "*fp32",
        "found_inf_ptr": "*fp32",
    }
    signature = {**pointers, "tensors": "i32", **dict.fromkeys(constants, "constexpr")}
    # The launcher specialises on pointers that torch allocated: 16-byte aligned, but for the two scalars.
    aligned = {(index,): [["tt.divisibility", 16]] for index in range(5)}
    source = ASTSource(kernel or step_kernel.step_kernel, signature=signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", int(variant.arch.removeprefix("sm_")), 32)
    options = dict(step_kernel.launch_options(variant.states, scaled=variant.scaled))
    compiled: Mapping[str, Any] = triton.compile(source, target=target, options=options).asm
    return compiled


def examine(variant: Variant, kernel: Any = None) -> dict[str, Any]:
    """Compile a variant and hold it against the limits: a row whose `verdict` is "holds" or says what is broken."""
    from kernels import flags as bits
    from kernels import step_kernel

    from . import machine_code

    compiled = compile_variant(variant, kernel)
    used = machine_code.resources(compiled["cubin"])
    body = machine_code.main_body(compiled["ptx"])
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
    if improper := machine_code.improper_in(compiled["ptx"]):
        broken.append("not rounded to nearest: " + ", ".join(sorted({*improper})))
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
        "options": bits.describe(variant.flags),
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
    from .roofline import ELEMENT_BYTES

    dtype = variant.dtypes
    kept = [ELEMENT_BYTES[dtype.state]] * variant.states.bit_count()
    param = ELEMENT_BYTES[dtype.param]
    loaded = [param, param, *kept]
    stored = [param, *kept, *([param] if variant.scaled else []), *([ELEMENT_BYTES[dtype.copy]] if dtype.copy else [])]
    loads, stores = (sum(size * elements // 16 for size in sizes) for sizes in (loaded, stored))
    return loads, stores, sum(loaded) + sum(stored)


def _unlike_recipe(variant: Variant, found: Mapping[str, int], elements: int) -> list[str]:
    """How the main body's operations differ from the recipe's list."""
    from kernels import get_algorithm

    from .operations import expected

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
    for name in sorted({*found, *wanted.element} - {"round"}):
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
    at_operations = element.get("round", 0) if low_param else 0
    # A value that was rounded by its last operation needs no second rounding at its store, but may get one.
    least = max(at_operations, stored) * elements
    most = (at_operations + stored) * elements + (scalar.get("round", 0) if low_param else 0)
    return [] if least <= found <= most else [f"{found / elements:g} roundings per element, not {least / elements:g}"]


def run(chosen: list[Variant], processes: int) -> Iterator[dict[str, Any]]:
    """The rows of `chosen`, compiled in so many worker processes (1: here)."""
    if processes == 1:
        yield from map(examine, chosen)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(examine, chosen, chunksize=4)


def static_command(
    arch: Annotated[list[str] | None, typer.Option("--arch", metavar="sm_NN", help="Compile for it (repeat).")] = None,
    optimizer: Annotated[list[str] | None, typer.Option("--optimizer", help="Only this algorithm (repeat).")] = None,
    quick: cli.QuickOption = False,
    json: cli.JsonOption = False,
    out: cli.OutOption = None,
) -> int:
    """Compile every step kernel ahead of time and hold it against its limits; exit 1 when one is broken.

    Args:
        arch: targets, by default sm_80, sm_90 and sm_100.
        optimizer: algorithms, by default all.
        quick: a covering set instead of every option and dtype.
        json: print one JSON document.
        out: also write it there.
    """
    for name in arch or ():
        errors.check_choice("--arch", name, ARCHITECTURES)
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise errors.InputError(
            "TRITON_INTERPRET", os.environ["TRITON_INTERPRET"], "unset it: kernels are compiled here"
        )
    from kernels import ALGORITHMS

    for name in optimizer or ():
        errors.check_choice("--optimizer", name.lower(), ALGORITHMS)
    chosen = variants(arch or ARCHITECTURES, [name.lower() for name in optimizer] if optimizer else None)
    chosen = covering(chosen) if quick else chosen
    rows: list[dict[str, Any]] = []
    with Output(as_json=json) as output:
        import triton

        for row in run(chosen, max(1, min(len(os.sched_getaffinity(0)), len(chosen) // 8))):
            rows.append(row)
            if row["verdict"] != "holds" or len(rows) % 200 == 0:
                where = " ".join(str(row[name]) for name in COLUMNS[:5])
                output.note(f"{len(rows)}/{len(chosen)} {where}: {row['verdict']}")
        broken = [row for row in rows if row["verdict"] != "holds"]
        document = {"triton": triton.__version__, "kernels": len(rows), "broken": len(broken)}
        if out is not None:
            files.write_json(out, {"rows": rows, **document})
        title = f"Triton {triton.__version__}: {len(rows) - len(broken)} of {len(rows)} kernels are within their limits"
        # A person reads what is broken, or one line per recipe; the document has every kernel.
        output.table(
            rows if json else broken or _per_recipe(rows), None if not broken else COLUMNS, title=title, **document
        )
    return int(bool(broken))


def _per_recipe(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per (algorithm, recipe, arch)."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["algorithm"], row["recipe"], row["arch"]), []).append(row)
    return [
        {
            "algorithm": algorithm,
            "recipe": recipe,
            "arch": arch,
            "kernels": len(found),
            "registers": f"{min(r['registers'] for r in found)}-{max(r['registers'] for r in found)}",
            "bytes per element": " ".join(f"{b:g}" for b in sorted({r["bytes"] for r in found})),
            "verdict": "holds",
        }
        for (algorithm, recipe, arch), found in sorted(groups.items())
    ]
