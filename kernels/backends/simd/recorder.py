"""Notes what a rule does, and gives the recording."""

from __future__ import annotations

from typing import Any

import triton.language as tl

from .operations import INTEGERS, WIDE, Operation, Recording, RecordingError, place, refuse
from .values import Pointer, Value


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
        self._read_once.setdefault(pointer.array, place())
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
                place=place(),
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
