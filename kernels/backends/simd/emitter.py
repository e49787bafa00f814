"""A recording as LLVM IR: what is uniform once, as scalars; the rest as vectors of explicit width, or as scalars."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import triton.language as tl

from .code import Code
from .recorder import NARROW, WIDE, Operation, Recording, RecordingError

TYPES: Mapping[object, str] = {
    tl.float32: "float",
    tl.float64: "double",
    tl.bfloat16: "i16",
    tl.float16: "i16",
    tl.int1: "i1",
    tl.int16: "i16",
    tl.int32: "i32",
    tl.int64: "i64",
}
"""LLVM's type of each dtype; the narrow ones are their bits until they are widened."""
_FLOATING = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INTEGER = {
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "quotient": "sdiv",
    "remainder": "srem",
    "and": "and",
    "or": "or",
    "xor": "xor",
    "shl": "shl",
    "shr": "ashr",
}
_FCMP = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
_ICMP = {"lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge", "eq": "eq", "ne": "ne"}
_INTRINSICS = {"fma": "llvm.fma", "sqrt": "llvm.sqrt", "abs": "llvm.fabs"}


def uniforms(
    code: Code, recording: Recording, arrays: Mapping[str, str], inputs: Mapping[str, str]
) -> Mapping[int, str]:
    """Emit what all lanes share, once, as scalars; the values that `lanes` wants.

    Args:
        code: written to.
        recording: of which the uniform operations are taken.
        arrays: name to the address (``ptr``).
        inputs: name to the number, for those that are uniform.
    """
    emitter = _Emitter(code, 1, arrays, inputs, {})
    for operation in recording.operations:
        if operation.uniform and operation.name != "constant":
            emitter.emit(operation)
    return emitter.values


def lanes(
    code: Code,
    recording: Recording,
    shared: Mapping[int, str],
    arrays: Mapping[str, str],
    inputs: Mapping[str, str],
    width: int,
) -> None:
    """Emit what each lane does, ``width`` lanes at once; 1 for what is left over.

    Args:
        code: written to.
        recording: of which the other operations are taken.
        shared: from `uniforms`.
        arrays: name to the address (``ptr``).
        inputs: name to the first lane's number, for those that count lanes.
        width: lanes; floats of that many make a vector.
    """
    emitter = _Emitter(code, width, arrays, inputs, shared)
    wanted = _wanted(recording)
    for operation in recording.operations:
        if operation.number in wanted:
            emitter.emit(operation)


def _wanted(recording: Recording) -> set[int]:
    """Operations whose value is needed in every lane; an index that counts lanes is needed in the first alone."""
    wanted: set[int] = set()
    for operation in reversed(recording.operations):
        if operation.name == "store":
            wanted.add(operation.number)
        if operation.number in wanted:
            for needed in operation.needs:
                is_index = operation.name in ("load", "store") and needed is operation.operands[1]
                if not needed.uniform and not (is_index and _counts(needed)):
                    wanted.add(needed.number)
    return wanted


def _counts(operation: Operation) -> bool:
    """Whether an integer grows by one from lane to lane: a lane's number plus what is uniform."""
    if operation.name == "lanes":
        return True
    if operation.name == "cast":
        return operation.dtype == tl.int64 and _counts(operation.needs[0])
    if operation.name != "add":
        return False
    a, b = operation.needs
    return (a.uniform and _counts(b)) or (b.uniform and _counts(a))


class _Emitter:
    """Emits operations in one width."""

    def __init__(
        self,
        code: Code,
        width: int,
        arrays: Mapping[str, str],
        inputs: Mapping[str, str],
        shared: Mapping[int, str],
    ) -> None:
        self.code = code
        self.width = width
        self.arrays = arrays
        self.inputs = inputs
        self.shared = shared
        self.values: dict[int, str] = {}
        self._constants: dict[tuple[object, str], str] = {}
        self._splats: dict[int, str] = {}
        self._upper: dict[int, str] = {}

    def type(self, dtype: object) -> str:
        """LLVM's type of a value in all lanes."""
        return self._wide(TYPES[dtype])

    def _wide(self, kind: str) -> str:
        return kind if self.width == 1 else f"<{self.width} x {kind}>"

    def _suffix(self, dtype: object) -> str:
        name = "f64" if dtype == tl.float64 else "f32"
        return name if self.width == 1 else f"v{self.width}{name}"

    def constant(self, kind: str, value: float) -> str:
        """A number in all lanes."""
        key = kind, repr(value)
        if key not in self._constants:
            number = _literal(kind, value)
            lanes = f"<{', '.join([f'{kind} {number}'] * self.width)}>"
            self._constants[key] = number if self.width == 1 else lanes
        return self._constants[key]

    def splat(self, kind: str, scalar: str) -> str:
        """One number in all lanes."""
        if self.width == 1:
            return scalar
        vector = self._wide(kind)
        one = self.code.new(f"insertelement {vector} poison, {kind} {scalar}, i32 0")
        zeros = f"<{self.width} x i32> zeroinitializer"
        return self.code.new(f"shufflevector {vector} {one}, {vector} poison, {zeros}")

    def operand(self, operation: Operation) -> str:
        """Its value in all lanes."""
        if operation.name == "constant":
            return self.constant(TYPES[operation.dtype], operation.operands[0])
        if operation.number in self.values:
            return self.values[operation.number]
        if operation.number not in self._splats:
            scalar = self.shared[operation.number]
            self._splats[operation.number] = self.splat(TYPES[operation.dtype], scalar)
        return self._splats[operation.number]

    def first(self, operation: Operation) -> str:
        """The first lane's value of a uniform integer or of one that counts lanes."""
        if operation.name == "constant":
            return str(operation.operands[0])
        if operation.uniform:
            return self.shared[operation.number] if operation.number in self.shared else self.values[operation.number]
        if operation.name == "lanes":
            return self.inputs[operation.operands[0]]
        firsts = [self.first(needed) for needed in operation.needs]
        if operation.name == "cast":
            return self.code.new(f"sext {TYPES[operation.needs[0].dtype]} {firsts[0]} to i64")
        return self.code.new(f"add {TYPES[operation.dtype]} {firsts[0]}, {firsts[1]}")

    def emit(self, operation: Operation) -> None:
        """Write one operation; its operands are written already.

        Raises:
            RecordingError: if there is no code for it.
        """
        name, dtype = operation.name, operation.dtype
        if name == "store":
            self._store(operation)
            return
        self.values[operation.number] = self._memory(operation) or self._compute(name, dtype, operation)

    def _compute(self, name: str, dtype: object, operation: Operation) -> str:
        needs = operation.needs
        x = [self.operand(needed) for needed in needs]
        source = needs[0].dtype if needs else None
        kind = self.type(source) if needs else ""
        floating = source in WIDE
        if name == "cast":
            return self._cast(x[0], operation)
        if name == "bitcast":
            return self.code.new(f"bitcast {kind} {x[0]} to {self.type(dtype)}")
        if name == "where":
            result = self.type(dtype)
            return self.code.new(f"select {kind} {x[0]}, {result} {x[1]}, {result} {x[2]}")
        if name in _INTRINSICS and floating:
            return self.code.call(f"{_INTRINSICS[name]}.{self._suffix(dtype)}", kind, *((kind, value) for value in x))
        if name in _FCMP:
            compare = f"fcmp {_FCMP[name]}" if floating else f"icmp {_ICMP[name]}"
            return self.code.new(f"{compare} {kind} {x[0]}, {x[1]}")
        instruction = (_FLOATING if floating else _INTEGER).get(name)
        if instruction is None:
            raise RecordingError(f"{name} of {source}: no vector code for it ({operation.place})")
        return self.code.new(f"{instruction} {kind} {x[0]}, {x[1]}")

    # -- memory and inputs -------------------------------------------------------------------------------------------

    def _memory(self, operation: Operation) -> str:
        if operation.name == "load":
            return self._load(operation)
        if operation.name not in ("input", "lanes"):
            return ""
        given = self.inputs[operation.operands[0]]
        if operation.uniform:
            return given
        kind = TYPES[operation.dtype]
        if self.width == 1:
            return given
        count = f"<{', '.join(f'{kind} {lane}' for lane in range(self.width))}>"
        return self.code.new(f"add {self._wide(kind)} {self.splat(kind, given)}, {count}")

    def _load(self, operation: Operation) -> str:
        array, index = operation.operands
        kind = TYPES[operation.dtype]
        align = f"align {operation.dtype.primitive_bitwidth // 8}"
        if operation.uniform or _counts(index):
            address = self.code.address(kind, self.arrays[array], self.first(index))
            return self.code.new(f"load {self._wide(kind)}, ptr {address}, {align}")
        at, vector = self.operand(index), "poison"
        for lane in range(self.width):
            one = at if self.width == 1 else self.code.new(f"extractelement {self._wide('i64')} {at}, i32 {lane}")
            number = self.code.new(f"load {kind}, ptr {self.code.address(kind, self.arrays[array], one)}, {align}")
            if self.width == 1:
                return number
            vector = self.code.new(f"insertelement {self._wide(kind)} {vector}, {kind} {number}, i32 {lane}")
        return vector

    def _store(self, operation: Operation) -> None:
        array, index, value = operation.operands
        if not _counts(index):
            raise RecordingError(f"store to {array!r}: lanes are not neighbours ({operation.place})")
        kind = TYPES[operation.dtype]
        address = self.code.address(kind, self.arrays[array], self.first(index))
        align = f"align {operation.dtype.primitive_bitwidth // 8}"
        self.code.do(f"store {self._wide(kind)} {self.operand(value)}, ptr {address}, {align}")

    # -- conversions -------------------------------------------------------------------------------------------------

    def _cast(self, x: str, operation: Operation) -> str:
        source, target = operation.needs[0].dtype, operation.dtype
        if target == tl.bfloat16:
            # Most are widened again at once, from the upper half; LLVM drops the lower where nothing stores it.
            upper = self._upper[operation.number] = self._to_bfloat16(x)
            low = self.code.new(f"lshr {self._wide('i32')} {upper}, {self.constant('i32', 16)}")
            return self.code.new(f"trunc {self._wide('i32')} {low} to {self._wide('i16')}")
        if target == tl.float16:
            half = self.code.new(f"fptrunc {self.type(source)} {x} to {self._wide('half')}")
            return self.code.new(f"bitcast {self._wide('half')} {half} to {self.type(target)}")
        if source == tl.bfloat16 and operation.needs[0].number in self._upper:
            return self.code.new(
                f"bitcast {self._wide('i32')} {self._upper[operation.needs[0].number]} to {self.type(target)}"
            )
        if source == tl.bfloat16:
            wide = self.code.new(f"zext {self.type(source)} {x} to {self._wide('i32')}")
            high = self.code.new(f"shl {self._wide('i32')} {wide}, {self.constant('i32', 16)}")
            return self.code.new(f"bitcast {self._wide('i32')} {high} to {self.type(target)}")
        if source == tl.float16:
            half = self.code.new(f"bitcast {self.type(source)} {x} to {self._wide('half')}")
            return self.code.new(f"fpext {self._wide('half')} {half} to {self.type(target)}")
        return self.code.new(f"{_conversion(source, target)} {self.type(source)} {x} to {self.type(target)}")

    def _to_bfloat16(self, x: str) -> str:
        """The nearest bfloat16, ties to even, as the upper half of an i32; a NaN stays one, with its quiet bit set."""
        new, kind = self.code.new, self._wide("i32")

        def number(value: int) -> str:
            return self.constant("i32", value)

        bits = new(f"bitcast {self._wide('float')} {x} to {kind}")
        odd = new(f"and {kind} {new(f'lshr {kind} {bits}, {number(16)}')}, {number(1)}")
        half = new(f"add {kind} {bits}, {number(0x7FFF)}")
        rounded = new(f"add {kind} {half}, {odd}")
        quiet = new(f"or {kind} {bits}, {number(0x400000)}")
        is_nan = new(f"fcmp uno {self._wide('float')} {x}, {x}")
        chosen = new(f"select {self._wide('i1')} {is_nan}, {kind} {quiet}, {kind} {rounded}")
        return new(f"and {kind} {chosen}, {number(-0x10000)}")


def _conversion(source: object, target: object) -> str:
    """LLVM's instruction between two dtypes that are not narrow."""
    assert source not in NARROW and target not in NARROW
    if source in WIDE and target in WIDE:
        return "fpext" if target == tl.float64 else "fptrunc"
    if source in WIDE:
        return "fptosi"
    unsigned = source == tl.int1
    if target in WIDE:
        return "uitofp" if unsigned else "sitofp"
    narrower = target.primitive_bitwidth < source.primitive_bitwidth  # type: ignore[attr-defined]
    return "trunc" if narrower else "zext" if unsigned else "sext"


def _literal(kind: str, value: float) -> str:
    """A number as LLVM spells it: floating-point ones by the bits of their double, rounded to float32 before."""
    if kind in ("float", "double"):
        with np.errstate(over="ignore"):
            number = float(np.float32(value)) if kind == "float" else float(value)
        return f"0x{struct.unpack('<Q', struct.pack('<d', number))[0]:016X}"
    if kind == "i1":
        return "true" if value else "false"
    return str(int(value))
