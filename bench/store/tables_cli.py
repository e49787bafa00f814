"""`python -m bench tables`."""

from __future__ import annotations

from typing import Annotated

import typer

from lossscale.support import files
from lossscale.support.errors import InputError


def tables_command(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 where a table differs.")] = False,
) -> int:
    """Fill the measured tables of README.md and docs/ from the kept results.

    Args:
        check: only compare.

    Returns:
        1 with ``check`` where a document's tables are not those of the results, else 0.
    """
    from . import tables

    stale = []
    for path in tables.documents():
        text = path.read_text(encoding="utf-8")
        try:
            filled = tables.filled(text)
        except tables.UnknownTable as unknown:
            remedy = f"marks a table that nobody makes ({unknown}); give one of {', '.join(tables.TABLES)}"
            raise InputError(path.name, "<!-- table -->", remedy) from None
        if filled != text:
            stale.append(str(path.relative_to(tables.ROOT)))
            if not check:
                files.write_text(path, filled)
    print(f"{'differ from the results' if check else 'filled'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))
