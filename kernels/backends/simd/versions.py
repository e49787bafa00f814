"""Choices that all lanes make alike, made once for all elements: code for what is expected, and code for the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from .code import Code
from .operations import Operation, Recording

_UNEXPECTED = ("eq",)
"""Comparisons of a hyperparameter that rarely hold: that it is the one number for which an operation is contracted."""


def versions(code: Code, recording: Recording, shared: Mapping[int, str]) -> Iterator[Recording]:
    """The recording with its uniform choices made as expected, then as it is: emit each where it is given.

    Which of the two runs is decided when the code gets there. A recording without such choices is given once.

    Args:
        code: written to; what is emitted for a version lies in a branch of its own.
        recording: of which the lanes are to be emitted.
        shared: from `uniforms`.
    """
    expected = _expected(recording)
    if not expected:
        yield recording
        return
    holds = "true"
    for number, truth in expected.items():
        holds = code.new(f"and i1 {holds}, {code.new(f'icmp eq i1 {shared[number]}, {str(truth).lower()}')}")
    with code.when(holds):
        yield decided(recording, expected)
    with code.when(code.new(f"xor i1 {holds}, true")):
        yield recording


def _expected(recording: Recording) -> dict[int, bool]:
    """The uniform conditions by which lanes choose, and what is expected of each."""
    conditions = (x.needs[0] for x in recording.operations if x.name == "where" and not x.uniform)
    return {x.number: x.name not in _UNEXPECTED for x in conditions if x.uniform and x.name != "constant"}


def decided(recording: Recording, truths: Mapping[int, bool]) -> Recording:
    """The recording with what is chosen in place of every choice by one of these conditions, and what that needs.

    Args:
        recording: of any kind.
        truths: by the number of a condition.
    """
    made: dict[int, Operation] = {}
    for x in recording.operations:
        if x.name == "where" and x.needs[0].number in truths:
            made[x.number] = made[x.needs[1 if truths[x.needs[0].number] else 2].number]
            continue
        operands = tuple(made[y.number] if isinstance(y, Operation) else y for y in x.operands)
        same = all(y is z for y, z in zip(operands, x.operands, strict=True))
        made[x.number] = x if same else dataclasses.replace(x, operands=operands)
    needed: set[int] = set()
    kept = []
    for x in reversed([y for number, y in made.items() if y.number == number]):
        if x.name == "store" or x.number in needed:
            kept.append(x)
            needed.update(y.number for y in x.needs)
    return dataclasses.replace(recording, operations=tuple(reversed(kept)))
