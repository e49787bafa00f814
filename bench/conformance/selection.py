"""Which cases `conform` runs: every two settings that can meet do meet in some case, not all against all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from ..pairwise import cover, pairs_of
from .cases import DTYPES, Case
from .option_sets import option_sets

Settings = Mapping[str, Mapping[str, Any]]

HAPPENINGS: Mapping[str, Settings] = {
    # Idle parameters and reloads are one dimension, so that every option meets a first gradient after a reload.
    "states": {
        "continuous": {},
        "reload": {"reload_at": 0},
        "idle": {"idle": True},
        "idle and reload": {"idle": True, "reload_at": 0},
        "pausing": {"pausing": True},
        "late": {"start_step": 999_999},
    },
    "groups": {"one": {}, "two": {"groups": 2}, "added": {"groups": 2, "added": True}},
    "call": {"plain": {}, "closure": {"closure": True}},
    "empty": {"as laid out": {}, **{place: {"empty": place} for place in ("last", "first", "group")}},
    "order": {"as created": {}, **{order: {"order": order} for order in ("reversed", "early")}},
    "loss": {
        "plain": {},
        "scaled": {"grad_scale": 3000.0},
        "overflow": {"grad_scale": 1024.0, "found_inf_at": 1},
        "late overflow": {"grad_scale": 1024.0, "found_inf_at": 2},
        "equivariance": {"power": 6},
        "anti-equivariance": {"power": -5},
    },
    "gradients": {"fresh": {}, "kept": {"keep_gradients": True}},
    "rate": {"constant": {}, **{kind: {"schedule": kind} for kind in ("falling", "warming", "cycled")}},
}
"""What happens around the steps: dimension → setting → what it changes of a case. The first of each changes nothing."""

ALONE: tuple[Mapping[str, Any], ...] = (
    {"copied": "deep"},
    {"copied": "pickled"},
    {"hooks": True},
    {"schedule": "warming"},
    {"schedule": "cycled"},
    {"tensor_lr": True, "schedule": "falling"},
    {"groups": 2, "flags": True},
    {"start_step": 3_000},
    {"mixed": True},
    {"repeated": True, "steps": 20},
)
"""What not every optimizer can do, or few faults show: a few cases of its own each, which cost the others nothing."""
_ALONE_SETS = 3

LAYOUTS = ("edges", "offset", "transposed", "strides", "tiny", "one", "blocks", "long")
VALUES = ("normal", "wide", "subnormal", "special")
STEPS = (3, 1, 2, 10)
_QUICK_LAYOUTS, _QUICK_STEPS = ("edges", "offset", "transposed", "strides"), (3, 2)
_LONG_RUN = 1000
QUICK_CASES = 40
"""Enough of the quick selection, which has its most useful cases first, where many optimizers are compared."""

_TRIES = 40

Choice = tuple[Any, ...]


def can_meet(case: Case) -> bool:
    """Whether the settings of a case go together."""
    if case.power and (case.values != "normal" or case.dtype == "fp16" or case.steps > 3):
        # Scaled runs repeat each other while nothing overflows or turns subnormal: not in fp16, and ordinary values.
        return False
    between = case.reload_at is not None or case.start_step or case.idle or case.added or case.keep_gradients
    between = between or case.pausing
    # A schedule lowers the learning rate after the second step.
    needed = 3 if case.schedule == "falling" else 2 if between or case.schedule != "constant" else 1
    if case.steps < max(needed, 1 + (case.found_inf_at or 0)):
        return False
    if case.found_inf_at == 1 and (case.idle or case.added):
        # What torch's fused kernels keep for a parameter whose first step overflows is not defined: uninitialised
        # memory for SGD's momentum.
        return False
    # Torch's GradScaler refuses closures.
    if case.grad_scale is not None and (case.values == "special" or case.closure):
        return False
    return not (case.layout in ("long", "tiny") and case.steps > 3)


def pairwise(dimensions: Sequence[Sequence[Any]], possible: Callable[..., bool], seed: int = 20) -> Iterator[Choice]:
    """Combinations in which every pair of values occurs that `possible` allows, the most useful first.

    The first combination has the first value of each dimension. After it, each starts from a pair that is still missing
    amid first values, and then one dimension after the other takes the value that brings most missing pairs.
    """
    places = [range(len(values)) for values in dimensions]
    generator = random.Random(seed)
    missing = _all_pairs(places)

    def allowed(choice: Sequence[int]) -> bool:
        return possible(*(values[k] for values, k in zip(dimensions, choice, strict=True)))

    def gain(choice: Sequence[int], place: int) -> int:
        mine = choice[place]
        return sum(
            ((k, other, place, mine) if k < place else (place, mine, k, other)) in missing
            for k, other in enumerate(choice)
            if k != place
        )

    found = [tuple(0 for _ in places)]
    missing -= pairs_of(found[0])
    for pair in sorted(missing):
        if pair not in missing:
            continue
        choice = _around(pair, places, allowed, generator)
        if choice is None:
            missing.discard(pair)
            continue
        for place in generator.sample(range(len(places)), len(places)):
            if place in (pair[0], pair[2]):
                continue
            others = [[*choice[:place], value, *choice[place + 1 :]] for value in places[place]]
            choice = max((other for other in others if allowed(other)), key=lambda other: gain(other, place))
        missing -= pairs_of(choice)
        found.append(tuple(choice))
    for useful in cover((choice, choice) for choice in found):
        yield tuple(values[k] for values, k in zip(dimensions, useful, strict=True))


def _around(
    pair: tuple[int, Any, int, Any],
    places: Sequence[range],
    allowed: Callable[[Sequence[int]], bool],
    generator: random.Random,
) -> list[int] | None:
    """A combination with a pair of values in it, the rest first values where that is possible; None where none is."""
    i, a, j, b = pair
    for attempt in range(_TRIES):
        choice = [0 if attempt == 0 else generator.choice(place) for place in places]
        choice[i], choice[j] = a, b
        if allowed(choice):
            return choice
    return None


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
        quick: fewer layouts and numbers of steps.
        limit: stop at so many, the most useful first.
    """
    cases = _selected(optimizer, recipe, tuple(dtypes), quick)
    if limit is not None:
        return cases[:limit]
    layout = "blocks" if recipe == "cpu-fused" else "one"
    found = {case.dtype: None for case in cases}
    longest = found if not quick else ()
    return [
        *cases,
        *_alone(optimizer, recipe, tuple(found)),
        *(_plain(optimizer, recipe, dtype=dtype, layout=layout, steps=_LONG_RUN) for dtype in longest),
    ]


def _alone(optimizer: str, recipe: str, dtypes: Sequence[str]) -> list[Case]:
    """The cases of `ALONE`, and one of the defaults."""
    plain = _plain(optimizer, recipe, layout="blocks" if recipe == "cpu-fused" else "edges", steps=3)
    found = [replace(plain, dtype=dtype, options={}) for dtype in dtypes[:1]]
    for settings in ALONE:
        found += [
            case
            for options in option_sets(optimizer)[: None if settings.get("repeated") else _ALONE_SETS]
            for dtype in (dtypes if settings.get("mixed") else dtypes[:1])
            if _stands_alone(case := replace(plain, options=options, dtype=dtype, **settings), dtypes)
        ]
    return found


def _stands_alone(case: Case, dtypes: Sequence[str]) -> bool:
    """Whether a case of `ALONE` tells right from wrong."""
    if case.mixed:
        # Both dtypes must be asked for; torch's vector loops on a CPU treat low precision in their own way.
        return case.recipe != "cpu-fused" and case.dtype != "fp32" and "fp32" in dtypes
    if case.flags:
        return bool(case.switches())
    # With a tensor for lr torch rounds AdamW's decay in its own way.
    return not (case.tensor_lr and case.options.get("weight_decay"))


def _plain(optimizer: str, recipe: str, **fields: Any) -> Case:
    return Case(optimizer=optimizer, recipe=recipe, **{"options": option_sets(optimizer)[0], **fields})


@cache
def _selected(optimizer: str, recipe: str, dtypes: tuple[str, ...], quick: bool) -> list[Case]:
    layouts: Sequence[str] = _QUICK_LAYOUTS if quick else LAYOUTS
    values: Sequence[str] = VALUES
    steps = _QUICK_STEPS if quick else STEPS
    if recipe == "cpu-fused":
        layouts, values, dtypes = ("blocks",), VALUES[:1], tuple(name for name in dtypes if name == "fp32")
    if not dtypes:
        return []
    dimensions: list[Sequence[Mapping[str, Any]]] = [
        [{"options": options} for options in option_sets(optimizer)],
        [{"dtype": dtype} for dtype in dtypes],
        [{"layout": layout} for layout in layouts],
        [{"values": kind} for kind in values],
        [{"steps": count} for count in steps],
        *(list(settings.values()) for settings in HAPPENINGS.values()),
    ]

    def case_of(*settings: Mapping[str, Any]) -> Case:
        return _plain(optimizer, recipe, **{name: value for one in settings for name, value in one.items()})

    return [case_of(*choice) for choice in pairwise(dimensions, lambda *choice: can_meet(case_of(*choice)))]
