"""Choosing few combinations in which every two values meet that can meet."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def pairs_of(features: Sequence[Hashable]) -> set[tuple[int, Hashable, int, Hashable]]:
    """Every two of a combination's values, with their places."""
    numbered = list(enumerate(features))
    return {(i, a, j, b) for (i, a), (j, b) in itertools.combinations(numbered, 2)}


def cover(candidates: Iterable[tuple[Item, Sequence[Hashable]]], limit: int | None = None) -> list[Item]:
    """A small selection in which every pair of values occurs that occurs in any candidate; greedy, deterministic.

    Args:
        candidates: items with their values, all of the same length.
        limit: stop at so many items, the most useful first.
    """
    left = [(item, pairs_of(features)) for item, features in candidates]
    wanted: set[tuple[int, Hashable, int, Hashable]] = set().union(*(pairs for _, pairs in left)) if left else set()
    chosen: list[Item] = []
    while wanted and (limit is None or len(chosen) < limit):
        item, pairs = max(left, key=lambda entry: len(entry[1] & wanted))
        wanted -= pairs
        chosen.append(item)
    return chosen
