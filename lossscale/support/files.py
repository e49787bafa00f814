"""Whole-file writes: a reader, or a run resumed after a kill, finds the old file or the new one, never a part."""

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError, check_ending
from .output import to_json

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@contextmanager
def whole_file(path: Path, *, argument: str = "--out") -> Iterator[Path]:
    """Yields a temporary path beside ``path``; what the body writes there becomes ``path`` in one step.

    The temporary name starts with a dot and ends in ``.tmp``, so give writers that add endings (numpy's) an open file.
    Directories are created. If the body raises, everything is as it was.

    Raises:
        InputError: the place cannot be written, or its disk is full; ``argument`` names where the path came from.
    """
    with _temporary(path, argument) as temporary:
        try:
            yield temporary
        except OSError as error:
            if error.errno in _FULL:
                raise _unwritable(argument, path, error) from error
            raise
        with writable(argument, path):
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)


def check_file(argument: str, path: Path | None, *endings: str) -> None:
    """Refuses, before any work is done, a file that could not be written when it is; None is no file.

    Args:
        argument: where the path came from.
        path: what is to be written later.
        endings: that its name may have.

    Raises:
        InputError: the name ends in another way, or the place cannot be written.
    """
    check_ending(argument, path, *endings)
    if path is not None:
        with suppress(_Tried), _temporary(path, argument):
            # So that directories which were created go again.
            raise _Tried


class _Tried(Exception):
    pass


def write_bytes(path: Path, data: bytes, *, argument: str = "--out") -> None:
    """Writes a whole file. Errors as `whole_file`."""
    with whole_file(path, argument=argument) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str, *, argument: str = "--out") -> None:
    """Writes a whole file in UTF-8, line ends as given. Errors as `whole_file`.

    Half of a pair of code units, from somebody's message or a name that is no text, becomes a question mark.
    """
    write_bytes(path, text.encode(errors="replace"), argument=argument)


def write_json(path: Path, document: Any, *, argument: str = "--out") -> None:
    """Writes a document as `to_json` spells it, with a final line end. Errors as `whole_file`."""
    write_text(path, to_json(document) + "\n", argument=argument)


def create_text(path: Path, text: str, *, argument: str = "--out") -> bool:
    """Writes a whole file in UTF-8 if there is none yet: of several processes, on several machines too, one does.

    Returns:
        Whether it was this one; otherwise the file is another's, and whole.

    Raises:
        InputError: as `whole_file`, and for a file system that has no hard links, which this takes.
    """
    with _temporary(path, argument) as temporary, writable(argument, path):
        temporary.write_bytes(text.encode())
        _sync(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            # Over NFS the answer to a link that was made may be lost, and the question asked again.
            if temporary.stat().st_nlink < 2:
                return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            remedy = "lies on a file system without hard links, which several processes need; give another place"
            raise InputError(argument, path, remedy) from error
        _sync(path.parent)
    return True


def make_directory(path: Path, *, argument: str = "--out") -> Path:
    """Creates the directory with its parents, tries a write in it, and returns it. Errors as `whole_file`."""
    with made_directory(path, argument=argument):
        return path


@contextmanager
def made_directory(path: Path, *, argument: str = "--out") -> Iterator[None]:
    """As `make_directory`; if the body raises, the directories that were created go again, unless they hold something.

    Raises:
        InputError: as `whole_file`.
    """
    with _created(path, argument, path):
        with writable(argument, path):
            probe = path / f".probe.{secrets.token_hex(4)}.tmp"
            os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            probe.unlink()
        yield


@contextmanager
def _created(directory: Path, argument: str, given: Path) -> Iterator[None]:
    with writable(argument, given):
        missing = [each for each in (directory, *directory.parents) if not each.exists()]
    try:
        with writable(argument, given):
            directory.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise


def remove_leftovers(directory: Path) -> int:
    """Removes the temporary files that killed writers left below the directory, and returns how many there were.

    Only for a directory that no process is writing to.
    """
    leftovers = [path for path in directory.rglob(".*.tmp") if _LEFTOVER.fullmatch(path.name)]
    for path in leftovers:
        path.unlink()
    return len(leftovers)


@contextmanager
def _temporary(path: Path, argument: str) -> Iterator[Path]:
    """Makes an empty file beside ``path`` before any work, so that an unwritable place shows; its mode is umask's."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with writable(argument, path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with _created(path.parent, argument, path):
        try:
            with writable(argument, path):
                os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield temporary
        finally:
            # Where the directory cannot be reached there is no file either.
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def writable(argument: str, path: Path) -> Iterator[None]:
    """An error of the file system about ``path`` is one line.

    Raises:
        InputError: for an OSError inside.
    """
    try:
        yield
    except OSError as error:
        raise _unwritable(argument, path, error) from error


def _unwritable(argument: str, path: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(argument, path, f"cannot be written ({reason}); give a place that can")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
