"""What a command has cost so far: time, processor time, memory. Linux's own counts."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stopwatch:
    """Begins when it is made."""

    began: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """One line: seconds since then, and of this process and of those it waited for processor time and memory."""
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        spent = sum(os.times()[:4])
        workers = f" and {children.ru_maxrss / 1e6:.2f} GB in the largest worker" if children.ru_maxrss else ""
        return (
            f"{time.monotonic() - self.began:.0f} s in all, {spent:.0f} s of processor time; memory: at most "
            f"{own.ru_maxrss / 1e6:.2f} GB in this process{workers}"
        )
