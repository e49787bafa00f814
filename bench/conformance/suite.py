"""From providers to rows: which comparisons a run makes, and where they run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..providers import Ours, Provider
from ..providers.foreign import UserClass
from ..providers.registry import default_reference, recipe_of
from . import pool
from .cases import DTYPES, Case, registered
from .drift import measurable
from .selection import conform_cases
from .table import FAILURES

CASE_LIMIT_S = 30.0
_SLOW_LIMIT_S = 240.0
_QUICK_CASES = 10
_SLOW_CASES = 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One provider's part of a run.

    Attributes:
        provider: under test.
        against: the reference, or None for float64 alone.
        claims_identity: whether a difference from `against` is a failed claim.
        allowed: the ulp from float64 per step that are claimed, or None.
    """

    provider: Provider
    against: Provider | None
    claims_identity: bool
    allowed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which cases a run makes: optimizers by class name, dtypes, and whether the small selection is enough."""

    optimizers: Sequence[str]
    dtypes: Sequence[str] = DTYPES
    quick: bool = False


def claims_of(
    provider: Provider, device: torch.device, *, against: Provider | None, allowed: int | None, chosen: bool
) -> Plan:
    """What a provider is held to: ours to their recipes, a class of the user's to its reference, others to nothing.

    Args:
        provider: the provider.
        device: where it runs.
        against: the reference that was asked for.
        allowed: the ulp from float64 that were asked for.
        chosen: whether a reference or a number of ulp was asked for.
    """
    reference = against or default_reference(provider, device)
    if chosen:
        return Plan(provider=provider, against=reference, claims_identity=allowed is None, allowed=allowed)
    return Plan(provider=provider, against=reference, claims_identity=isinstance(provider, (Ours, UserClass)))


def tasks_of(plan: Plan, selection: Selection) -> list[pool.Task]:
    """The comparisons of one provider: with its reference, with float64, and with itself on another loss."""
    slow = getattr(plan.provider, "slow", False)
    limit = _SLOW_CASES if slow else _QUICK_CASES if selection.quick else None
    found: dict[tuple[str, str, str], list[Case]] = {}
    for optimizer in selection.optimizers:
        if not _has(plan.provider, optimizer):
            continue
        cases = conform_cases(
            optimizer, recipe_of(plan.provider), dtypes=selection.dtypes, quick=selection.quick, limit=limit
        )
        for case in cases:
            kind = "itself" if case.power else "reference"
            chosen = replace(case, layout="one", values="normal") if slow else case
            found.setdefault((kind, optimizer, case.dtype), []).append(chosen)
        # Ours are known bit by bit; how far from float64 that is, is a question for the long run.
        if not (selection.quick and isinstance(plan.provider, Ours)):
            for case in _measured(cases):
                found.setdefault(("float64", optimizer, case.dtype), []).append(case)
    against = {"reference": plan.against, "itself": plan.provider, "float64": None}
    return [
        pool.Task(provider=plan.provider, against=against[key[0]], cases=tuple(cases), allowed=plan.allowed)
        for key, cases in found.items()
        if against[key[0]] is not None or key[0] == "float64"
    ]


def _measured(cases: Sequence[Case]) -> list[Case]:
    """The cases that have a float64 counterpart, and a plain one for every option set and dtype without any."""
    found = [case for case in cases if measurable(case)]
    seen = {(case.option_set(), case.dtype) for case in found}
    for case in cases:
        if (case.option_set(), case.dtype) not in seen and hasattr(torch.optim, case.optimizer):
            seen.add((case.option_set(), case.dtype))
            layout = case.layout if case.recipe == "cpu-fused" else "edges"
            found.append(
                Case(
                    optimizer=case.optimizer, recipe=case.recipe, options=case.options, dtype=case.dtype, layout=layout
                )
            )
    return [case for case in found if hasattr(torch.optim, case.optimizer)]


def _has(provider: Provider, optimizer: str) -> bool:
    """Whether it makes sense to ask the provider: torch and packages are asked for torch's optimizers only."""
    if isinstance(provider, Ours):
        return provider.recipe in registered(optimizer).recipes
    if isinstance(provider, UserClass):
        return True
    offered = getattr(provider, "classes", None)
    return hasattr(torch.optim, optimizer) and (offered is None or optimizer in offered)


def run(
    plans: Sequence[Plan], selection: Selection, *, device: str, deadline: float, on_row: Callable[[Any], None]
) -> pool.PoolReport:
    """All comparisons of `plans`, in worker processes: first those that run Triton's interpreter, then the others."""
    total = pool.PoolReport()
    interpreted = [plan for plan in plans if _interpreted(plan.provider)]
    slow = [plan for plan in plans if getattr(plan.provider, "slow", False)]
    others = [plan for plan in plans if plan not in interpreted and plan not in slow]
    workers = max(1, min(8, len(os.sched_getaffinity(0))))
    for part, environment, limit_s in (
        (interpreted, {"TRITON_INTERPRET": "1"}, CASE_LIMIT_S),
        (others, {"TRITON_INTERPRET": "0"}, CASE_LIMIT_S),
        (slow, {"TRITON_INTERPRET": "0"}, _SLOW_LIMIT_S),
    ):
        tasks = [task for plan in part for task in tasks_of(plan, selection)]
        if not tasks:
            continue
        runner = pool.Pool(workers=workers, device=device, case_limit_s=limit_s, environment=environment)
        report = runner.run(tasks, deadline, on_row)
        total.rows += report.rows
        total.not_run += report.not_run
        total.replaced_workers += report.replaced_workers
    return total


def _interpreted(provider: Provider) -> bool:
    return isinstance(provider, Ours) and provider.backend == "interpreter"


def failed(rows: Sequence[Any], plans: Sequence[Plan]) -> list[Any]:
    """Rows that break a claim: any error or hang, a difference where identity or a distance is claimed."""
    by_name = {plan.provider.name: plan for plan in plans}

    def fails(row: Any) -> bool:
        if row.outcome not in FAILURES:
            return False
        if row.outcome != "mismatch":
            return True
        # Against float64 a mismatch is only reported beyond the claimed distance.
        return row.against == "float64" or by_name[row.provider].claims_identity

    return [row for row in rows if fails(row)]


def deadline_after(seconds: float) -> float:
    """A `time.monotonic` value so many seconds from now."""
    return time.monotonic() + seconds
