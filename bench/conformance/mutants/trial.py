"""One mutant against the sound reference, case by case."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ...providers import Ours
from .. import bitwise
from ..cases import DTYPES, Case
from ..compare import trace
from ..option_sets import option_sets
from ..selection import HAPPENINGS, QUICK_CASES, conform_cases
from ..side import Side
from .mutant import Mutant, MutantProvider, load
from .tolerance import STYLES, accepted

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What became of a mutant.

    Attributes:
        name, fault, kind, place: the mutant's.
        cases: how many were run.
        killed_by: text of the first case that shows the fault; "" for a survivor.
        killing: how many cases show it.
        evidence: the first difference in words.
        let_through: the tolerance styles that accept it in every case.
    """

    name: str
    fault: str
    kind: str
    place: str
    cases: int
    killed_by: str
    killing: int
    evidence: str
    let_through: tuple[str, ...]


def trial_cases(optimizer: str, recipe: str) -> list[Case]:
    """The head of the quick selection, each happening by itself, and what launches have of their own."""
    cases = [case for case in conform_cases(optimizer, recipe, quick=True, limit=QUICK_CASES) if not case.power]
    plain = Case(optimizer=optimizer, recipe=recipe, options=option_sets(optimizer)[0], layout="edges", steps=3)
    richest = next((c.options for c in cases if "momentum" in c.options or "amsgrad" in c.options), plain.options)
    extra = [replace(plain, layout="long", steps=1)]
    for dimension, settings in HAPPENINGS.items():
        # The gradients of a scaler's cases meet the plain options, where a product more or less is not hidden.
        options = plain.options if dimension == "loss" else richest
        happenings = [replace(plain, options=options, **fields) for fields in list(settings.values())[1:]]
        extra += [case for case in happenings if not case.power]
    # With decay in every group two groups share their options, and so one launch.
    # ... and decay alone is what torch's fused kernels contract lane by lane.
    decay = next((c.options["weight_decay"] for c in cases if c.options.get("weight_decay")), None)
    if decay is not None:
        decayed = {**plain.options, "weight_decay": decay}
        extra += [replace(plain, options=decayed, groups=2), replace(plain, options=decayed, layout="offset")]
    seen = {(c.option_set(), c.dtype) for c in cases}
    # Every option in every dtype: what a dtype hides from one option it shows with another.
    sets = {case.option_set(): case.options for case in cases}
    extra += [
        replace(plain, layout="one", options=options, dtype=dtype, steps=2)
        for text, options in sets.items()
        for dtype in DTYPES
        if (text, dtype) not in seen
    ]
    return [*cases, *extra]


def run_trial(mutant: Mutant, *, thorough: bool = True) -> Trial:
    """Run the mutant's cases in this interpreter process.

    Args:
        mutant: what to run.
        thorough: go on after the first case that shows the fault, to see what the tolerance styles say to all.
    """
    killed_by = evidence = ""
    killing = count = 0
    through = set(STYLES)
    for text, difference, styles in _outcomes(mutant):
        count += 1
        through &= styles
        if difference:
            killing += 1
            killed_by, evidence = killed_by or text, evidence or difference
            if not thorough:
                break
    return Trial(
        name=mutant.name,
        fault=mutant.fault,
        kind=mutant.kind,
        place=mutant.place,
        cases=count,
        killed_by=killed_by,
        killing=killing,
        evidence=evidence,
        let_through=tuple(name for name in STYLES if name in through) if thorough else (),
    )


def _outcomes(mutant: Mutant) -> Iterator[tuple[str, str, set[str]]]:
    """Per case: its text, the first difference ("" for none) and the styles that accept the result."""
    if mutant.far:
        yield _far(mutant)
    for case in trial_cases(mutant.optimizer, mutant.recipe):
        text = f"{case.option_text()} {case.dtype} {case.layout}/{case.values} {case.steps} steps"
        yield text, *_run(mutant, case)


def _run(mutant: Mutant, case: Case) -> tuple[str, set[str]]:
    # The interpreter on both sides would share a fault of ours in it: the reference is tensor operations.
    theirs = Side(Ours(recipe=mutant.recipe, backend="reference"), case, CPU)
    difference = ""
    # A copy that cannot be imported is a fault of the catalogue, not one that the suite found.
    load(mutant)
    try:
        ours = Side(MutantProvider(mutant=mutant), case, CPU)
        for index in range(case.steps):
            theirs.step(index)
            ours.step(index)
            difference = difference or _difference(index, ours.arrays(), theirs.arrays())
    except Exception:
        # Whoever looks at all sees an exception.
        return trace().strip().splitlines()[-1], set()
    # Elsewhere nobody tests with infinities and NaN, and most of these styles could not.
    styles = accepted(ours.parameters, theirs.parameters) if case.values in ("normal", "wide") else set(STYLES)
    return difference, styles


def _difference(index: int, mine: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> str:
    if missing := set(mine) ^ set(other):
        return f"step {index}: only one side has {', '.join(sorted(missing))}"
    for name in sorted(other, key=lambda key: (key == "grad", key == "param")):
        if mine[name].shape != other[name].shape:
            return f"step {index}: {name} has another shape"
        wrong = bitwise.unequal(mine[name], other[name])
        if bool(wrong.any()):
            where = int(wrong.nonzero()[0])
            texts = bitwise.as_hex(mine[name], where), bitwise.as_hex(other[name], where)
            return f"step {index}: {name}[{where}] {texts[0]}, not {texts[1]}"
    return ""


def _far(mutant: Mutant) -> tuple[str, str, set[str]]:
    """The launch at 2^31 elements: nobody else's tests go there."""
    from .far import far_step

    text = "chunks beyond element 2^31"
    try:
        stepped = far_step(load(mutant))
    except Exception:
        return text, trace().strip().splitlines()[-1], set(STYLES)
    sound = far_step(importlib.import_module("kernels"))
    count = int(bitwise.unequal(stepped, sound).sum())
    return text, f"{count} of {sound.numel()} elements differ" if count else "", set(STYLES)
