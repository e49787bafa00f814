"""Numbers in all lanes: LLVM's types, constants and splats of one width, and conversions between dtypes."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import triton.language as tl

from .code import Code
from .machine import has_avx512
from .operations import NARROW, WIDE, Operation

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


_TERNARY, _TERNARY_WIDTH = "llvm.x86.avx512.pternlog.d.512", 16
"""AVX-512's function of three bits, in all bits of 16 integers."""
_NOR_AND = 0b00010011
"""The table of ~(b | (a & c)): bit 4a + 2b + c."""


class Vectors:
    """Writes numbers of one width: vectors, or scalars for width 1.

    Attributes:
        short: operations whose NaNs are short (`nans`).
    """

    def __init__(self, code: Code, width: int) -> None:
        self.code = code
        self.width = width
        self._constants: dict[tuple[object, str], str] = {}
        self._upper: dict[int, str] = {}
        self.short: set[int] = set()

    def type(self, dtype: object) -> str:
        """LLVM's type of a value in all lanes."""
        return self.wide(TYPES[dtype])

    def wide(self, kind: str) -> str:
        """LLVM's type of ``kind`` in all lanes."""
        return kind if self.width == 1 else f"<{self.width} x {kind}>"

    def suffix(self, dtype: object) -> str:
        """How an intrinsic's name ends."""
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
        vector = self.wide(kind)
        one = self.code.new(f"insertelement {vector} poison, {kind} {scalar}, i32 0")
        zeros = f"<{self.width} x i32> zeroinitializer"
        return self.code.new(f"shufflevector {vector} {one}, {vector} poison, {zeros}")

    def cast(self, x: str, operation: Operation) -> str:
        """A conversion of ``x``."""
        source, target = operation.needs[0].dtype, operation.dtype
        if target == tl.bfloat16:
            # Most are widened again at once, from the upper half; LLVM drops the lower where nothing stores it.
            upper = self._upper[operation.number] = self._to_bfloat16(x, short=operation.needs[0].number in self.short)
            low = self.code.new(f"lshr {self.wide('i32')} {upper}, {self.constant('i32', 16)}")
            return self.code.new(f"trunc {self.wide('i32')} {low} to {self.wide('i16')}")
        if target == tl.float16:
            half = self.code.new(f"fptrunc {self.type(source)} {x} to {self.wide('half')}")
            return self.code.new(f"bitcast {self.wide('half')} {half} to {self.type(target)}")
        if source == tl.bfloat16 and operation.needs[0].number in self._upper:
            return self.code.new(
                f"bitcast {self.wide('i32')} {self._upper[operation.needs[0].number]} to {self.type(target)}"
            )
        if source == tl.bfloat16:
            wide = self.code.new(f"zext {self.type(source)} {x} to {self.wide('i32')}")
            high = self.code.new(f"shl {self.wide('i32')} {wide}, {self.constant('i32', 16)}")
            return self.code.new(f"bitcast {self.wide('i32')} {high} to {self.type(target)}")
        if source == tl.float16:
            half = self.code.new(f"bitcast {self.type(source)} {x} to {self.wide('half')}")
            return self.code.new(f"fpext {self.wide('half')} {half} to {self.type(target)}")
        return self.code.new(f"{_conversion(source, target)} {self.type(source)} {x} to {self.type(target)}")

    def short_nan(self, kind: str, x: str) -> str:
        """``x``, if it is a NaN the one without payload."""
        wide = self.wide(kind)
        is_nan = self.code.new(f"fcmp uno {wide} {x}, {x}")
        return self.code.new(
            f"select {self.wide('i1')} {is_nan}, {wide} {self.constant(kind, float('nan'))}, {wide} {x}"
        )

    def _to_bfloat16(self, x: str, *, short: bool) -> str:
        """The nearest bfloat16, ties to even, as the upper half of an i32; a NaN stays one (`nans` on ``short``)."""
        new, kind = self.code.new, self.wide("i32")

        def number(value: int) -> str:
            return self.constant("i32", value)

        bits = new(f"bitcast {self.wide('float')} {x} to {kind}")
        upper = new(f"lshr {kind} {bits}, {number(16)}")
        if self.width == _TERNARY_WIDTH and has_avx512():
            # x + 0x7FFF + odd is x - ~(0x7FFE | odd), whose logic is one operation: 10 % of Adam's step. Written out,
            # LLVM takes it apart again.
            operands = (upper, number(0x7FFE), number(1))
            minus = self.code.call(_TERNARY, kind, *((kind, x) for x in operands), ("i32", str(_NOR_AND)))
            rounded = new(f"sub {kind} {bits}, {minus}")
        else:
            odd = new(f"and {kind} {upper}, {number(1)}")
            half = new(f"add {kind} {bits}, {number(0x7FFF)}")
            rounded = new(f"add {kind} {half}, {odd}")
        if short:
            return new(f"and {kind} {rounded}, {number(-0x10000)}")
        quiet = new(f"or {kind} {bits}, {number(0x400000)}")
        is_nan = new(f"fcmp uno {self.wide('float')} {x}, {x}")
        chosen = new(f"select {self.wide('i1')} {is_nan}, {kind} {quiet}, {kind} {rounded}")
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
