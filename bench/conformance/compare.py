"""One case, two providers: run both on the same inputs and compare every bit they leave behind."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import torch

from ..providers.base import Provider, Unsupported
from . import bitwise
from .cases import Case
from .inputs import make_gradients, make_groups, make_parameters

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


class _Side:
    """One provider's parameters and optimizer, advanced step by step."""

    def __init__(self, provider: Provider, case: Case, device: torch.device) -> None:
        self.case, self.device = case, device
        self.parameters = make_parameters(case, device)
        self.optimizer = provider.build(case.optimizer, make_groups(case, self.parameters), case.options)

    def step(self, index: int) -> None:
        for parameter, gradient in zip(self.parameters, make_gradients(self.case, index, self.device), strict=True):
            parameter.grad = gradient
        if self.case.schedule == "falling" and index and index % 2 == 0:
            for group in self.optimizer.param_groups:
                group["lr"] *= 0.5
        scaled_step(self.optimizer, self.parameters, self.case, index)
        if index == 0 and self.case.start_step:
            self._jump()

    def _jump(self) -> None:
        """Set the step counter through the state dictionary, as a user resuming a long run would."""
        saved = self.optimizer.state_dict()
        for state in saved["state"].values():
            if "step" in state:
                state["step"] = torch.full_like(torch.as_tensor(state["step"]), float(self.case.start_step))
        self.optimizer.load_state_dict(saved)

    def arrays(self) -> dict[str, torch.Tensor]:
        """Parameters, gradients (when there are any) and each state under torch's names, flattened over all tensors."""
        found: dict[str, list[torch.Tensor]] = {}
        scratch = gradient_is_scratch(self.case)
        for parameter in self.parameters:
            found.setdefault("param", []).append(parameter.detach().reshape(-1))
            if parameter.grad is not None and not scratch:
                found.setdefault("grad", []).append(parameter.grad.reshape(-1))
            for name, value in self.optimizer.state[parameter].items():
                if value is not None and name != "master":
                    flat = torch.as_tensor(value).reshape(-1)
                    found.setdefault(name, []).append(flat.float() if name == "step" else flat)
        return {name: torch.cat(pieces).to(self.device) for name, pieces in found.items()}


def gradient_is_scratch(case: Case) -> bool:
    """Whether torch adds into `p.grad` itself, which nobody should copy: foreach SGD with nesterov alone."""
    options = case.options
    plain = not options.get("weight_decay") and not options.get("maximize") and case.groups == 1
    return case.recipe == "foreach" and bool(options.get("nesterov")) and plain


def scaled_step(optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor], case: Case, index: int) -> None:
    """`optimizer.step()` under a loss scaler: what `torch.amp.GradScaler.step` does, for any gradient dtype.

    Optimizers that advertise in-kernel scaling get `grad_scale` and `found_inf`; for the others gradients are
    multiplied by the float32 reciprocal of the scale, and an overflow skips the step.
    """
    if case.grad_scale is None and case.found_inf_at is None:
        optimizer.step()
        return
    device = parameters[0].device
    overflow = torch.full((), float(case.found_inf_at == index), device=device)
    scale = torch.full((), case.grad_scale or 1.0, device=device)
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.grad_scale, optimizer.found_inf = scale, overflow  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflow.clone(), scale.double().reciprocal().float())
    if case.found_inf_at != index:
        optimizer.step()


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
            time_s=round(time.perf_counter() - started, 4),
            **fields,
        )

    for side in (provider, against):
        if reason := side.missing(device):
            return row(MISSING, detail=f"{side.name}: {reason}")
    try:
        theirs = _Side(against, case, device)
    except Unsupported as error:
        return row(NO_REFERENCE, detail=str(error))
    except Exception:
        return row(ERROR, detail=f"building {against.name}: {_trace()}")
    try:
        ours = _Side(provider, case, device)
    except Unsupported as error:
        return row(UNSUPPORTED, detail=str(error))
    except Exception:
        return row(ERROR, detail=f"building {provider.name}: {_trace()}")
    try:
        outcome, fields = _advance(case, ours, theirs)
        if outcome == MISMATCH:
            fields = _locate(case, _Side(provider, case, device), _Side(against, case, device))
    except _StepFailed as error:
        # A step that torch refuses tells nothing about the provider.
        return row(NO_REFERENCE if error.name == "reference" else ERROR, detail=error.detail)
    except Exception:
        return row(ERROR, detail=_trace())
    if gradient_is_scratch(case):
        fields.setdefault("detail", "p.grad not compared: torch's foreach adds the momentum into it")
    return row(outcome, **fields)


class _StepFailed(Exception):
    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name, self.detail = name, detail


def _both(ours: _Side, theirs: _Side, index: int) -> None:
    for name, side in (("reference", theirs), ("provider", ours)):
        try:
            side.step(index)
        except Exception as error:
            raise _StepFailed(name, f"step {index} of the {name}: {_trace()}") from error


def _advance(case: Case, ours: _Side, theirs: _Side) -> tuple[str, dict[str, Any]]:
    """All steps, comparing after each on the device; one synchronisation at the end."""
    different: list[torch.Tensor] = []
    for index in range(case.steps):
        _both(ours, theirs, index)
        if case.steps > 20 and index % 10 and index != case.steps - 1:
            continue
        mine, other = ours.arrays(), theirs.arrays()
        if _unlike(mine, other):
            return MISMATCH, {}
        different += [bitwise.unequal(mine[name], other[name]).any() for name in other]
    return (MISMATCH if bool(torch.stack(different).any()) else IDENTICAL), {}


def _unlike(mine: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> str:
    """Why the two sides' arrays cannot be compared element by element; empty when they can."""
    if missing := set(mine) ^ set(other):
        return f"only one side has {', '.join(sorted(missing))}"
    for name, array in mine.items():
        if (array.dtype, array.shape) != (other[name].dtype, other[name].shape):
            return f"{name} is {array.dtype}{list(array.shape)}, not {other[name].dtype}{list(other[name].shape)}"
    return ""


def _locate(case: Case, ours: _Side, theirs: _Side) -> dict[str, Any]:
    """Replay until the first step that differs and describe it."""
    before: dict[str, torch.Tensor] = {}
    for index in range(case.steps):
        before = {name: array.clone() for name, array in theirs.arrays().items()}
        _both(ours, theirs, index)
        mine, other = ours.arrays(), theirs.arrays()
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
        return {
            key: bitwise.as_hex(value, where) for key, value in arrays.items() if key != "step" and where < len(value)
        }

    return {
        "mismatching_bits": sum(bitwise.count_bits(mine[n], other[n]) for n in order),
        "max_ulp": max(bitwise.max_ulp(mine[n], other[n]) for n in order),
        "elements": elements,
        "first_mismatch": {
            "step": index,
            "quantity": name,
            "index": where,
            "inputs": bits(before),
            "provider": bits(mine),
            "against": bits(other),
        },
    }


def _trace() -> str:
    return traceback.format_exc(limit=-6)[-1500:]
