"""From providers to rows: which comparisons a run makes, and where they run."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ..providers import Provider
from ..providers.registry import reference_of, references
from ..providers.torch_optim import TorchOptim
from ..workers import Done
from .cases import DTYPES, Case
from .drift import measurable
from .execution import Cases, batch, case_pool
from .rows import Outcome, Row
from .selection import conform_cases

CASE_LIMIT_S = 30.0
_SLOW_LIMIT_S = 240.0
_SLOW_CASES = 2
_INTERPRETED_CASES = 10
_CASES_A_WORKER = 200
"""A worker takes 2 s to start: with fewer comparisons for each, more workers end no sooner."""


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """One provider of a run, and what it is held to.

    Attributes:
        provider: under test.
        against: the reference; where torch lacks an optimizer, ours takes its place (`reference`).
        claims_identity: whether a difference from `against` is a failed claim.
        allowed: the ulp from float64 per step that are claimed, or None.
    """

    provider: Provider
    against: Provider
    claims_identity: bool
    allowed: int | None = None

    def reference(self, optimizer: str) -> Provider:
        """What it is held against for an optimizer; torch has no Adam-atan2, say."""
        lacking = isinstance(self.against, TorchOptim) and not hasattr(torch.optim, optimizer)
        return references()["reference-foreach"] if lacking else self.against


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which cases a run makes.

    Attributes:
        optimizers: by class name.
        dtypes: of the tensors.
        quick: the small selection is enough.
        limit: of each (provider, optimizer), only so many, the most useful first.
    """

    optimizers: Sequence[str]
    dtypes: Sequence[str] = DTYPES
    quick: bool = False
    limit: int | None = None


def entrant(
    provider: Provider, device: torch.device, *, against: Provider | None, allowed: int | None, chosen: bool
) -> Entrant:
    """What a provider is held to: to its reference if that was asked for or it claims so of itself, else to nothing.

    Args:
        provider: the provider.
        device: where it runs.
        against: the reference that was asked for.
        allowed: the ulp from float64 that were asked for.
        chosen: whether a reference or a number of ulp was asked for.
    """
    claims = allowed is None if chosen else provider.traits.claims_identity
    return Entrant(
        provider=provider,
        against=against or reference_of(provider, device),
        claims_identity=claims,
        allowed=allowed if chosen else None,
    )


def batches_of(entrant: Entrant, selection: Selection, device: str) -> list[Cases]:
    """The comparisons of one provider: with its reference, with float64, and with itself on another loss."""
    provider, traits = entrant.provider, entrant.provider.traits
    limit = _SLOW_CASES if traits.slow else selection.limit
    if selection.quick and traits.interpreted:
        limit = _INTERPRETED_CASES
    found: dict[tuple[str, str, str], list[Case]] = {}
    for optimizer in selection.optimizers:
        if not provider.offers(optimizer):
            continue
        cases = conform_cases(optimizer, traits.recipe, dtypes=selection.dtypes, quick=selection.quick, limit=limit)
        for case in cases:
            kind = "itself" if case.power else "reference"
            chosen = replace(case, layout="one", values="normal") if traits.slow else case
            found.setdefault((kind, optimizer, case.dtype), []).append(chosen)
        # How far known bits are from float64 is a question for the long run.
        if not (selection.quick and traits.bits_known):
            for case in measured(cases):
                found.setdefault(("float64", optimizer, case.dtype), []).append(case)
    return [
        batch(
            provider,
            None if kind == "float64" else provider if kind == "itself" else entrant.reference(optimizer),
            cases,
            device,
            allowed=entrant.allowed,
            claimed=entrant.claims_identity or (kind == "float64" and entrant.allowed is not None),
        )
        for (kind, optimizer, _), cases in found.items()
    ]


def measured(cases: Sequence[Case]) -> list[Case]:
    """The cases that have a float64 counterpart, and a plain one for every option set and dtype without any."""
    found = [case for case in cases if measurable(case)]
    seen = {(case.option_set(), case.dtype) for case in found}
    for case in cases:
        if case.options and (case.option_set(), case.dtype) not in seen and hasattr(torch.optim, case.optimizer):
            seen.add((case.option_set(), case.dtype))
            layout = case.layout if case.recipe == "cpu-fused" else "edges"
            found.append(
                Case(
                    optimizer=case.optimizer, recipe=case.recipe, options=case.options, dtype=case.dtype, layout=layout
                )
            )
    return [case for case in found if hasattr(torch.optim, case.optimizer)]


def run(
    entrants: Sequence[Entrant],
    selection: Selection,
    *,
    device: str,
    deadline: float,
    on_row: Callable[[Row], None],
) -> Done[Row]:
    """All comparisons, in worker processes: first those that run Triton's interpreter, then the others, slow ones last.

    Args:
        entrants: the providers.
        selection: the cases.
        device: where.
        deadline: a `time.monotonic` value.
        on_row: told of every row.
    """
    total: Done[Row] = Done()
    traits = [(one, one.provider.traits) for one in entrants]
    cores = min(8, len(os.sched_getaffinity(0)))
    for part, interpret, limit_s in (
        ([one for one, trait in traits if trait.interpreted], "1", CASE_LIMIT_S),
        ([one for one, trait in traits if not trait.interpreted and not trait.slow], "0", CASE_LIMIT_S),
        ([one for one, trait in traits if trait.slow and not trait.interpreted], "0", _SLOW_LIMIT_S),
    ):
        batches = [batch for one in part for batch in batches_of(one, selection, device)]
        if not batches:
            continue
        worth = math.ceil(sum(len(batch.items) for batch in batches) / _CASES_A_WORKER)
        workers = cores if limit_s == _SLOW_LIMIT_S else min(cores, worth)
        pool = case_pool(workers=workers, limit_s=limit_s, environment={"TRITON_INTERPRET": interpret})
        done = pool.run(batches, deadline=deadline, on_result=on_row)
        total.results += done.results
        total.not_run += done.not_run
        total.replaced_workers += done.replaced_workers
    return total


def failed(rows: Sequence[Row], entrants: Sequence[Entrant]) -> list[Row]:
    """Rows that break a claim: any error or hang, a difference where identity or a distance is claimed."""
    claims = {one.provider.name: one.claims_identity for one in entrants}

    def fails(row: Row) -> bool:
        # Against float64 a mismatch is only reported beyond the claimed distance.
        held = row.against == "float64" or claims[row.provider]
        return row.outcome.broke or (row.outcome is Outcome.MISMATCH and held)

    return [row for row in rows if fails(row)]


def deadline_after(seconds: float) -> float:
    """A `time.monotonic` value so many seconds from now."""
    return time.monotonic() + seconds
