"""What a recording consists of: operations in order, their dtypes, and the error for what cannot be one."""

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


def place() -> str:
    """``file:line`` of what called into this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def refuse(what: str) -> RecordingError:
    """The error for something that cannot be recorded, at the rule's line."""
    return RecordingError(f"{what} ({place()})")


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
