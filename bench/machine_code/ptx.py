"""Reading what a compiler made: PTX for the arithmetic, the machine code for memory accesses, stack and registers."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_LABEL = re.compile(r"^\$L__BB\d+_\d+:")
_INSTRUCTION = re.compile(r"^\s*(?:@!?%p\d+\s+)?(?P<name>[a-z][a-z0-9_]*(?:\.[a-z0-9_:]+)*)")
_ARITHMETIC = {
    *("add", "sub", "mul", "fma", "mad", "div", "sqrt", "rsqrt", "rcp", "ex2", "lg2", "sin", "cos", "tanh"),
    *("min", "max"),
}
_FLOAT = {"f32", "f64", "f16", "bf16", "f32x2", "f16x2", "bf16x2"}
_NARROW = {"f16", "bf16", "f16x2", "bf16x2"}


@dataclass(frozen=True, kw_only=True)
class Body:
    """The straight-line code of one way through a kernel.

    Attributes:
        operations: floating-point operations by the names of `operations.py`, `round` included.
        improper: operations without `.rn`, approximate ones, flushing ones, each as written.
        vector_bytes: bytes of each vector access to global memory.
        narrow_stores: stores to global memory that are not 16 bytes wide.
        narrow_loads: loads from global memory that are not 16 bytes wide (table entries).
    """

    operations: Counter[str]
    improper: tuple[str, ...]
    vector_bytes: tuple[int, ...]
    narrow_stores: int
    narrow_loads: int


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the assembler reports, and global accesses of the machine code by width."""

    registers: int
    stack: int
    spills: int
    shared: int
    loads_128: int
    stores_128: int


def blocks(ptx: str) -> list[list[str]]:
    """Basic blocks: lists of instruction lines."""
    found: list[list[str]] = [[]]
    for line in ptx.splitlines():
        if _LABEL.match(line):
            found.append([])
            continue
        if _INSTRUCTION.match(line) and not line.lstrip().startswith("."):
            found[-1].append(line.strip())
            if re.search(r"\bbra\b|\bret\b|\bbra\.uni\b", line):
                found.append([])
    return [block for block in found if block]


def main_body(ptx: str) -> Body | None:
    """The body with 16-byte stores; None when there is none."""
    bodies = [block for block in blocks(ptx) if any("st.global" in line and ".v4." in line for line in block)]
    return read(bodies[0]) if len(bodies) == 1 else None


def improper_in(ptx: str) -> tuple[str, ...]:
    """Every improperly rounded operation of a kernel, in all of its blocks."""
    return tuple(name for block in blocks(ptx) for name in read(block).improper)


def read(block: list[str]) -> Body:
    """Counts of a basic block."""
    operations: Counter[str] = Counter()
    improper: list[str] = []
    vectors: list[int] = []
    narrow_stores = narrow_loads = 0
    ones = {match[1] for line in block if (match := re.match(r"mov\.b16\s+(%rs\d+), 0x3F80;", line))}
    for line in block:
        match = _INSTRUCTION.match(line)
        assert match
        name, *suffixes = match["name"].split(".")
        types = [suffix for suffix in suffixes if suffix in _FLOAT]
        if name in ("ld", "st") and "global" in suffixes:
            width = _access_bytes(suffixes)
            if width == 16:
                vectors.append(width)
            elif name == "st":
                narrow_stores += 1
            else:
                narrow_loads += 1
        elif name in _ARITHMETIC and types:
            # sm_80 has no bfloat16 addition: it multiplies by 1.
            plus = name == "fma" and types[0] == "bf16" and bool(ones & set(re.findall(r"%rs\d+", line)[1:3]))
            operations.update(_operation("add" if plus else name, types))
            if _is_improper(name, suffixes):
                improper.append(match["name"])
        elif name == "cvt" and types and types[0] in _NARROW:
            operations["round"] += 2 if types[0].endswith("x2") else 1
            if "rn" not in suffixes:
                improper.append(match["name"])
        elif name == "cvt" and types[:2] == ["f32", "f64"] and "rn" not in suffixes:
            improper.append(match["name"])
    return Body(
        operations=operations,
        improper=tuple(improper),
        vector_bytes=tuple(vectors),
        narrow_stores=narrow_stores,
        narrow_loads=narrow_loads,
    )


def _access_bytes(suffixes: list[str]) -> int:
    lanes = next((int(suffix[1:]) for suffix in suffixes if re.fullmatch(r"v[248]", suffix)), 1)
    bits = next(int(suffix[1:]) for suffix in reversed(suffixes) if re.fullmatch(r"[bsuf]\d+", suffix))
    return lanes * bits // 8


def _operation(name: str, types: list[str]) -> dict[str, int]:
    """What the instruction does, by the names in `operations.py`; a packed one counts twice."""
    name = "add" if name == "sub" else name
    count = 2 if types[0].endswith("x2") else 1
    if types[0] in _NARROW:
        # LLVM narrows the sum of two narrow values to one narrow sum. float32 has more than twice their digits, and so
        # the two roundings that this saves were one: the bits are the same. For an fma they would not be.
        return {name: count, "round": count} if name in ("add", "mul", "div") else {f"{name} in {types[0]}": count}
    # Blackwell's mixed form, fma.rn.f32.bf16, widens an operand exactly.
    return {name + ("64" if types[0] == "f64" else ""): count}


def _is_improper(name: str, suffixes: list[str]) -> bool:
    unrounded = "rn" not in suffixes and name not in ("min", "max")
    return unrounded or bool({"approx", "full", "ftz"} & {*suffixes}) or name in ("rsqrt", "rcp", "ex2", "lg2")


def _tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def disassembled(cubin: bytes) -> str:
    """The machine code of a compiled kernel as text, by Triton's own binary tools."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([_tool("nvdisasm"), file.name], capture_output=True, text=True, check=True).stdout


def resources(cubin: bytes) -> Resources:
    """Registers, stack, spills and 16-byte accesses of a compiled kernel, by Triton's own binary tools."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run(
            [_tool("cuobjdump"), "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    code = disassembled(cubin)
    numbers = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    names = Counter(re.findall(r"\b((?:LDG|STG|LDL|STL)\.?\S*)", code))
    return Resources(
        registers=numbers["REG"],
        stack=numbers["STACK"] + numbers.get("LOCAL", 0),
        spills=sum(count for name, count in names.items() if name.startswith(("LDL", "STL"))),
        shared=numbers["SHARED"],
        loads_128=sum(count for name, count in names.items() if name.startswith("LDG") and ".128" in name),
        stores_128=sum(count for name, count in names.items() if name.startswith("STG") and ".128" in name),
    )
