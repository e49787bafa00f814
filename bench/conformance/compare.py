"""One case, two providers: run both on the same inputs and compare every bit they leave behind."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import torch

from ..providers.base import Provider, Unsupported
from ..providers.ours import Ours
from . import bitwise
from .cases import Case
from .inputs import make_gradients
from .side import Replaced, Side, gradient_is_scratch

# Outcomes of a case. Only "identical" is a pass; "unsupported" and "no reference" are not failures either.
IDENTICAL, MISMATCH, UNSUPPORTED = "identical", "mismatch", "unsupported"
NO_REFERENCE, ERROR, TIMEOUT, MISSING = "no reference", "error", "timeout", "missing"
FAILURES = (MISMATCH, ERROR, TIMEOUT)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the conformance table.

    `mismatching_bits`, `max_ulp` and `elements` speak of the first step whose results differ (later differences are
    its consequences); `first_mismatch` gives that step's first element with input bits and both outputs in hex.
    """

    provider: str
    against: str
    optimizer: str
    options: str
    recipe: str
    dtype: str
    shape: str
    values: str
    steps: int
    outcome: str
    mismatching_bits: int = 0
    max_ulp: int = 0
    elements: dict[str, int] = field(default_factory=dict)
    first_mismatch: dict[str, Any] | None = None
    detail: str = ""
    time_s: float = 0.0
    option_set: str = ""
    histogram: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The row of the table, as every report has it; why a case was not compared stands in `first_mismatch`."""
        first = self.first_mismatch or ({"detail": self.detail} if self.detail else None)
        return {
            "provider": self.provider,
            "against": self.against,
            "optimizer": self.optimizer,
            "options": self.options,
            "dtype": self.dtype,
            "shape": f"{self.shape}/{self.values}",
            "steps": self.steps,
            "mismatching_bits": self.mismatching_bits,
            "max_ulp": self.max_ulp,
            "first_mismatch": first,
            "outcome": self.outcome,
        }


def run_case(case: Case, provider: Provider, against: Provider, device: torch.device) -> Row:
    """Compare `provider` with `against` on `case`; every failure is an outcome of the row, none is raised."""
    started = time.perf_counter()

    def row(outcome: str, **fields: Any) -> Row:
        return Row(
            provider=provider.name,
            against=against.name,
            optimizer=case.optimizer,
            options=case.option_text(),
            recipe=case.recipe,
            dtype=case.dtype,
            shape=case.layout,
            values=case.values,
            steps=case.steps,
            outcome=outcome,
            option_set=case.option_set(),
            time_s=round(time.perf_counter() - started, 4),
            **fields,
        )

    for side in (provider, against):
        if reason := side.missing(device):
            return row(MISSING, detail=f"{side.name}: {reason}")
    try:
        ours = Side(provider, case, device, power=case.power)
    except Unsupported as error:
        return row(UNSUPPORTED, detail=str(error))
    except Exception:
        return row(ERROR, detail=f"building {provider.name}: {trace()}")
    try:
        theirs = Side(against, case, device)
    except Unsupported as error:
        return row(NO_REFERENCE, detail=str(error))
    except Exception:
        return row(ERROR, detail=f"building {against.name}: {trace()}")
    try:
        outcome, fields = _advance(case, ours, theirs)
        if outcome == MISMATCH:
            fields = _locate(case, Side(provider, case, device, power=case.power), Side(against, case, device))
            _add_line(provider, case, fields.get("first_mismatch"))
    except _StepFailed as error:
        # A step that torch refuses tells nothing about the provider.
        return row(NO_REFERENCE if error.name == "reference" else ERROR, detail=error.detail)
    except Exception:
        return row(ERROR, detail=trace())
    if gradient_is_scratch(case):
        fields.setdefault("detail", "p.grad not compared: torch's foreach adds the momentum into it")
    return row(outcome, **fields)


def _add_line(provider: Provider, case: Case, first: dict[str, Any] | None) -> None:
    """For our own kernels: the line of the rule that computes what differs first."""
    if first is not None and isinstance(provider, Ours):
        from .lines import rule_line

        if line := rule_line(case.optimizer, provider.recipe, first["quantity"]):
            first["line"] = line


class _StepFailed(Exception):
    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name, self.detail = name, detail


def _both(ours: Side, theirs: Side, index: int) -> None:
    for name, side in (("reference", theirs), ("provider", ours)):
        try:
            side.step(index)
        except Replaced as error:
            raise _StepFailed(name, str(error)) from error
        except Exception as error:
            raise _StepFailed(name, f"step {index} of the {name}: {trace()}") from error


def _advance(case: Case, ours: Side, theirs: Side) -> tuple[str, dict[str, Any]]:
    """All steps, comparing after each on the device; one synchronisation at the end."""
    different: list[torch.Tensor] = []
    for index in range(case.steps):
        _both(ours, theirs, index)
        if case.steps > 20 and index % 10 and index != case.steps - 1:
            continue
        mine, other = _comparable(ours, theirs)
        if _unlike(mine, other):
            return MISMATCH, {}
        different += [bitwise.unequal(mine[name], other[name]).any() for name in other]
    return (MISMATCH if bool(torch.stack(different).any()) else IDENTICAL), {}


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


def _locate(case: Case, ours: Side, theirs: Side) -> dict[str, Any]:
    """Replay until the first step that differs and describe it."""
    before: dict[str, torch.Tensor] = {}
    for index in range(case.steps):
        before = {name: array.clone() for name, array in theirs.arrays().items()}
        _both(ours, theirs, index)
        mine, other = _comparable(ours, theirs)
        if unlike := _unlike(mine, other):
            return {"detail": f"step {index}: {unlike}"}
        elements = {name: int(bitwise.unequal(mine[name], other[name]).sum()) for name in other}
        elements = {name: count for name, count in elements.items() if count}
        if not elements:
            continue
        before["grad"] = torch.cat([g.reshape(-1) for g in make_gradients(case, index, ours.device)])
        return _describe(index, elements, before, mine, other)
    return {"detail": "the difference did not come back when the case was replayed"}


def _describe(
    index: int,
    elements: dict[str, int],
    before: dict[str, torch.Tensor],
    mine: dict[str, torch.Tensor],
    other: dict[str, torch.Tensor],
) -> dict[str, Any]:
    """The row's fields for the step `index` at which `elements` of each quantity differ."""
    # States feed the parameters: the first differing state is nearer to the cause than the parameter.
    order = sorted(elements, key=lambda name: (name == "grad", name == "param", name))
    name = order[0]
    where = int(bitwise.unequal(mine[name], other[name]).nonzero()[0])

    def bits(arrays: dict[str, torch.Tensor]) -> dict[str, str]:
        shown = {key: value for key, value in arrays.items() if key != "step" or name == "step"}
        return {key: bitwise.as_hex(value, where) for key, value in shown.items() if where < len(value)}

    return {
        "mismatching_bits": sum(bitwise.count_bits(mine[n], other[n]) for n in order),
        "max_ulp": max(bitwise.max_ulp(mine[n], other[n]) for n in order),
        "elements": elements,
        "histogram": bitwise.histogram(mine["param"], other["param"]),
        "first_mismatch": {
            "step": index,
            "quantity": name,
            "index": where,
            "inputs": bits(before),
            "provider": bits(mine),
            "against": bits(other),
        },
    }


def trace() -> str:
    """The end of the current exception's traceback."""
    return traceback.format_exc(limit=-6)[-1500:]
