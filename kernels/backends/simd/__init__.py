"""A CPU's vector units: a rule's Triton source, recorded once and executed as vector code.

`recorder` and `language` run the Python function behind a ``@triton.jit`` one with values that note what is done to
them; options and dtypes are ordinary Python then, so what is left is straight-line code. `emitter` writes it as LLVM IR
of explicit vector width, `versions` has it written once more for the choices that hyperparameters usually make,
`machine` compiles that, `cache` keeps the object code on disk, `step` is the optimizer step.

To run another elementwise source (parameters by name, lanes one apart):

    recorder = Recorder()
    offset = recorder.lanes("offset", tl.int64)             # 0, 1, 2, ... from the first lane's number
    t = recorder.input("t", tl.float32)                     # one number for all lanes
    x_ptr = recorder.pointer("x", tl.float32)
    x = recorder.load(x_ptr + offset)                       # a tuple of such values is an argument too
    y = record(recorder, some_jit_function, x, t, helper_jit_function, tl.bfloat16, 3)
    recorder.store(x_ptr + offset, y)
    recording = recorder.finish()

    code = Code("run", [("ptr", "x"), ("i64", "count"), ("float", "t")])
    arrays = {"x": "%x"}
    shared = uniforms(code, recording, arrays, {"t": "%t"})  # once: what all lanes share
    for version in versions(code, recording, shared):  # what lanes choose alike is chosen once
        with code.loop("0", "%count", 16) as index:
            lanes(code, version, shared, arrays, {"offset": index}, 16)
    run = compile_function("run", code.text(), ctypes.c_void_p, ctypes.c_int64, ctypes.c_float)

Loads at an index that differs between lanes otherwise than by one are gathered; stores go to neighbours. Loads that all
lanes share (at a uniform index) are moved ahead of everything else, so their arrays may not be stored to. Masks are
ignored: the caller runs width 1 where a vector does not fit. A branch on data, an operation without vector code and an
implicit conversion are a `RecordingError` that names the operation and the rule's file and line.
"""

from .code import Code
from .emitter import lanes, uniforms
from .language import record
from .machine import address_of, compile_function, unavailable, vector_registers
from .operations import Operation, Recording, RecordingError
from .recorder import Recorder
from .step import launch_tables
from .values import Pointer, Value
from .versions import versions

__all__ = [
    "Code",
    "Operation",
    "Pointer",
    "Recorder",
    "Recording",
    "RecordingError",
    "Value",
    "address_of",
    "compile_function",
    "lanes",
    "launch_tables",
    "record",
    "unavailable",
    "uniforms",
    "vector_registers",
    "versions",
]
