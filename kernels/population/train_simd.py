"""Whole training runs on a CPU's vector units: `train_step`, recorded once, in loops over blocks of models and steps.

A block is one vector of models. Its parameters and states lie next to each other, number after number, and stay in the
first cache for all steps; nothing is rounded, ordered or written here that is not in `train_step`.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import triton.language as tl

from ..backends.simd import (
    Code,
    Operation,
    Pointer,
    Recorder,
    Recording,
    Value,
    compile_function,
    lanes,
    record,
    uniforms,
    versions,
)
from .train_kernel import train_step

WIDTH = 16
"""Models of a block: one register of AVX-512, two of AVX2."""
_CALL = (
    *("params", "s0", "s1", "s2", "grads", "data", "tile_of", "scale", "rows", "row_of", "powers"),
    *("by_step", "by_model", "by_both"),
    *("records", "first_step", "steps", "blocks", "begin", "end"),
)
"""What `train` is called with: int64 addresses and numbers, in this order."""
_POINTERS = _CALL[:14]
_OWN = ("by_step", "by_model", "by_both")
"""Scalars of models with hyperparameters of their own: a column lies in the array of what it depends on."""


class _Numbers:
    """A tuple of a block's numbers; one is loaded where it is used, and again where it is used later."""

    def __init__(self, recorder: Recorder, pointer: Pointer, lane: Value) -> None:
        self._recorder = recorder
        self._pointer = pointer
        self._lane = lane

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return tuple(self[k] for k in range(place.start, place.stop))
        return self._recorder.load(self._pointer + (self._lane + place * WIDTH))


def record_train(constants: Mapping[str, Any]) -> Recording:
    """`train_step` on a block for these compile-time arguments of `train_kernel`."""
    recorder = Recorder()
    lane = recorder.lanes("lane", tl.int64)
    params = recorder.pointer("params", tl.float32)
    kept = [recorder.pointer(f"s{k}", tl.float32) if constants["STATES"] >> k & 1 else None for k in range(3)]
    data = recorder.pointer("data", tl.float32)
    row: Any = recorder.pointer("row", tl.float64)
    if not constants["SHARED_ROWS"]:
        row = _OwnRow(_own_columns(recorder, constants["DEPENDS"], lane), 0)
    features = constants["WIDTHS"][0] + constants["WIDTHS"][-1]
    names = ("WIDTHS", "STARTS", "SQUARED", "HEAD", "RULE", "FLAGS", "STATES", "LANES", "COMPUTE", "GRAD", "PARAM")
    new_params, *new_states, grads = record(
        recorder,
        train_step,
        _Numbers(recorder, params, lane),
        *(() if pointer is None else _Numbers(recorder, pointer, lane) for pointer in kept),
        _Samples(_Numbers(recorder, data, lane), features),
        recorder.load(recorder.pointer("scale", tl.float32) + lane),
        row,
        recorder.input("step", tl.float32),
        recorder.pointer("powers", tl.float32),
        *(constants[name] for name in names),
        constants["STATE"],
        False,  # states lie apart in memory here
    )
    written = [(params, new_params), *zip(kept, new_states, strict=True)]
    if constants["KEEP_GRADS"]:
        written.append((recorder.pointer("grads", tl.float32), grads))
    for pointer, values in written:
        for k, value in enumerate(values):
            assert pointer is not None
            recorder.store(pointer + (lane + k * WIDTH), value)
    return _stored_at_once(recorder.finish())


class _Samples(_Numbers):
    """A block's sample: loaded like other numbers, with an end to slice to."""

    def __init__(self, numbers: _Numbers, features: int) -> None:
        super().__init__(numbers._recorder, numbers._pointer, numbers._lane)
        self._features = features

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            place = slice(place.start, self._features)
        return super().__getitem__(place)


class _OwnRow:
    """A row whose columns lie in several arrays: what the pointer of a shared row does for a rule."""

    def __init__(self, columns: list[Pointer], column: int) -> None:
        self._columns = columns
        self._column = column

    def __add__(self, column: int) -> _OwnRow:
        return _OwnRow(self._columns, self._column + column)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._columns[self._column], name)


def _own_columns(recorder: Recorder, depends: tuple[str, ...], lane: Value) -> list[Pointer]:
    """Where each column is: one number for all lanes, or one next to the other."""
    columns = []
    for number, kind in enumerate(depends):
        place = depends[:number].count(kind)
        start = recorder.pointer(kind, tl.float64)
        columns.append(start + place if kind == "by_step" else start + (lane + place * WIDTH))
    return columns


def _stored_at_once(recording: Recording) -> Recording:
    """The same with every number stored as soon as it is known: fewer are alive at a time."""
    stores: dict[int, list[Operation]] = {}
    for operation in recording.operations:
        if operation.name == "store":
            stores.setdefault(operation.operands[2].number, []).append(operation)
    ordered, done = [], set()
    for operation in recording.operations:
        if operation.name == "load":
            assert (operation.operands[0], operation.operands[1].number) not in done, "loaded after it was stored"
        if operation.name != "store":
            ordered.append(operation)
            for store in stores.get(operation.number, ()):
                ordered.append(store)
                done.add((store.operands[0], store.operands[1].number))
    return dataclasses.replace(recording, operations=tuple(ordered))


def train_code(recording: Recording, constants: Mapping[str, Any]) -> Code:
    """``train(call)``: all steps of the blocks from ``begin`` to ``end``; ``call`` is as `_CALL` has it.

    params, s0, s1, s2 (float32, [blocks, NUMBERS, WIDTH]); grads the same for every step, [steps, blocks, ...]; data
    (float32, [tiles, steps, features, WIDTH]) with the tile of each block in tile_of (int64); scale (float32) and
    row_of (int32), [blocks, WIDTH]; rows (float64, [steps, records, COLUMNS]), or by_step [steps, ...], by_model
    [blocks, ..., WIDTH] and by_both [steps, blocks, ..., WIDTH] with the columns that constants["DEPENDS"] puts there.
    """
    code = Code("train", [("ptr", "call")])
    given = {name: code.load("i64", "%call", str(place)) for place, name in enumerate(_CALL)}
    pointers = {name: code.new(f"inttoptr i64 {given[name]} to ptr") for name in _POINTERS}
    numbers = constants["NUMBERS"] * WIDTH
    sample = (constants["WIDTHS"][0] + constants["WIDTHS"][-1]) * WIDTH

    def times(value: str, factor: str | int) -> str:
        return code.new(f"mul i64 {value}, {factor}")

    with code.loop(given["begin"], given["end"]) as block:
        at = times(block, numbers)
        arrays = {name: code.address("float", pointers[name], at) for name in ("params", "s0", "s1", "s2")}
        first_lane = times(block, WIDTH)
        arrays["scale"] = code.address("float", pointers["scale"], first_lane)
        arrays["row_of"] = code.address("i32", pointers["row_of"], first_lane)
        arrays["powers"] = pointers["powers"]
        first_sample = times(code.load("i64", pointers["tile_of"], block), given["steps"])
        record_at = "0"
        counts = {kind: constants.get("DEPENDS", ()).count(kind) for kind in _OWN}
        arrays["by_model"] = code.address("double", pointers["by_model"], times(block, counts["by_model"] * WIDTH))
        if constants["SHARED_ROWS"]:
            record_at = code.new(f"sext i32 {code.load('i32', arrays['row_of'])} to i64")
        with code.loop("0", given["steps"]) as t:
            place = times(code.new(f"add i64 {first_sample}, {t}"), sample)
            arrays["data"] = code.address("float", pointers["data"], place)
            rows_before = code.new(f"add i64 {times(t, given['records'])}, {record_at}")
            arrays["row"] = code.address("double", pointers["rows"], times(rows_before, constants["COLUMNS"]))
            blocks_before = code.new(f"add i64 {times(t, given['blocks'])}, {block}")
            arrays["by_step"] = code.address("double", pointers["by_step"], times(t, counts["by_step"]))
            both_at = times(blocks_before, counts["by_both"] * WIDTH)
            arrays["by_both"] = code.address("double", pointers["by_both"], both_at)
            arrays["grads"] = code.address("float", pointers["grads"], times(blocks_before, numbers))
            step = code.new(f"add i64 {given['first_step']}, {t}")
            number = code.new(f"sitofp i64 {step} to float")
            shared = uniforms(code, recording, arrays, {"step": number})
            for version in versions(code, recording, shared):
                lanes(code, version, shared, arrays, {"lane": "0"}, WIDTH)
    return code


def train_function(constants: Mapping[str, Any]) -> Callable[[Mapping[str, int]], None]:
    """The compiled run for these compile-time arguments; it takes the entries of `_CALL` by name."""
    function = _compiled(tuple(constants.items()))

    def train(call: Mapping[str, int]) -> None:
        entries = (ctypes.c_int64 * len(_CALL))(*(call[name] for name in _CALL))
        function(ctypes.addressof(entries))

    return train


@functools.cache
def _compiled(items: tuple[tuple[str, Any], ...]) -> Callable[..., None]:
    constants = dict(items)
    code = train_code(record_train(constants), constants)
    return compile_function("train", code.text(), ctypes.c_void_p)
