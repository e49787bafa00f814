"""LLVM: from text to functions that this process can call. The only file that imports llvmlite, and only when used."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import cache

_NEEDED = ("avx2", "fma", "f16c")
_OLDEST = (0, 45)
"""llvmlite with the first LLVM (20) of which all versions since were tried; those before write pointers otherwise."""


_OPTIONS = {"opt": 2, "reloc": "pic", "codemodel": "default", "jit": True}
"""Of LLVM's code generator. The small code model wants code and constants near each other: see `address_of`."""


@functools.cache
def unavailable() -> str:
    """Why vector code cannot be made here; empty where it can. Imports nothing."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"vector code is made for x86-64, this is {platform.machine()}"
    version = _llvmlite_version()
    if not version:
        return "llvmlite is missing; pip install numba, which brings it"
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        return f"llvmlite {version} is too old; pip install --upgrade numba, which brings it"
    lacking = [name for name in _NEEDED if name not in _cpu_flags()]
    return f"this CPU lacks {' and '.join(lacking)}" if lacking else ""


def _llvmlite_version() -> str:
    """The installed version; empty if there is none."""
    try:
        return importlib.metadata.version("llvmlite") if importlib.util.find_spec("llvmlite") else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def _cpu_flags() -> frozenset[str]:
    """What Linux says of the first CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = (line for line in lines if line.startswith("flags"))
    return frozenset(next(flags, "").partition(":")[2].split())


@functools.cache
def _llvm() -> Any:
    """The binding of LLVM, ready to compile for this machine."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@functools.cache
def target() -> tuple[str, str]:
    """Name and features of the CPU that code is made for: this one, or what Numba's environment variables say."""
    llvm = _llvm()
    name = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if os.environ.get("NUMBA_CPU_NAME") else llvm.get_host_cpu_features().flatten()
    return name, features


def has_avx512() -> bool:
    """Whether code is made for a CPU whose registers hold 16 floats, with operations of three integers at once."""
    return not unavailable() and "+avx512f" in target()[1].split(",")


def vector_registers(floats: int) -> int:
    """How many vectors of so many floats the registers hold."""
    return (32 * 16 if has_avx512() else 16 * 8) // floats


@functools.cache
def _target_machine() -> Any:
    name, features = target()
    llvm = _llvm()
    triple = llvm.Target.from_triple(llvm.get_process_triple())
    return triple.create_target_machine(cpu=name, features=features, **_OPTIONS)


def assemble(text: str) -> bytes:
    """The object code of a module; from the disk where it has been made before."""
    llvm = _llvm()
    import llvmlite

    made_by = f"{llvmlite.__version__} {llvm.llvm_version_info} {target()} {_OPTIONS}"
    key = hashlib.sha256(f"{made_by}\n{text}".encode()).hexdigest()
    found = cache.read(key)
    if found is not None:
        return found
    module = llvm.parse_assembly(text)
    module.verify()
    module.triple = llvm.get_process_triple()
    made: bytes = _target_machine().emit_object(module)
    cache.write(key, made)
    return made


_ENGINES: list[Any] = []
"""What owns the code: never freed, kernels are few."""


def compile_function(name: str, text: str, *parameters: Any) -> Callable[..., None]:
    """The function ``name`` of a module of LLVM IR, to be called without the interpreter's lock.

    Args:
        name: of a function without a result.
        text: the module.
        parameters: ctypes types. ``ctypes.c_void_p`` takes an address as a plain integer.
    """
    prototype = ctypes.CFUNCTYPE(None, *parameters)
    return prototype(address_of(name, text))


def address_of(name: str, text: str) -> int:
    """The address of the function ``name`` of a module of LLVM IR."""
    llvm = _llvm()
    # llvmlite's own memory manager reserves one region for code and constants.
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _new_target_machine(), use_lmm=True)
    engine.add_object_file(llvm.ObjectFileRef.from_data(assemble(text)))
    engine.finalize_object()
    _ENGINES.append(engine)
    address: int = engine.get_function_address(name)
    return address


def _new_target_machine() -> Any:
    """An engine takes over its target machine."""
    return _target_machine.__wrapped__()
