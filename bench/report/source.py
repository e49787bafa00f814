"""A result that stands on the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..store.load import Result
from ..store.schema import StepRow
from ..timing.cost_model import busy_ns


@dataclass(frozen=True, kw_only=True)
class Source:
    """A result on the page.

    Attributes:
        path: its file.
        label: what the page calls it.
        result: what was read.
    """

    path: Path
    label: str
    result: Result

    @property
    def rows(self) -> list[StepRow]:
        """With a time."""
        return [row for row in self.result.rows.values() if busy_ns(row)]

    @property
    def machine(self) -> str:
        """The device's name."""
        found = self.result.document.get("provenance", {})
        return str(found.get("device_name") or found.get("processor") or "an unnamed machine")
