"""``--shard i/N``: the cohorts of a run that one of N processes does."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from ..design.spec import Cohort
from ..support.errors import InputError


@dataclass(frozen=True)
class Share:
    """The ``index``-th of ``count`` shares, counted from 1: every ``count``-th cohort."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str, argument: str = "--shard") -> Self:
        """From ``i/N``.

        Raises:
            InputError: unless 1 ≤ i ≤ N.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        index, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= index <= count:
            raise InputError(argument, text, "is no share of a run; give i/N with i from 1 to N, such as 1/4")
        return cls(index, count)

    @classmethod
    def chosen(cls, text: str | None, *, resume: bool, strict: bool) -> Self | None:
        """What was asked for by ``--shard``, beside ``--resume`` and ``--strict``.

        Raises:
            InputError: as `parse`, and with an option that is the whole run's.
        """
        if text is None:
            return None
        share = cls.parse(text)
        if resume:
            remedy = "a share goes on by itself, and --resume finishes the whole run; leave one of the two out"
            raise InputError("--shard", text, remedy)
        if strict:
            remedy = "a share has no verdicts for --strict to judge; give that with the --resume that finishes the run"
            raise InputError("--shard", text, remedy)
        return share

    def __str__(self) -> str:
        """As it is typed."""
        return f"{self.index}/{self.count}"

    def of(self, cohorts: Iterable[Cohort]) -> Iterator[Cohort]:
        """Its cohorts. Shares of one count have no cohort in common, and together all of them."""
        return itertools.islice(cohorts, self.index - 1, None, self.count)
