"""Who may write to the directory of a run: one process that does the whole, or several that each do a share."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..support.errors import InputError
from ..support.files import writable

LOCK: Final = ".lock"
"""An empty file: network file systems do not lock directories."""

_UNAVAILABLE: Final = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def locked(run: Path, *, shared: bool = False) -> Iterator[bool]:
    """Holds the directory against others; the kernel lets go of it when this process dies.

    Args:
        run: the directory, which is there.
        shared: whether other processes may hold it so too.

    Yields:
        Whether it is held; False on a file system that has no locks. What processes write is whole all the same.

    Raises:
        InputError: if another process holds it.
    """
    with writable("--out", run):
        descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            held = True
        except OSError as error:
            if error.errno not in _UNAVAILABLE:
                remedy = "another process is writing this run; wait for it or give another --out"
                raise InputError("--out", run, remedy) from error
            held = False
        yield held
    finally:
        os.close(descriptor)
