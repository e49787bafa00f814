"""Object code kept on disk between processes, in a folder that only its user can read or write."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

_MAGIC = b"lossscale-bench simd 2\n"
"""Of a file: this, the SHA-256 of its key and code, the code."""


def folder() -> Path | None:
    """The folder, made if need be; None where there is none to be trusted."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        if not base.is_absolute():
            return None
        path = base / "lossscale-bench" / "simd"
        # Folder after folder: mkdir(parents=True) takes the mode for the last alone.
        for place in [*reversed(path.parents), path]:
            if not place.exists():
                place.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        return path if stat.S_ISDIR(status.st_mode) and _is_ours(status) else None
    except (OSError, RuntimeError):
        # Not to be made, or no home.
        return None


def _is_ours(status: os.stat_result) -> bool:
    """Whether it is this user's and nobody else can write it."""
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def read(key: str) -> bytes | None:
    """What was written under ``key``, by this user and unchanged since; else None."""
    path = folder()
    if path is None:
        return None
    try:
        # Not to wait for the writer of a pipe.
        descriptor = os.open(path / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not _is_ours(status):
                return None
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read()
        finally:
            os.close(descriptor)
    except OSError:
        return None
    body = content[len(_header(key, b"")) :]
    return body if content == _header(key, body) + body else None


def _header(key: str, body: bytes) -> bytes:
    """What stands before ``body`` in the file of ``key``."""
    return _MAGIC + hashlib.sha256(key.encode() + body).digest()


def write(key: str, body: bytes) -> None:
    """Keep ``body`` under ``key``; a folder that cannot be written is no error."""
    path = folder()
    if path is None:
        return
    with contextlib.suppress(OSError):
        descriptor, name = tempfile.mkstemp(dir=path)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_header(key, body) + body)
            Path(name).replace(path / key)
        except BaseException:
            Path(name).unlink()
            raise
