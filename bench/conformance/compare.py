"""One case, two providers: run both on the same inputs and compare every bit they leave behind."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from ..optimizers import registered
from ..providers.base import Provider, Unsupported
from ..providers.contained import Ended, contained
from ..tracebacks import first_line, kept_traceback
from . import bitwise
from .calls import Misstep
from .cases import Case
from .inputs import make_gradients
from .rows import APART, FirstMismatch, Outcome, Row, row_of
from .side import Side, gradient_is_scratch


def run_case(case: Case, provider: Provider, against: Provider, device: torch.device) -> Row:
    """Compare `provider` with `against` on `case`; every failure is an outcome of the row, none is raised."""
    started = time.perf_counter()
    try:
        with contained():
            row = _compared(case, provider, against, device)
    except Ended as error:
        row = row_of(case, provider.name, against.name, Outcome.ERROR, str(error))
    return replace(row, time_s=round(time.perf_counter() - started, 4))


def _compared(case: Case, provider: Provider, against: Provider, device: torch.device) -> Row:
    def row(outcome: Outcome, detail: str = "") -> Row:
        return row_of(case, provider.name, against.name, outcome, detail)

    for side in (provider, against):
        if reason := side.missing(device):
            return row(Outcome.MISSING, f"{side.name}: {reason}")
    try:
        ours = Side(provider, case, device, power=case.power)
    except Unsupported as error:
        return row(Outcome.UNSUPPORTED, str(error))
    except Exception:
        return row(Outcome.ERROR, f"building {provider.name}: {trace()}")
    try:
        theirs = Side(against, case, device)
    except Unsupported as error:
        return row(Outcome.NO_REFERENCE, str(error))
    except Exception:
        return row(Outcome.ERROR, f"building {against.name}: {trace()}")
    try:
        found = row(_advance(case, ours, theirs))
        if found.outcome is Outcome.MISMATCH and (others := other_defaults(case, ours, theirs)):
            found = replace(found, detail=others)
        elif found.outcome is Outcome.MISMATCH:
            again = Side(provider, case, device, power=case.power), Side(against, case, device)
            found = _with_line(provider, _locate(found, case, *again))
    except _StepFailed as error:
        # A step that torch refuses tells nothing about the provider; one that its own run on another loss does, does.
        refused = error.name == "reference" and against != provider
        return row(Outcome.NO_REFERENCE if refused else Outcome.ERROR, error.detail)
    except Unsupported as error:
        return row(Outcome.UNSUPPORTED, str(error))
    except Exception:
        return row(Outcome.ERROR, trace())
    if ours.apart and not found.detail:
        return replace(found, detail=f"{APART}: {', '.join(f'{name} is {what}' for name, what in ours.apart.items())}")
    if gradient_is_scratch(case) and not found.detail:
        return replace(found, detail="p.grad not compared: torch's foreach adds the momentum into it")
    return found


def _with_line(provider: Provider, row: Row) -> Row:
    """The row with the line of the rule that computes what differs first, where the provider knows it."""
    first = row.first_mismatch
    line = first and provider.rule_line(row.optimizer, first.quantity)
    return replace(row, first_mismatch=replace(first, line=line)) if first and line else row


class _StepFailed(Exception):
    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name, self.detail = name, detail


def _both(ours: Side, theirs: Side, index: int) -> None:
    for name, side in (("reference", theirs), ("provider", ours)):
        try:
            side.step(index)
        except Misstep as error:
            raise _StepFailed(name, str(error)) from error
        except Unsupported as error:
            if side.provider == ours.provider:
                raise
            raise _StepFailed(name, str(error)) from error
        except Exception as error:
            # What copies or a tensor for lr break is something that the optimizer lacks, and not a wrong result.
            asked = (
                "with lr as a tensor"
                if side.case.tensor_lr
                else f"as a {side.case.copied} copy" * bool(side.case.copied)
            )
            if asked and side is ours:
                raise Unsupported(f"cannot step {asked}: {type(error).__name__}: {first_line(error)}") from error
            raise _StepFailed(name, f"step {index} of the {name}: {trace()}") from error
    if theirs.jumped and not ours.jumped:
        raise Unsupported("its state has no step to set")


def _advance(case: Case, ours: Side, theirs: Side) -> Outcome:
    """All steps, comparing after each on the device; one synchronisation at the end."""
    different: list[torch.Tensor] = []
    for index in range(case.steps):
        _both(ours, theirs, index)
        if case.steps > 20 and index % 10 and index != case.steps - 1:
            continue
        mine, other = _comparable(ours, theirs)
        if _unlike(mine, other):
            return Outcome.MISMATCH
        different += [bitwise.unequal(mine[name], other[name]).any() for name in other]
    return Outcome.MISMATCH if bool(torch.stack(different).any()) else Outcome.IDENTICAL


def _comparable(ours: Side, theirs: Side) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Both sides' arrays; where one has states of its own making, only what both have in one form."""
    mine, other = ours.arrays(), theirs.arrays()
    if ours.state_names is None and theirs.state_names is None:
        return mine, other
    shared = [
        name
        for name in mine
        if name in other and (mine[name].dtype, mine[name].shape) == (other[name].dtype, other[name].shape)
    ]
    return {name: mine[name] for name in shared}, {name: other[name] for name in shared}


def _unlike(mine: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> str:
    """Why the two sides' arrays cannot be compared element by element; empty when they can."""
    if missing := set(mine) ^ set(other):
        return f"only one side has {', '.join(sorted(missing))}"
    for name, array in mine.items():
        if (array.dtype, array.shape) != (other[name].dtype, other[name].shape):
            return f"{name} is {array.dtype}{list(array.shape)}, not {other[name].dtype}{list(other[name].shape)}"
    return ""


def other_defaults(case: Case, ours: Side, theirs: Side) -> str:
    """The constructor's defaults that are not the reference's, where a case has no options; else empty."""
    if case.options:
        return ""
    mine, other = ours.optimizer.param_groups[0], theirs.optimizer.param_groups[0]
    names = registered(case.optimizer).hyperparameter_names
    return ", ".join(
        f"{name} is {mine[name]} by default, that of {theirs.provider.name} is {other[name]}"
        for name in names
        if name in mine and name in other and mine[name] != other[name]
    )


def _locate(row: Row, case: Case, ours: Side, theirs: Side) -> Row:
    """The row with the first step that differs, found by a replay."""
    before: dict[str, torch.Tensor] = {}
    for index in range(case.steps):
        before = {name: array.clone() for name, array in theirs.arrays().items()}
        _both(ours, theirs, index)
        mine, other = _comparable(ours, theirs)
        if unlike := _unlike(mine, other):
            return replace(row, detail=f"step {index}: {unlike}")
        elements = {name: int(bitwise.unequal(mine[name], other[name]).sum()) for name in other}
        elements = {name: count for name, count in elements.items() if count}
        if not elements:
            continue
        if not case.mixed:
            before["grad"] = torch.cat([g.reshape(-1) for g in make_gradients(case, index, ours.device)])
        return _describe(row, index, elements, before, mine, other)
    return replace(row, detail="the difference did not come back when the case was replayed")


def _describe(
    row: Row,
    index: int,
    elements: dict[str, int],
    before: dict[str, torch.Tensor],
    mine: dict[str, torch.Tensor],
    other: dict[str, torch.Tensor],
) -> Row:
    """The row with what there is to say of the step `index` at which `elements` of each quantity differ."""
    # States feed the parameters: the first differing state is nearer to the cause than the parameter.
    order = sorted(elements, key=_rank)
    name = order[0]
    where = int(bitwise.unequal(mine[name], other[name]).nonzero()[0])

    def bits(arrays: dict[str, torch.Tensor]) -> dict[str, str]:
        shown = {key: value for key, value in arrays.items() if key != "step" or name == "step"}
        return {key: bitwise.as_hex(value, where) for key, value in shown.items() if where < len(value)}

    return replace(
        row,
        mismatching_bits=sum(bitwise.count_bits(mine[n], other[n]) for n in order),
        max_ulp=max(bitwise.max_ulp(mine[n], other[n]) for n in order),
        elements=elements,
        histogram=bitwise.histogram(mine["param"], other["param"]),
        first_mismatch=FirstMismatch(
            step=index,
            quantity=name,
            index=where,
            inputs=bits(before),
            provider=bits(mine),
            against=bits(other),
            largest=_largest({n: (mine[n], other[n]) for n in order}),
        ),
    )


def _rank(name: str) -> tuple[bool, bool, str]:
    whole = name.partition(" in ")[0]
    return whole == "grad", whole == "param", name


def _largest(pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, Any]:
    """The element that is furthest off, over all quantities; a NaN on one side is furthest."""
    name = max(pairs, key=lambda name: bitwise.max_ulp(*pairs[name]))
    mine, other = pairs[name]
    apart = bitwise.max_ulp(mine, other) > 0
    # Zeros of either sign are no distance apart.
    index = bitwise.furthest(mine, other) if apart else int(bitwise.unequal(mine, other).nonzero()[0])
    return bitwise.described(name, index, mine, other, bitwise.max_ulp(mine, other))


def trace() -> str:
    """The end of the current exception's traceback."""
    return kept_traceback(limit=-6, most=1500)
