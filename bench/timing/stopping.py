"""When to stop: once every median is known well enough, within a number of rounds and a time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..store.compare import median_interval

RELATIVE_ERROR = 0.01
"""Of a median, below which another round would tell nothing that matters."""
FEWEST, MOST = 7, 50
"""Rounds: those that `bench compare` needs for an interval; those at which a median that does not settle is left."""
_LEVEL = 0.95
# Slow workloads: after so many times the time limit, so many rounds have to do.
_OVERRUN, ENOUGH = 3, 3


def relative_error(samples: Sequence[int]) -> float | None:
    """Half the 95 % interval of the median over the median, from order statistics; None below six samples."""
    interval = median_interval(samples, _LEVEL)
    if interval is None:
        return None
    ordered = sorted(samples)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return (interval[1] - interval[0]) / 2 / middle if middle else None


@dataclass
class Rounds:
    """The rounds of one workload.

    Attributes:
        limit_s: after which no further round begins once every provider has `FEWEST`.
        deadline: by `time.monotonic`: no round begins that would not be over by then, as long as the longest so far.
        count: rounds done.
        stopped_by: "" while they go on; then "relative error", "rounds" or "time".
    """

    limit_s: float
    deadline: float = math.inf
    count: int = 0
    stopped_by: str = ""
    _began: float = field(default_factory=lambda: time.monotonic())
    _last: float = field(default_factory=lambda: time.monotonic())
    _longest_s: float = 0.0

    def go_on(self, sound: int, measures: Iterable[Sequence[int]]) -> bool:
        """Whether to take another round.

        Args:
            sound: rounds that every provider has sound samples of; below `FEWEST` only limits end them.
            measures: every provider's samples of every measure that it has.
        """
        now = time.monotonic()
        spent_s = now - self._began
        self._longest_s, self._last = max(self._longest_s, now - self._last) if self.count else 0.0, now
        if self.count >= MOST:
            self.stopped_by = "rounds"
        elif now + self._longest_s > self.deadline or (self.count >= ENOUGH and spent_s > _OVERRUN * self.limit_s):
            self.stopped_by = "time"
        elif sound >= FEWEST:
            if spent_s > self.limit_s:
                self.stopped_by = "time"
            elif all(_known(samples) for samples in measures):
                self.stopped_by = "relative error"
        self.count += not self.stopped_by
        return not self.stopped_by


def _known(samples: Sequence[int]) -> bool:
    error = relative_error(samples)
    return error is not None and error <= RELATIVE_ERROR
