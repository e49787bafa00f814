"""What a rule computes with while it is recorded: values that note what is done to them, pointers into named arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton.language as tl

from .operations import INTEGERS, NARROW, WIDE, Operation, plain, refuse

if TYPE_CHECKING:
    from .recorder import Recorder


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
