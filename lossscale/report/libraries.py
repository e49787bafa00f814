"""What pages and pictures need beyond the core: looked for before anything is drawn."""

from __future__ import annotations

from importlib.util import find_spec


class LibraryMissing(ImportError):
    """A page or picture needs a library that is not installed."""

    def __init__(self, what: str, library: str) -> None:
        super().__init__(f"{what} needs {library}: pip install {library}, then make it with {_AGAIN[what]}")


_AGAIN = {"the page": "python -m lossscale report RUN", "the picture": "python -m lossscale picture RUN"}


def require(what: str, *libraries: str) -> None:
    """Checks that the libraries are installed, without importing them.

    Args:
        what: ``the page`` or ``the picture``.
        libraries: their names, which are those of their packages.

    Raises:
        LibraryMissing: for the first that is not.
    """
    for library in libraries:
        if find_spec(library) is None:
            raise LibraryMissing(what, library)
