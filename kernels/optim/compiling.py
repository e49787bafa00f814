"""A C source made into a module by the machine's compiler: compiled once, kept, and a compiler that failed remembered.

Both lie beside vector code, with a digest: half of a shared object, once loaded, ends the process. Nothing that the
compiler says reaches the user's terminal. Which compiler: the variable ``CC``, else gcc, else clang, as Triton chooses.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from ..backends.simd import cache

LIMIT_S = 30.0
"""Of a compiler that takes a second."""
AGAIN_S = 86_400.0
"""After so long a compiler that failed is tried again though it looks the same: headers or a linker may have come."""
_MOST_SAID = 300


class Unavailable(Exception):
    """There is no module; the message is the reason, in one line."""


def headers() -> Path:
    """Where Python.h is, if it is there at all."""
    scheme = sysconfig.get_default_scheme()
    # Debian's own scheme has another folder, in which nothing is.
    return Path(sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme))


def module_of(name: str, source: str, beside: str, finish: Callable[[ModuleType], str]) -> ModuleType:
    """The module of a source: the one that was kept, else compiled now, and kept if it is sound.

    Args:
        name: of the module.
        source: in C.
        beside: what else decides whether the module is sound, the version of what it is used with.
        finish: makes the loaded module ready and returns what is wrong with it, or "".

    Raises:
        Unavailable: there is no compiler, or it failed, now or in the last `AGAIN_S` seconds.
        OSError: there is no room for temporary files.
    """
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
    digest = hashlib.sha256(repr((source, beside, sys.version, suffix, platform.machine())).encode()).hexdigest()
    kept = cache.read(f"looks-{digest}")
    if kept is not None:
        # Kept by this user, but perhaps on a machine with other libraries.
        with suppress(Unavailable):
            return _sound(name, kept, suffix, finish)
    compiler = _Compiler()
    failure = f"failed-{hashlib.sha256(repr((digest, compiler.identity)).encode()).hexdigest()}"
    _raise_remembered(failure)
    try:
        code = compiler.compiled(name, source)
        module = _sound(name, code, suffix, finish)
    except Unavailable as error:
        cache.write(failure, json.dumps({"at": time.time(), "why": str(error)}).encode())
        raise
    cache.write(f"looks-{digest}", code)
    return module


def _raise_remembered(key: str) -> None:
    """What a compiler failed with not long ago."""
    body = cache.read(key)
    if body is None:
        return
    found = json.loads(body)
    # A clock that was set back makes no failure eternal.
    left_s = found["at"] + AGAIN_S - time.time()
    if 0 < left_s <= AGAIN_S:
        raise Unavailable(f"{found['why']} (remembered; tried again in {left_s / 3600:.0f} h, or when it changes)")


class _Compiler:
    """The machine's C compiler.

    Raises:
        Unavailable: there is none.
    """

    def __init__(self) -> None:
        try:
            self.words = shlex.split(os.environ.get("CC", "")) or [
                next((name for name in ("gcc", "clang") if shutil.which(name)), "gcc")
            ]
        except ValueError as error:
            raise Unavailable(f"CC {os.environ['CC']!r}: {error}") from error
        path = shutil.which(self.words[0])
        if path is None:
            raise Unavailable(f"no C compiler: {self.words[0]} is not there; install one or name it by CC")
        self.words[0] = str(Path(path).absolute())

    @property
    def identity(self) -> tuple[object, ...]:
        """What changes when another is installed, or this one mended: asking it for its version takes a process."""
        path = Path(self.words[0]).resolve()
        status = path.stat()
        return (*self.words, str(path), status.st_size, status.st_mtime_ns)

    def compiled(self, name: str, source: str) -> bytes:
        """The shared object of a source."""
        with tempfile.TemporaryDirectory() as folder:
            text, code, said = Path(folder, f"{name}.c"), Path(folder, f"{name}.so"), Path(folder, "said")
            text.write_text(source)
            command = [*self.words, str(text), "-O3", "-shared", "-fPIC", f"-I{headers()}", "-o", str(code)]
            status = _run(command, folder, said)
            if status != 0:
                why = f"did not answer in {LIMIT_S:g} s" if status is None else f"ended with {status}"
                raise Unavailable(f"{self.words[0]} {why}{_line(said)}")
            if not code.is_file():
                raise Unavailable(f"{self.words[0]} wrote nothing")
            return code.read_bytes()


def _run(command: list[str], folder: str, said: Path) -> int | None:
    """Exit status of a command that says what it says into a file; None if it had to be ended."""
    with said.open("wb") as stream:
        try:
            # A group of its own: a compiler starts others, and all of them are ended.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, cwd=folder, start_new_session=True
            )
        except OSError as error:
            raise Unavailable(f"{command[0]} cannot be run: {error.strerror or error}") from error
        try:
            return process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # What it left behind too, and what it was doing when the user interrupted.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _line(said: Path) -> str:
    """The line that says most of a compiler's complaint: the first with an error in it, else the last."""
    with said.open("rb") as stream:
        lines = [line.strip() for line in stream.read(1 << 16).decode(errors="replace").splitlines() if line.strip()]
    chosen = next((line for line in lines if "error" in line), lines[-1] if lines else "")
    return f": {' '.join(chosen.split())[:_MOST_SAID]}" if chosen else ""


def _sound(name: str, code: bytes, suffix: str, finish: Callable[[ModuleType], str]) -> ModuleType:
    """The module of an object, loaded and finished."""
    if not is_whole(code):
        raise Unavailable("what was compiled is no whole shared object")
    if b"san_init" in code:
        raise Unavailable("what was compiled has a sanitizer, which ends processes that began without it")
    with tempfile.TemporaryDirectory() as folder:
        # Loaded from where nobody else writes.
        path = Path(folder, f"loaded{suffix}")
        path.write_bytes(code)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        try:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        except (ImportError, SystemError) as error:
            raise Unavailable(f"what was compiled cannot be loaded: {str(error).replace(folder, '')}") from error
    try:
        wrong = finish(module)
    except AttributeError as error:
        raise Unavailable(f"what was compiled is another module: {error}") from error
    if wrong:
        raise Unavailable(wrong)
    return module


def is_whole(code: bytes) -> bool:
    """Whether the file of a 64-bit ELF shared object has all that its program headers promise: loading maps that."""
    if len(code) < 64 or code[:5] != b"\x7fELF\x02" or code[5] not in (1, 2):
        return False
    order = "<" if code[5] == 1 else ">"
    (kind,), (table,) = struct.unpack_from(f"{order}H", code, 16), struct.unpack_from(f"{order}Q", code, 32)
    size, count = struct.unpack_from(f"{order}HH", code, 54)
    if kind != 3 or size < 56 or not count or table + size * count > len(code):
        return False
    for number in range(count):
        offset, held = (struct.unpack_from(f"{order}Q", code, table + size * number + at)[0] for at in (8, 32))
        if offset + held > len(code):
            return False
    return True
