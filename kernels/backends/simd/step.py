"""One optimizer step of a bucket: the step kernel's own `_update`, recorded, in loops over the address table."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ...algorithm import Recipe
from ...launch.dtypes import Dtypes
from ...launch.step_kernel import _update, kernel_constants
from ...launch.tables import Tables
from ...rounding.dtypes import BY_TORCH
from ...rounding.flags import SCALED
from . import threads
from .code import Code
from .emitter import lanes, uniforms
from .language import record
from .machine import address_of
from .operations import NARROW, Recording
from .recorder import Recorder
from .versions import versions

WIDTH = 16
"""Floats of a vector: one register of AVX-512, two of AVX2."""
PARALLEL = 1 << 16
"""Elements of a bucket from which a step is parted among torch's threads.

AMD EPYC (Zen 5), two threads against one, float32 `cpu-fused`: AdamW 4.4 against 3.8 µs at 2^13, 6.3 against 7.5 at
2^15; SGD 5.0 against 4.3 at 2^15, 5.9 against 7.5 at 2^16; half the time from 2^17 on.
"""
_PART = 1 << 19
_PARTS = 16
"""Large tensors have up to 16 parts a thread, of so many elements at least: a thread with less of its core takes fewer.

SGD at 2^24, two threads on two cores with other work: 8.1 ms (lower quartile), 9.5 ms in two parts.
"""
_AHEAD: Mapping[int, int] = {32: 1280, 16: 2560}
"""Bytes from what is loaded to what is asked for meanwhile, by the bits of an element.

AMD EPYC (Zen 5), 2^24 elements, the same memory with and without: Adam and AdamW 0.95 of the time in float32 (1.00 at
2048), 0.87 to 0.89 in bfloat16 (1.03 at 1280), Adagrad 0.96 and 0.90, RMSprop 0.94 and 0.97.
"""
_MEMORY = ("p", "g", "s0", "s1", "s2", "copy")
"""The table's addresses, of those that there are, in this order."""
_ALIGNED = 64
"""Threads part a tensor at multiples of this many elements: whole vectors, whole cache lines."""


def record_update(constants: dict[str, Any], *, states: int) -> Recording:
    """The step kernel's load, unscale, lane, rule and store for these compile-time arguments."""
    recorder = Recorder()
    param, state, copy = constants["PARAM"], constants["STATE"], constants["COPY"]
    p = recorder.pointer("p", param)
    kept = [recorder.pointer(f"s{k}", state) if states >> k & 1 else p for k in range(3)]
    options = ("RULE", "FLAGS", "UNSCALE", "LANES", "DEVICE_STEP", "STATES")
    dtypes = ("PARAM", "GRAD", "STATE", "COPY", "LINE_GRAD", "LINE_STATE")
    record(
        recorder,
        _update,
        p,
        recorder.pointer("g", constants["GRAD"]),
        *kept,
        p if copy is None else recorder.pointer("copy", copy),
        recorder.lanes("offset", tl.int64),
        None,
        recorder.lanes("position", tl.int32),
        recorder.input("lane_path", tl.int32),
        recorder.pointer("row", tl.float64),
        recorder.input("step", tl.float32),
        recorder.pointer("powers", tl.float32),
        recorder.pointer("scale", tl.float32),
        *(constants[name] for name in (*options, *dtypes)),
    )
    return recorder.finish()


_CALL = ("tensors", "table", "rows", "steps", "powers", "scale", "scales", "parts", "next")
"""What `step` is called with: int64 numbers and addresses, in this order; scales is 1 where each tensor has its own."""
_Call = ctypes.c_int64 * len(_CALL)


def step_code(recording: Recording, *, columns: int) -> Code:
    """``step(call)`` over all tensors of a table; ``call`` is as `_CALL` has it.

    The table (int64, [columns, tensors]) is as `launch.tables` has it. The elements are parted, and whoever runs this
    function takes the next part until none is left: any number of threads may.
    """
    code = Code("step", [("ptr", "call")])
    given = {name: code.load("i64", "%call", str(place)) for place, name in enumerate(_CALL[:-1])}
    pointers = {name: code.new(f"inttoptr i64 {given[name]} to ptr") for name in _CALL[1:6]}
    counter = code.address("i64", "%call", str(len(_CALL) - 1))
    tensors, parts, scales = (given[name] for name in ("tensors", "parts", "scales"))
    seen_at = code.local("i64", 1)
    code.do(f"store i64 0, ptr {seen_at}")
    with code.loop("0", tensors) as tensor:
        _count(code, seen_at, code.load("i64", pointers["table"], tensor))
    total = code.load("i64", seen_at)
    with code.loop("0", parts):
        part = code.new(f"atomicrmw add ptr {counter}, i64 1 monotonic")
        with code.when(code.new(f"icmp slt i64 {part}, {parts}")):
            begin, end = (_share(code, total, parts, at) for at in (part, code.new(f"add i64 {part}, 1")))
            code.do(f"store i64 0, ptr {seen_at}")
            with code.loop("0", tensors) as tensor:
                numel = code.load("i64", pointers["table"], tensor)
                seen = _count(code, seen_at, numel)
                first, last = (_cut(code, bound, seen, numel) for bound in (begin, end))
                with code.when(code.new(f"icmp slt i64 {first}, {last}")):
                    own = code.address("float", pointers["scale"], code.new(f"mul i64 {scales}, {tensor}"))
                    bounds = (numel, first, last)
                    _tensor(code, recording, {**pointers, "scale": own}, tensors, tensor, bounds, columns)
    return code


def _count(code: Code, seen_at: str, numel: str) -> str:
    """Add a tensor's elements to those seen; how many there were before."""
    seen = code.load("i64", seen_at)
    code.do(f"store i64 {code.new(f'add i64 {seen}, {numel}')}, ptr {seen_at}")
    return seen


def _share(code: Code, total: str, parts: str, part: str) -> str:
    """Where a part begins among all elements."""
    return code.new(f"sdiv i64 {code.new(f'mul i64 {total}, {part}')}, {parts}")


def _cut(code: Code, bound: str, seen: str, numel: str) -> str:
    """Where a bound among all elements falls in a tensor after ``seen`` of them: its ends, or a boundary inside."""
    inside = code.new(f"sub i64 {bound}, {seen}")
    positive = code.new(f"icmp sgt i64 {inside}, 0")
    whole = code.new(f"and i64 {inside}, {-_ALIGNED}")
    some = code.new(f"select i1 {positive}, i64 {whole}, i64 0")
    beyond = code.new(f"icmp sge i64 {inside}, {numel}")
    return code.new(f"select i1 {beyond}, i64 {numel}, i64 {some}")


def _tensor(
    code: Code,
    recording: Recording,
    pointers: Mapping[str, str],
    tensors: str,
    tensor: str,
    bounds: tuple[str, str, str],
    columns: int,
) -> None:
    """Elements of one tensor; ``bounds`` are its length and the first and last of them."""
    numel, first, last = bounds
    memory: list[str] = [name for name in _MEMORY if name in recording.arrays]
    addresses = {}
    for column, name in enumerate(["row", *memory], 1):
        at = code.new(f"add i64 {code.new(f'mul i64 {tensors}, {column}')}, {tensor}")
        addresses[name] = code.load("i64", pointers["table"], at)
    arrays = {name: code.new(f"inttoptr i64 {addresses[name]} to ptr") for name in memory}
    arrays["row"] = code.address("double", pointers["rows"], code.new(f"mul i64 {addresses['row']}, {columns}"))
    arrays["powers"], arrays["scale"] = pointers["powers"], pointers["scale"]
    odd = code.new(f"and i64 {numel}, 3")
    for name in memory:
        if name != "copy":
            below = recording.arrays[name].primitive_bitwidth // 2 - 1
            odd = code.new(f"or i64 {odd}, {code.new(f'and i64 {addresses[name]}, {below}')}")
    lane_path = code.new(f"zext i1 {code.new(f'icmp ne i64 {odd}, 0')} to i32")
    given = {"step": code.load("float", pointers["steps"], tensor), "lane_path": lane_path}
    shared = uniforms(code, recording, arrays, given)
    count = code.new(f"sub i64 {last}, {first}")
    vectors = code.new(f"add i64 {first}, {code.new(f'and i64 {count}, {-WIDTH}')}")
    for version in versions(code, recording, shared):
        _elements(code, version, shared, arrays, (first, vectors), WIDTH)
    _elements(code, recording, shared, arrays, (vectors, last), 1)


def _elements(
    code: Code,
    recording: Recording,
    shared: Mapping[int, str],
    arrays: Mapping[str, str],
    bounds: tuple[str, str],
    width: int,
) -> None:
    """Elements from the first bound to the second, ``width`` at once."""
    loaded = [name for name in _MEMORY if name in recording.arrays and name != "copy"]
    asks = width > 1 and _holds_up(recording)
    ahead = {name: _AHEAD[recording.arrays[name].primitive_bitwidth] for name in loaded} if asks else {}
    with code.loop(*bounds, width) as offset:
        position = code.new(f"trunc i64 {code.new(f'and i64 {offset}, 65535')} to i32")
        lanes(code, recording, shared, arrays, {"offset": offset, "position": position}, width, ahead)


def _holds_up(recording: Recording) -> bool:
    """Whether elements take the processor so long that it does not get to the loads of later ones by itself.

    A quotient, a root or a rounding to 16 bits does. With SGD in float32, which has none, asking costs a fifth.
    """
    return any(
        x.name in ("div", "sqrt") or (x.name == "cast" and x.dtype in NARROW)
        for x in recording.operations
        if not x.uniform
    )


Compiled = tuple[int, Callable[[int], None]]
"""A step's address, and a way to call it with the interpreter's lock given back."""
_COMPILED: dict[tuple[Any, ...], tuple[Compiled, Recipe]] = {}
"""Steps by everything that decides their code. The recipe is kept, so that no other object takes over its id."""


def step_function(
    recipe: Recipe, flags: int, states: int, dtypes: Dtypes, lines: torch.dtype | None = None
) -> Compiled:
    """The compiled step for a recipe, flags, states (bit mask), dtypes, and what lines round to if not as torch's."""
    key = (id(recipe), flags, states, dtypes, lines)
    if key not in _COMPILED:
        constants = kernel_constants(recipe, flags, states=states, dtypes=dtypes, scaled=bool(flags & SCALED.value))
        if lines is not None:
            constants["LINE_GRAD"] = constants["LINE_STATE"] = BY_TORCH[lines].triton
        code = step_code(record_update(constants, states=states), columns=len(recipe.columns))
        address = address_of("step", code.text())
        _COMPILED[key] = (address, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)), recipe
    return _COMPILED[key][0]


def launch_tables(
    tables: Tables,
    recipe: Recipe,
    flags: int,
    *,
    states: int,
    dtypes: Dtypes,
    rows: Tensor,
    steps: Tensor,
    powers: Tensor,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    lines: torch.dtype | None = None,
) -> None:
    """Step every tensor of prepared tables; nothing happens where an overflow was found.

    Bit k of ``states`` is set where state k is kept, ``grad_scale`` may be one per tensor, and an eager rule's lines
    round to ``lines`` instead of as torch promotes; the other arguments are `step_bucket`'s.
    """
    table, count = tables.addresses.device, tables.programs
    if table is None or not count or (found_inf is not None and float(found_inf) == 1.0):
        return
    found = tables.launches.get(flags)
    if found is None:
        found = tables.launches[flags] = step_function(recipe, flags, states, dtypes, lines)
    address, step = found
    tensors = table.shape[1]
    # Counted in whole blocks: a small tensor costs more than its elements.
    workers = torch.get_num_threads() if count * tables.block >= PARALLEL else 1
    large = (count - tensors) * tables.block // _PART
    parts = workers * max(1, min(_PARTS, large // workers)) if workers > 1 else 1
    scale = powers if grad_scale is None else grad_scale
    scales = int(grad_scale is not None and grad_scale.numel() > 1)
    pointers = (table.data_ptr(), rows.data_ptr(), steps.data_ptr(), powers.data_ptr(), scale.data_ptr())
    tables.running = call = _Call(tensors, *pointers, scales, parts, 0)
    if workers == 1 or not threads.run(address, ctypes.addressof(call), workers):
        step(ctypes.addressof(call))
