"""Object code kept on disk between processes, in a folder that only its user can read or write."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

_MAGIC = b"lossscale-bench simd 1\n"


def folder() -> Path | None:
    """The folder, made if need be; None where there is none to be trusted."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        if not base.is_absolute():
            return None
        path = base / "lossscale-bench" / "simd"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path if _is_ours(path.lstat()) else None
    except (OSError, RuntimeError):
        # Not to be made, or no home.
        return None


def _is_ours(status: os.stat_result) -> bool:
    """Whether it is a folder or file of this user that nobody else can write; links are not followed."""
    kind = stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)
    return kind and status.st_uid == os.getuid() and not status.st_mode & 0o022


def read(key: str) -> bytes | None:
    """What was written under ``key``, whole and by this user; else None."""
    path = folder()
    if path is None:
        return None
    try:
        descriptor = os.open(path / key, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read() if _is_ours(os.fstat(descriptor)) else b""
    except OSError:
        return None
    magic, length, body = content[: len(_MAGIC)], content[len(_MAGIC) : len(_MAGIC) + 8], content[len(_MAGIC) + 8 :]
    return body if magic == _MAGIC and int.from_bytes(length, "little") == len(body) else None


def write(key: str, body: bytes) -> None:
    """Keep ``body`` under ``key``; a folder that cannot be written is no error."""
    path = folder()
    if path is None:
        return
    with contextlib.suppress(OSError):
        descriptor, name = tempfile.mkstemp(dir=path)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_MAGIC + len(body).to_bytes(8, "little") + body)
            Path(name).replace(path / key)
        except BaseException:
            Path(name).unlink()
            raise
