"""Which cases `conform` runs: every two settings that can meet do meet in some case, not all against all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..pairwise import pairs_of
from .cases import DTYPES, Case, option_sets

# What happens around the steps, beside the plain loop.
HAPPENINGS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "reload": {"reload_at": 0},
    "groups": {"groups": 2},
    "schedule": {"schedule": "falling"},
    "scaled": {"grad_scale": 3000.0},
    "overflow": {"grad_scale": 1024.0, "found_inf_at": 1},
    "kept": {"keep_gradients": True},
    "idle": {"idle": True},
    "late": {"start_step": 999_999},
    "equivariance": {"power": 6},
    "anti-equivariance": {"power": -5},
}
LAYOUTS = ("edges", "offset", "transposed", "strides", "tiny", "one", "blocks", "long")
VALUES = ("normal", "wide", "subnormal", "special")
STEPS = (3, 1, 2, 10)
_QUICK_LAYOUTS, _QUICK_STEPS = ("edges", "offset", "transposed", "strides"), (3, 2)
_LONG_RUN = 1000
_TRIES = 40

Choice = tuple[Any, ...]


def _possible(options: Mapping[str, Any], dtype: str, layout: str, values: str, steps: int, happening: str) -> bool:
    if happening in ("equivariance", "anti-equivariance"):
        # Scaled runs repeat each other while nothing overflows or turns subnormal: not in fp16, and ordinary values.
        return values == "normal" and dtype != "fp16" and steps <= 3
    if happening != "plain" and steps < (3 if happening == "schedule" else 2):
        # A schedule lowers the learning rate after the second step.
        return False
    if happening in ("scaled", "overflow") and values == "special":
        return False
    return not (layout in ("long", "tiny") and steps > 3)


def pairwise(dimensions: Sequence[Sequence[Any]], possible: Callable[..., bool], seed: int = 20) -> Iterator[Choice]:
    """Combinations in which every pair of values occurs that `possible` allows; the first value of each comes first.

    Greedy: each round completes a pair that is still missing in several random ways and keeps the one that brings most.
    """
    places = [range(len(values)) for values in dimensions]
    generator = random.Random(seed)
    missing = _all_pairs(places)

    def values_of(choice: Sequence[int]) -> Choice:
        return tuple(values[k] for values, k in zip(dimensions, choice, strict=True))

    first = tuple(0 for _ in places)
    yield values_of(first)
    missing -= pairs_of(first)
    for pair in sorted(missing):
        if pair not in missing:
            continue
        i, a, j, b = pair
        best: tuple[int, tuple[int, ...]] | None = None
        for _ in range(_TRIES):
            choice = [generator.choice(place) for place in places]
            choice[i], choice[j] = a, b
            if possible(*values_of(choice)):
                gain = len(pairs_of(choice) & missing)
                if best is None or gain > best[0]:
                    best = gain, tuple(choice)
        missing.discard(pair)
        if best is not None:
            missing -= pairs_of(best[1])
            yield values_of(best[1])


def _all_pairs(places: Sequence[range]) -> set[tuple[int, Any, int, Any]]:
    return {
        (i, a, j, b)
        for i in range(len(places))
        for j in range(i + 1, len(places))
        for a in places[i]
        for b in places[j]
    }


def conform_cases(
    optimizer: str, recipe: str, *, dtypes: Sequence[str] = DTYPES, quick: bool = False, limit: int | None = None
) -> list[Case]:
    """The cases of one optimizer for a provider that rounds like `recipe`.

    Args:
        optimizer: torch's class name.
        recipe: decides the layouts that compare at all: `cpu-fused` means real torch on a CPU, whose vector loops treat
            the tail of a tensor, special values and low precision in their own way.
        dtypes: of the tensors.
        quick: fewer shapes, and every option and happening once rather than in pairs.
        limit: stop at so many.
    """
    layouts: Sequence[str] = _QUICK_LAYOUTS if quick else LAYOUTS
    values: Sequence[str] = VALUES
    steps = _QUICK_STEPS if quick else STEPS
    if recipe == "cpu-fused":
        layouts, values, dtypes = ("blocks",), VALUES[:1], [name for name in dtypes if name == "fp32"]
    if not dtypes:
        return []
    options = option_sets(optimizer)
    dimensions = (options, dtypes, layouts, values, steps, tuple(HAPPENINGS))
    cases: list[Case] = []
    for choice in pairwise(dimensions, _possible) if not quick else _each_once(dimensions):
        chosen, dtype, layout, kind, count, happening = choice
        case = Case(
            optimizer=optimizer,
            recipe=recipe,
            options=chosen,
            dtype=dtype,
            layout=layout,
            values=kind,
            steps=count,
            **HAPPENINGS[happening],
        )
        cases.append(case)
        if limit is not None and len(cases) >= limit:
            return cases
    if not quick:
        layout = "blocks" if recipe == "cpu-fused" else "one"
        plain = Case(optimizer=optimizer, recipe=recipe, options=options[0], layout=layout)
        cases += [replace(plain, dtype=dtype, steps=_LONG_RUN) for dtype in dtypes]
    return cases


def _each_once(dimensions: Sequence[Sequence[Any]]) -> Iterator[Choice]:
    """Every value of every dimension, in as many combinations as the longest dimension has values."""
    generator = random.Random(7)
    longest = max(len(values) for values in dimensions)
    orders = [[values[k % len(values)] for k in range(longest)] for values in dimensions]
    for order in orders[1:]:
        generator.shuffle(order)
    for choice in zip(*orders, strict=True):
        # A happening that cannot meet the other values gives way to the plain loop.
        yield choice if _possible(*choice) else (*choice[:-1], "plain")
