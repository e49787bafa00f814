"""What a comparison comes to: an outcome and a row. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .cases import Case

NAN_ON_ONE_SIDE = 2**63 - 1
"""The distance of a number from NaN; of float64 from an infinity too."""


APART = "states not compared"
"""How the detail of a comparison begins in which states that have torch's names were left alone, being no numbers."""


class Outcome(StrEnum):
    """How a comparison ended. Only IDENTICAL and CLOSE are passes; where nothing was compared nothing failed."""

    IDENTICAL = "identical"
    CLOSE = "close"
    MISMATCH = "mismatch"
    ERROR = "error"
    TIMEOUT = "timeout"
    UNSUPPORTED = "unsupported"
    NO_REFERENCE = "no reference"
    MISSING = "missing"

    @property
    def compared(self) -> bool:
        """Whether bits were put side by side."""
        return self in (Outcome.IDENTICAL, Outcome.CLOSE, Outcome.MISMATCH)

    @property
    def broke(self) -> bool:
        """Whether the provider raised, died or hung."""
        return self in (Outcome.ERROR, Outcome.TIMEOUT)

    @property
    def failed(self) -> bool:
        """Whether bits differ, or the provider broke."""
        return self is Outcome.MISMATCH or self.broke


@dataclass(frozen=True, kw_only=True)
class FirstMismatch:
    """The first element that differs in the first step that does, with bit patterns in hexadecimal.

    Attributes:
        step, quantity, index: where.
        inputs, provider, against: each quantity before the step, and after it on either side.
        largest: the largest difference after that step: `quantity`, `index`, `ulp` (of the dtype; bit patterns apart),
            and the two numbers, `provider` and `against`.
        torch: where a claim failed, what torch's own implementation does in the same case.
        line: for rules of ours, `where` and `text` of the line that made it.
    """

    step: int
    quantity: str
    index: int
    inputs: dict[str, str]
    provider: dict[str, str]
    against: dict[str, str]
    largest: dict[str, Any] = field(default_factory=dict)
    torch: str = ""
    line: dict[str, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As every document has it, without what there is nothing to say of."""
        optional = ("largest", "torch", "line")
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in found.items() if value or name not in optional}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the conformance table.

    `mismatching_bits`, `max_ulp` and `elements` speak of the first step whose results differ (later differences are
    its consequences).
    """

    provider: str
    against: str
    optimizer: str
    options: str
    recipe: str
    dtype: str
    shape: str
    values: str
    steps: int
    outcome: Outcome
    mismatching_bits: int = 0
    max_ulp: int = 0
    elements: dict[str, int] = field(default_factory=dict)
    first_mismatch: FirstMismatch | None = None
    detail: str = ""
    time_s: float = 0.0
    option_set: str = ""
    groups: str = ""
    histogram: dict[str, int] = field(default_factory=dict)

    def distance(self) -> str:
        """How far off the furthest element is, with its unit."""
        if self.max_ulp == NAN_ON_ONE_SIDE:
            return "NaN or infinite on one side"
        if not self.max_ulp:
            return "off in the sign of zero alone"
        return f"{self.max_ulp} ulp of {self.dtype} off"

    def as_dict(self) -> dict[str, Any]:
        """The row of the table, as every report has it; why a case was not compared stands in `first_mismatch`."""
        first = self.first_mismatch.as_dict() if self.first_mismatch else None
        return {
            "provider": self.provider,
            "against": self.against,
            "optimizer": self.optimizer,
            "options": self.options,
            "dtype": self.dtype,
            "shape": f"{self.shape}/{self.values}",
            "steps": self.steps,
            "mismatching_bits": self.mismatching_bits,
            "max_ulp": self.max_ulp,
            "first_mismatch": first or ({"detail": self.detail} if self.detail else None),
            "outcome": self.outcome,
        }

    def in_full(self) -> dict[str, Any]:
        """Every field."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**found, "first_mismatch": self.first_mismatch.as_dict() if self.first_mismatch else None}


def row_of(case: Case, provider: str, against: str, outcome: Outcome, detail: str = "") -> Row:
    """The row of a case that has nothing to show but an outcome; `dataclasses.replace` adds what it has."""
    return Row(
        provider=provider,
        against=against,
        optimizer=case.optimizer,
        options=case.option_text(),
        recipe=case.recipe,
        dtype=case.dtype,
        shape=case.layout,
        values=case.values,
        steps=case.steps,
        outcome=outcome,
        detail=detail,
        option_set=case.option_set(),
        groups=case.group_text(),
    )
