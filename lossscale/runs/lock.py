"""Who may write to the directory of a run: one process that does the whole, or several that each do a share."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ..support.errors import InputError
from ..support.files import writable

LOCK: Final = ".lock"
"""An empty file: network file systems do not lock directories."""

_UNAVAILABLE: Final = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


_open_here: Final[set[int]] = set()
"""Descriptors of locks that this process holds."""


def _let_go() -> None:
    """In a copy of this process, whose descriptors would hold on after this one's end."""
    while _open_here:
        os.close(_open_here.pop())


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(run: Path, *, shared: bool = False) -> Iterator[bool]:
    """Holds the directory against others; the kernel lets go of it when this process dies.

    If the body raises, a lock that was made for it goes again, unless others hold it too.

    Args:
        run: the directory.
        shared: whether other processes may hold it so too.

    Yields:
        Whether it is held; False on a file system that has no locks. What processes write is whole all the same.

    Raises:
        InputError: if another process holds it.
    """
    descriptor, held, made = _hold(run, shared=shared)
    _open_here.add(descriptor)
    try:
        yield held
    except BaseException:
        if held and made:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (run / LOCK).unlink()
        raise
    finally:
        if descriptor in _open_here:
            _open_here.remove(descriptor)
            os.close(descriptor)


def _hold(run: Path, *, shared: bool) -> tuple[int, bool, bool]:
    """The descriptor, whether it is held, and whether this made the file."""
    while True:
        descriptor, made = _open(run)
        try:
            held = _lock(descriptor, run, shared=shared)
            # Another process may have taken the file away between the two.
            with writable("--out", run), suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), (run / LOCK).stat()):
                    return descriptor, held, made
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open(run: Path) -> tuple[int, bool]:
    with writable("--out", run):
        run.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            return os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        return os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o666), False


def _lock(descriptor: int, run: Path, *, shared: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNAVAILABLE:
            return False
        remedy = "another process is writing this run; wait for it or give another --out"
        raise InputError("--out", run, remedy) from error
    return True
