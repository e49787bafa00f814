"""Work and what became of it: batches of items, results, and items without one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Batch(Generic[Item, Result]):
    """Items that one worker does in order, so that what they share is made once.

    Attributes:
        work: a function of module level, or a `functools.partial` of one: it is sent to the worker.
        items: its arguments; they are sent too.
    """

    work: Callable[[Item], Result]
    items: tuple[Item, ...]


class Ending(StrEnum):
    """How an item ended that has no result."""

    RAISED = "raised"
    DIED = "died"
    HUNG = "hung"


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Why an item has no result: the ending, and a traceback or a sentence."""

    ending: Ending
    text: str


@dataclass
class Done(Generic[Result]):
    """Results in the order they came, and how many items were left when time was up."""

    results: list[Result] = field(default_factory=list)
    not_run: int = 0
    replaced_workers: int = 0


def run_here(
    batches: Iterable[Batch[Item, Result]], deadline: float, on_result: Callable[[Result], None]
) -> Done[Result]:
    """Do every batch in this process until `deadline` (a `time.monotonic` value): no protection against hangs."""
    done: Done[Result] = Done()
    for batch in batches:
        for item in batch.items:
            if time.monotonic() > deadline:
                done.not_run += 1
                continue
            done.results.append(batch.work(item))
            on_result(done.results[-1])
    return done
