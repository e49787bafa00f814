"""How far one step is from exact arithmetic: each step repeated in float64 from the provider's own state.

Before every step the float64 run takes over the provider's parameters and those states it knows, so that the distance
is the error of one step and does not build up. It is counted in ulp of the largest of the parameter before, the
parameter after and the change, in the provider's dtype: cancellation in the sum makes nobody look bad.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from kernels import DTYPES

from ..providers.base import Provider, Unsupported
from ..providers.contained import Ended, contained
from ..providers.torch_optim import TorchOptim
from . import bitwise
from .calls import Misstep
from .cases import Case
from .compare import trace
from .inputs import make_gradients, make_groups
from .rows import FirstMismatch, Outcome, Row, row_of
from .side import Side

_NOT_A_NUMBER = torch.iinfo(torch.int64).max


def measurable(case: Case) -> bool:
    """Whether the case has a float64 counterpart: no scaler, ordinary values, one run."""
    plain = case.grad_scale is None and case.found_inf_at is None and not case.power and case.reload_at is None
    plain = plain and not (case.idle or case.pausing or case.added or case.keep_gradients)
    special = case.repeated or case.hooks or case.tensor_lr or case.mixed or case.flags or case.copied
    plain = plain and not special and bool(case.options)
    return plain and case.values in ("normal", "wide") and case.schedule == "constant" and not case.start_step


class _Exact:
    """torch.optim's for-loop in float64, beside a provider's run."""

    def __init__(self, case: Case, side: Side) -> None:
        self.side = side
        self.dtype = DTYPES[case.dtype].torch
        self.parameters = [p.detach().double().requires_grad_() for p in side.parameters]
        groups = make_groups(case, self.parameters)
        self.optimizer = TorchOptim(implementation="for-loop").build(case.optimizer, groups, case.options)

    def take_over(self) -> None:
        """Start the next step from the provider's parameters and states."""
        with torch.no_grad():
            for mine, theirs in zip(self.parameters, self.side.parameters, strict=True):
                mine.copy_(theirs)
                known = self.side.states(theirs)
                for name, state in self.optimizer.state[mine].items():
                    if name != "step" and state is not None and name in known and known[name].numel() == state.numel():
                        state.copy_(known[name].reshape(theirs.shape))

    def step(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        """One step with the provider's gradients.

        Returns:
            How far it moves, element by element, when each of its inputs (parameter, gradient, states) moves by half an
            ulp of the provider's dtype, all added up: no arithmetic in that dtype can be expected to be nearer.
        """
        exact = [gradient.double() for gradient in gradients]
        start = [p.detach().clone() for p in self.parameters]
        states = {p: _copied(self.optimizer.state.get(p, {})) for p in self.parameters}
        names = dict.fromkeys(name for kept in states.values() for name, value in kept.items() if _moves(name, value))
        after, moved = self._stepped(start, exact, states), None
        for which in ("param", "grad", *names):
            near = self._stepped(
                [_moved(p, self.dtype) if which == "param" else p for p in start],
                [_moved(g, self.dtype) if which == "grad" else g for g in exact],
                {
                    p: {n: _moved(v, self.dtype) if n == which and _moves(n, v) else v for n, v in kept.items()}
                    for p, kept in states.items()
                },
            )
            change = (near - after).abs()
            moved = change if moved is None else moved + change
        self._stepped(start, exact, states)
        assert moved is not None
        return moved

    def _stepped(
        self, start: list[torch.Tensor], gradients: list[torch.Tensor], states: Mapping[torch.Tensor, Mapping[str, Any]]
    ) -> torch.Tensor:
        """The parameters after one step from these inputs, flat."""
        with torch.no_grad():
            for mine, value, gradient in zip(self.parameters, start, gradients, strict=True):
                mine.copy_(value)
                mine.grad = gradient.clone()
                kept = _copied(states[mine])
                self.optimizer.state.pop(mine, None)
                if kept:
                    self.optimizer.state[mine] = kept
        self.optimizer.step()
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])


def run_drift(case: Case, provider: Provider, device: torch.device, *, allowed: int | None = None) -> Row:
    """The largest distance of any step of `provider` from float64, as a row against "float64".

    Args:
        case: what to run; see `measurable`.
        provider: the optimizer.
        device: where.
        allowed: ulp that the provider claims; beyond it the outcome is a mismatch.
    """
    started = time.perf_counter()
    try:
        with contained():
            row = _measured(case, provider, device, allowed)
    except Ended as error:
        row = row_of(case, provider.name, "float64", Outcome.ERROR, str(error))
    return replace(row, time_s=round(time.perf_counter() - started, 4))


def _measured(case: Case, provider: Provider, device: torch.device, allowed: int | None) -> Row:
    def row(outcome: Outcome, detail: str = "") -> Row:
        return row_of(case, provider.name, "float64", outcome, detail)

    if reason := provider.missing(device):
        return row(Outcome.MISSING, f"{provider.name}: {reason}")
    try:
        side = Side(provider, case, device)
        exact = _Exact(case, side)
    except Unsupported as error:
        return row(Outcome.UNSUPPORTED, str(error))
    except Exception:
        return row(Outcome.ERROR, trace())
    try:
        worst, histogram, first = _measure(case, side, exact)
    except _NoExactStep as error:
        return row(Outcome.NO_REFERENCE, str(error))
    except Unsupported as error:
        return row(Outcome.UNSUPPORTED, str(error))
    except Misstep as error:
        return row(Outcome.ERROR, str(error))
    except Exception:
        return row(Outcome.ERROR, trace())
    beyond = allowed is not None and worst > allowed
    outcome = Outcome.IDENTICAL if worst == 0 else Outcome.MISMATCH if beyond else Outcome.CLOSE
    return replace(row(outcome), max_ulp=worst, histogram=histogram, first_mismatch=first if beyond else None)


class _NoExactStep(Exception):
    pass


def _copied(kept: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in kept.items()}


def _moves(name: str, value: Any) -> bool:
    return isinstance(value, torch.Tensor) and name != "step"


def _moved(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Values further from zero by half an ulp of a dtype."""
    return values + torch.copysign(0.5 * _spacing(values.abs(), dtype), values)


def _spacing(sizes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The distance between neighbours of a dtype at float64 sizes."""
    limits = torch.finfo(dtype)
    exponent = torch.frexp(sizes.clamp(limits.smallest_normal, limits.max)).exponent - 1
    return torch.ldexp(torch.full_like(sizes, limits.eps), exponent)


def _measure(case: Case, side: Side, exact: _Exact) -> tuple[int, dict[str, int], FirstMismatch | None]:
    worst, first, distances = 0, None, []
    for index in range(case.steps):
        exact.take_over()
        before = torch.cat([p.detach().reshape(-1) for p in exact.parameters])
        side_before = torch.cat([p.detach().reshape(-1) for p in side.parameters]).clone()
        side.step(index)
        try:
            unavoidable = exact.step(make_gradients(case, index, side.device))
        except Exception as error:
            raise _NoExactStep(f"step {index} in float64: {trace()}") from error
        after = torch.cat([p.detach().reshape(-1) for p in exact.parameters])
        found = torch.cat([p.detach().reshape(-1) for p in side.parameters])
        distance = _distance(found, after, before, unavoidable)
        distances.append(distance)
        top = float(distance.max()) if distance.numel() else 0.0
        ulp = _NOT_A_NUMBER if math.isinf(top) else math.ceil(top - 0.5)
        if ulp > worst:
            worst, where = ulp, int(distance.argmax())
            first = FirstMismatch(
                step=index,
                quantity="param",
                index=where,
                inputs={"param": bitwise.as_hex(side_before, where)},
                provider={"param": bitwise.as_hex(found, where)},
                against={"param": bitwise.as_hex(after.to(found.dtype), where)},
                largest=bitwise.described("param", where, found, after, ulp),
            )
    # Half an ulp is what the last rounding costs anyone.
    together = torch.cat(distances) if distances else torch.zeros(0)
    return worst, bitwise.ulp_histogram((together - 0.5).clamp(min=0).ceil()), first


def _distance(
    found: torch.Tensor, exact: torch.Tensor, before: torch.Tensor, unavoidable: torch.Tensor
) -> torch.Tensor:
    """|found - exact| in units; inf where one side alone is not finite.

    A unit is an ulp of the largest of before, exact and the change, or what half an ulp of every input does to the step
    where that is more.
    """
    wide = found.double()
    largest = torch.stack([before.abs(), exact.abs(), (exact - before).abs()]).amax(dim=0)
    unit = torch.maximum(_spacing(largest, found.dtype), unavoidable.nan_to_num(nan=0.0, posinf=0.0))
    rounded = exact.to(found.dtype).double()
    agree = (wide == rounded) | (wide.isnan() & rounded.isnan())
    distance = torch.where(agree, 0.0, (wide - exact).abs() / unit)
    return torch.where(distance.isnan(), torch.inf, distance)
