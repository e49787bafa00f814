"""What is recorded: values that note what is done to them, and pointers into named arrays."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton.language as tl

WIDE = (tl.float32, tl.float64)
"""What is computed with."""
NARROW = (tl.bfloat16, tl.float16)
"""What is only stored, loaded, and converted from and to float32."""
INTEGERS = (tl.int1, tl.int16, tl.int32, tl.int64)
"""From the narrowest to the widest: two that meet take the wider."""

_HERE = str(Path(__file__).parent)


class RecordingError(TypeError):
    """A rule does something that cannot be recorded or emitted; the message names it and the rule's file and line."""


def _place() -> str:
    """``file:line`` of what called into this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def refuse(what: str) -> RecordingError:
    """The error for something that cannot be recorded, at the rule's line."""
    return RecordingError(f"{what} ({_place()})")


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation:
    """One operation of a recording.

    Attributes:
        number: its position in the recorder.
        name: what is done, such as ``"fma"``.
        operands: operations, after the array's name for memory; an input's name, a constant's value.
        dtype: of the result; of what is stored for a store.
        uniform: whether all lanes have the same result.
        place: ``file:line`` of the rule.
    """

    number: int
    name: str
    operands: tuple[Any, ...]
    dtype: Any
    uniform: bool
    place: str

    @property
    def needs(self) -> tuple[Operation, ...]:
        """The operations among its operands."""
        return tuple(x for x in self.operands if isinstance(x, Operation))


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Straight-line code: the operations that a store needs, in the order in which they were recorded.

    Attributes:
        operations: every operand stands before its use.
        arrays: name to dtype, of memory that is read or written.
        inputs: name to operation, of the numbers given at each run (those that no store needs included).
    """

    operations: tuple[Operation, ...]
    arrays: dict[str, Any]
    inputs: dict[str, Operation]


def plain(x: Any) -> Any:
    """A constexpr's value; anything else as it is."""
    return x.value if isinstance(x, tl.constexpr) else x


class Recorder:
    """Notes operations; equal ones are one."""

    def __init__(self) -> None:
        self._operations: list[Operation] = []
        self._known: dict[Any, Operation] = {}
        self._arrays: dict[str, Any] = {}
        self._inputs: dict[str, Operation] = {}
        self._stored: set[str] = set()
        self._read_once: dict[str, str] = {}

    def input(self, name: str, dtype: Any) -> Value:
        """A number given at each run, the same in all lanes."""
        return self._input(name, dtype, "input", uniform=True)

    def lanes(self, name: str, dtype: Any) -> Value:
        """An integer that grows by one from lane to lane; the first lane's is given at each run."""
        return self._input(name, dtype, "lanes", uniform=False)

    def _input(self, name: str, dtype: Any, kind: str, *, uniform: bool) -> Value:
        if name in self._inputs:
            raise ValueError(f"input {name!r}: there is one already")
        value = self.emit(kind, (name,), dtype, uniform=uniform)
        self._inputs[name] = value.operation
        return value

    def pointer(self, name: str, dtype: Any) -> Pointer:
        """The start of an array; two names may not share memory that is stored to."""
        if self._arrays.setdefault(name, dtype) != dtype:
            raise ValueError(f"array {name!r}: holds {self._arrays[name]}, not {dtype}")
        return Pointer(self, name, dtype, None)

    def constant(self, value: Any, dtype: Any) -> Value:
        """A number known while recording."""
        if dtype in WIDE:
            return self.emit("constant", (float(value),), dtype, uniform=True)
        if dtype in INTEGERS and not isinstance(value, float):
            return self.emit("constant", (int(value),), dtype, uniform=True)
        raise refuse(f"constant {value!r} of {dtype}: cannot be recorded")

    def load(self, pointer: Pointer) -> Value:
        """What stands at a pointer."""
        index = self.constant(0, tl.int64) if pointer.index is None else pointer.index
        operands = (pointer.array, index.operation)
        if not index.uniform:
            return self.emit("load", operands, pointer.dtype, uniform=False, again=True)
        self._read_once.setdefault(pointer.array, _place())
        return self.emit("load", operands, pointer.dtype, uniform=True)

    def store(self, pointer: Pointer, value: Value) -> None:
        """Write every lane's value where the lane's pointer stands."""
        if pointer.index is None or pointer.index.uniform:
            raise refuse(f"store to {pointer.array!r}: all lanes would write to one place")
        if value.dtype != pointer.dtype:
            raise refuse(f"store of {value.dtype} to {pointer.array!r}, which holds {pointer.dtype}")
        self._stored.add(pointer.array)
        operands = (pointer.array, pointer.index.operation, value.operation)
        self.emit("store", operands, value.dtype, uniform=False, again=True)

    def emit(self, name: str, operands: tuple[Any, ...], dtype: Any, *, uniform: bool, again: bool = False) -> Value:
        """Note an operation, or find the same one; ``again`` for what is done as often as it is written."""
        key = (name, dtype, *((type(x), repr(x)) if not isinstance(x, Operation) else x.number for x in operands))
        operation = None if again else self._known.get(key)
        if operation is None:
            operation = Operation(
                number=len(self._operations),
                name=name,
                operands=operands,
                dtype=dtype,
                uniform=uniform,
                place=_place(),
            )
            self._operations.append(operation)
            self._known[key] = operation
        return Value(self, operation)

    def apply(self, name: str, values: tuple[Value, ...], dtype: Any) -> Value:
        """Note an operation on values, uniform if they all are."""
        uniform = all(value.uniform for value in values)
        return self.emit(name, tuple(value.operation for value in values), dtype, uniform=uniform)

    def finish(self) -> Recording:
        """What has been recorded, without what no store needs.

        Raises:
            RecordingError: if an array is stored to and read by all lanes at one place: such reads are moved ahead.
        """
        for array in sorted(self._stored & self._read_once.keys()):
            raise RecordingError(f"array {array!r}: stored to, and read at one place ({self._read_once[array]})")
        needed: set[int] = set()
        kept = []
        for operation in reversed(self._operations):
            if operation.name == "store" or operation.number in needed:
                kept.append(operation)
                needed.update(x.number for x in operation.needs)
        return Recording(operations=tuple(reversed(kept)), arrays=dict(self._arrays), inputs=dict(self._inputs))


class Value:
    """A number per lane, or one for all lanes, while a rule runs."""

    def __init__(self, recorder: Recorder, operation: Operation) -> None:
        self.recorder = recorder
        self.operation = operation

    @property
    def dtype(self) -> Any:
        """Triton's dtype."""
        return self.operation.dtype

    @property
    def uniform(self) -> bool:
        """Whether all lanes have the same number."""
        return self.operation.uniform

    def lift(self, other: Any) -> Value:
        """Another operand: a value as it is, a plain number as a constant of this value's dtype."""
        if isinstance(other, Value):
            return other
        other = plain(other)
        if not isinstance(other, (bool, int, float)):
            raise refuse(f"{type(other).__name__} beside a {self.dtype}: cannot be recorded")
        return self.recorder.constant(other, self.dtype)

    def to(self, dtype: Any, bitcast: bool = False) -> Value:
        """Converted, or with ``bitcast`` the same bits under another type of the same width."""
        if dtype == self.dtype:
            return self
        if bitcast:
            if dtype.primitive_bitwidth != self.dtype.primitive_bitwidth:
                raise refuse(f"bitcast of {self.dtype} to {dtype}: not of one width")
            return self.recorder.apply("bitcast", (self,), dtype)
        if (self.dtype in NARROW and dtype != tl.float32) or (dtype in NARROW and self.dtype != tl.float32):
            raise refuse(f"conversion of {self.dtype} to {dtype}: go by float32")
        if self.operation.name == "cast" and dtype in NARROW:
            # Narrowed, widened and narrowed again: the same number (NaN stays NaN).
            (inner,) = self.operation.needs
            if inner.dtype == dtype:
                return Value(self.recorder, inner)
        return self.recorder.apply("cast", (self,), dtype)

    def _binary(self, name: str, left: Any, right: Any) -> Value:
        a, b = self.lift(left), self.lift(right)
        a, b = meet(name, a, b)
        comparison = name in COMPARISONS
        if a.dtype in NARROW or (a.dtype == tl.int1 and name not in ("and", "or", "xor", "eq", "ne")):
            raise refuse(f"{name} of {a.dtype}: cannot be recorded")
        if a.dtype in WIDE and name not in FLOATING and not comparison:
            raise refuse(f"{name} of {a.dtype}: cannot be recorded")
        return self.recorder.apply(name, (a, b), tl.int1 if comparison else a.dtype)

    def __add__(self, other: Any) -> Any:
        return other + self if isinstance(other, Pointer) else self._binary("add", self, other)

    def __radd__(self, other: Any) -> Value:
        return self._binary("add", other, self)

    def __sub__(self, other: Any) -> Value:
        return self._binary("sub", self, other)

    def __rsub__(self, other: Any) -> Value:
        return self._binary("sub", other, self)

    def __mul__(self, other: Any) -> Value:
        return self._binary("mul", self, other)

    def __rmul__(self, other: Any) -> Value:
        return self._binary("mul", other, self)

    def __truediv__(self, other: Any) -> Value:
        if self.dtype != tl.float64:
            raise refuse(f"/ of {self.dtype}: approximate on a GPU, use tl.div_rn")
        return self._binary("div", self, other)

    def __floordiv__(self, other: Any) -> Value:
        return self._binary("quotient", self, other)

    def __mod__(self, other: Any) -> Value:
        return self._binary("remainder", self, other)

    def __and__(self, other: Any) -> Value:
        return self._binary("and", self, other)

    def __rand__(self, other: Any) -> Value:
        return self._binary("and", other, self)

    def __or__(self, other: Any) -> Value:
        return self._binary("or", self, other)

    def __ror__(self, other: Any) -> Value:
        return self._binary("or", other, self)

    def __xor__(self, other: Any) -> Value:
        return self._binary("xor", self, other)

    def __lshift__(self, other: Any) -> Value:
        return self._binary("shl", self, other)

    def __rshift__(self, other: Any) -> Value:
        return self._binary("shr", self, other)

    def __lt__(self, other: Any) -> Value:
        return self._binary("lt", self, other)

    def __le__(self, other: Any) -> Value:
        return self._binary("le", self, other)

    def __gt__(self, other: Any) -> Value:
        return self._binary("gt", self, other)

    def __ge__(self, other: Any) -> Value:
        return self._binary("ge", self, other)

    def __eq__(self, other: object) -> Value:  # type: ignore[override]
        return self._binary("eq", self, other)

    def __ne__(self, other: object) -> Value:  # type: ignore[override]
        return self._binary("ne", self, other)

    __hash__ = object.__hash__

    def __neg__(self) -> Value:
        raise refuse("-x: 0 - x in some Triton versions, use arithmetic.negate")

    def __bool__(self) -> bool:
        raise refuse("a branch on data: cannot be recorded, use tl.where")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise refuse(f"a value's .{name}: cannot be recorded")


COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
FLOATING = ("add", "sub", "mul", "div")


def meet(name: str, a: Value, b: Value) -> tuple[Value, Value]:
    """Two operands in one dtype: integers in the wider of theirs, anything else must agree.

    Raises:
        RecordingError: where Triton would convert floating-point numbers unseen.
    """
    if a.dtype == b.dtype:
        return a, b
    if a.dtype not in INTEGERS or b.dtype not in INTEGERS:
        raise refuse(f"{name} of {a.dtype} and {b.dtype}: convert one")
    wider = max(a.dtype, b.dtype, key=INTEGERS.index)
    return a.to(wider), b.to(wider)


class Pointer:
    """An array and an index into it."""

    def __init__(self, recorder: Recorder, array: str, dtype: Any, index: Value | None) -> None:
        self.recorder = recorder
        self.array = array
        self.dtype = dtype
        self.index = index

    def __add__(self, other: Any) -> Pointer:
        other = plain(other)
        if isinstance(other, int):
            other = self.recorder.constant(other, tl.int64)
        if not isinstance(other, Value) or other.dtype not in (tl.int32, tl.int64):
            raise refuse(f"pointer plus {getattr(other, 'dtype', type(other).__name__)}: cannot be recorded")
        other = other.to(tl.int64)
        index = other if self.index is None else self.index + other
        return Pointer(self.recorder, self.array, self.dtype, index)

    __radd__ = __add__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise refuse(f"a pointer's .{name}: cannot be recorded")
