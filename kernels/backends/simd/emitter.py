"""A recording as LLVM IR: what is uniform once, as scalars; the rest as vectors of explicit width, or as scalars."""

from __future__ import annotations

from collections.abc import Mapping

import triton.language as tl

from .code import Code
from .nans import rounds_to_bfloat16, shared_numbers, short_nans
from .operations import WIDE, Operation, Recording, RecordingError
from .vectors import TYPES, Vectors

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
    emitter = _Emitter(code, 1, arrays, inputs, {}, {})
    for operation in recording.operations:
        if operation.uniform and operation.name != "constant":
            emitter.emit(operation)
    if rounds_to_bfloat16(recording):
        wide = {x.number: TYPES[x.dtype] for x in recording.operations}
        for number in sorted(shared_numbers(recording)):
            emitter.values[number] = emitter.short_nan(wide[number], emitter.values[number])
    return emitter.values


def lanes(
    code: Code,
    recording: Recording,
    shared: Mapping[int, str],
    arrays: Mapping[str, str],
    inputs: Mapping[str, str],
    width: int,
    ahead: Mapping[str, int] | None = None,
) -> None:
    """Emit what each lane does, ``width`` lanes at once; 1 for what is left over.

    Args:
        code: written to.
        recording: of which the other operations are taken.
        shared: from `uniforms`.
        arrays: name to the address (``ptr``).
        inputs: name to the first lane's number, for those that count lanes.
        width: lanes; floats of that many make a vector.
        ahead: name to bytes, for arrays of which memory is asked for so much ahead of what is loaded.
    """
    emitter = _Emitter(code, width, arrays, inputs, shared, ahead or {})
    emitter.short = short_nans(recording)
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


class _Emitter(Vectors):
    """Emits operations in one width."""

    def __init__(
        self,
        code: Code,
        width: int,
        arrays: Mapping[str, str],
        inputs: Mapping[str, str],
        shared: Mapping[int, str],
        ahead: Mapping[str, int],
    ) -> None:
        super().__init__(code, width)
        self.arrays = arrays
        self.inputs = inputs
        self.shared = shared
        self.ahead = ahead
        self.values: dict[int, str] = {}
        self._splats: dict[int, str] = {}

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
            return self.cast(x[0], operation)
        if name == "bitcast":
            return self.code.new(f"bitcast {kind} {x[0]} to {self.type(dtype)}")
        if name == "where":
            result = self.type(dtype)
            return self.code.new(f"select {kind} {x[0]}, {result} {x[1]}, {result} {x[2]}")
        if name in _INTRINSICS and floating:
            return self.code.call(f"{_INTRINSICS[name]}.{self.suffix(dtype)}", kind, *((kind, value) for value in x))
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
        return self.code.new(f"add {self.wide(kind)} {self.splat(kind, given)}, {count}")

    def _load(self, operation: Operation) -> str:
        array, index = operation.operands
        kind = TYPES[operation.dtype]
        align = f"align {operation.dtype.primitive_bitwidth // 8}"
        if operation.uniform or _counts(index):
            address = self.code.address(kind, self.arrays[array], self.first(index))
            if array in self.ahead and not operation.uniform:
                self.code.fetch(self.code.address("i8", address, str(self.ahead[array])))
            return self.code.new(f"load {self.wide(kind)}, ptr {address}, {align}")
        at, vector = self.operand(index), "poison"
        for lane in range(self.width):
            one = at if self.width == 1 else self.code.new(f"extractelement {self.wide('i64')} {at}, i32 {lane}")
            number = self.code.new(f"load {kind}, ptr {self.code.address(kind, self.arrays[array], one)}, {align}")
            if self.width == 1:
                return number
            vector = self.code.new(f"insertelement {self.wide(kind)} {vector}, {kind} {number}, i32 {lane}")
        return vector

    def _store(self, operation: Operation) -> None:
        array, index, value = operation.operands
        if not _counts(index):
            raise RecordingError(f"store to {array!r}: lanes are not neighbours ({operation.place})")
        kind = TYPES[operation.dtype]
        address = self.code.address(kind, self.arrays[array], self.first(index))
        align = f"align {operation.dtype.primitive_bitwidth // 8}"
        self.code.do(f"store {self.wide(kind)} {self.operand(value)}, ptr {address}, {align}")
