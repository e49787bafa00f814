"""What a command prints: a table for people, or one JSON document and nothing else on standard output."""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Row = Mapping[str, Any]

_SECONDS = {"_ns": 1e-9, "_us": 1e-6, "_ms": 1e-3}
"""What the end of a column's name says about its times."""


class Output:
    """A command's output, as a context manager around the whole command.

    With ``as_json``, everything that is printed inside (by this process, its libraries and its workers) goes to
    standard error, and the document of `table` is printed at the end. After an exception there is no document.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._document: dict[str, Any] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self.as_json:
            self._stack.enter_context(printed_as_errors())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if kind is None and self._document is not None:
            print(to_json(self._document))

    def note(self, text: str = "") -> None:
        """Prints a line for people: on standard output, or on standard error with ``as_json``."""
        print(text, file=sys.stderr if self.as_json else sys.stdout)

    def table(
        self, rows: Sequence[Row], columns: Sequence[str] | None = None, *, title: str = "", **fields: Any
    ) -> None:
        """The command's table: printed with aligned columns, or kept as the document ``{"rows": rows, **fields}``.

        Args:
            rows: one mapping a row.
            columns: which columns people see and in what order, by default all. The document always has all.
            title: a line above the table, for people only.
            fields: further fields of the document.
        """
        if self.as_json:
            if self._document is not None:
                raise RuntimeError("a command prints one JSON document; it called Output.table twice")
            self._document = {"rows": list(rows), **fields}
            return
        if title:
            print(title)
        print(format_table(rows, columns))


@contextmanager
def printed_as_errors() -> Iterator[None]:
    """What this process, its libraries and its new workers print inside goes to standard error."""
    sys.stdout.flush()
    # The descriptor too: compiled libraries and worker processes do not know sys.stdout.
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def format_table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """The rows as lines of aligned text, numbers to the right; times as `heading` and `cell` have them."""
    names = list(columns) if columns is not None else list(dict.fromkeys(name for row in rows for name in row))
    headings = list(map(heading, names))
    cells = [[cell(name, row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    numeric = [any(is_number(row.get(name)) for row in rows) for name in names]

    def line(texts: Sequence[str]) -> str:
        aligned = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(texts, widths, numeric, strict=True)
        )
        return "  ".join(aligned).rstrip()

    return "\n".join([line(headings), line(["-" * width for width in widths]), *map(line, cells)])


def heading(name: str) -> str:
    """What people read above a column: of a time (``step_us``) the name without the unit, which stands in the cells."""
    return name[: -len(_unit(name))] if _unit(name) else name


def cell(name: str, value: object) -> str:
    """A column's value as people read it: a time in a unit that reads well, anything else as `format_cell` has it."""
    unit = _unit(name)
    if unit and isinstance(value, int | float) and math.isfinite(value):
        return format_time(value * _SECONDS[unit])
    return format_cell(value)


def format_time(seconds: float) -> str:
    """Three digits and the unit that makes them read well: 25.3 µs, 196 ms, 1.2 s."""
    for unit, size in (("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3)):
        if abs(seconds) < 999.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if abs(seconds) < 999.5 else f"{seconds:.0f} s"


def _unit(name: str) -> str:
    return next((unit for unit in _SECONDS if name.endswith(unit)), "")


def format_cell(value: object) -> str:
    """A value as people read it: four significant digits for floats, nothing for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def is_number(value: object) -> bool:
    """Whether the value belongs in a right-aligned column."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def to_json(document: Any, *, indent: int | None = 2) -> str:
    """JSON text of records, mappings, sequences, paths, numpy scalars and arrays; NaN and infinities become null."""
    return json.dumps(plain(document), indent=indent, allow_nan=False, ensure_ascii=False)


def plain(value: Any) -> Any:
    """The value as lists, dictionaries, text, numbers, booleans and None: what `to_json` writes."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's and torch's scalars and arrays, without importing either
        return plain(value.tolist())
    raise TypeError(f"a {type(value).__name__} has no place in a JSON document: {value!r}")
