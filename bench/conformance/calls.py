"""How a case calls an optimizer: with a closure, under a loss scaler, with hooks; and what callers rely on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..providers.base import Unsupported
from ..tracebacks import first_line
from .cases import Case

_LOSS = 0.5
"""What closures return."""


class Misstep(Exception):
    """A step broke what callers of torch.optim rely on, whatever numbers it left; the message says what."""


def kind(value: object) -> str:
    """What a value is, with its article."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def step_with(optimizer: torch.optim.Optimizer, evaluate: Callable[[], None]) -> None:
    """`optimizer.step(closure)`, where the closure evaluates the loss and its gradients, for which they must be on."""
    step = inspect.signature(optimizer.step).parameters
    if "closure" not in step and not any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in step.values()):
        raise Unsupported("step takes no closure")
    called = []

    def closure() -> float:
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            raise Misstep("step(closure) called the closure with gradients off; call it under torch.enable_grad()")
        evaluate()
        called.append(True)
        return _LOSS

    returned: object = optimizer.step(closure)
    if not called:
        raise Unsupported("step(closure) does not call its closure")
    if len(called) > 1:
        raise Misstep(f"step(closure) called its closure {len(called)} times; call it once")
    if returned is None:
        raise Misstep("step(closure) returned None; return what the closure returned")
    if not isinstance(returned, float | torch.Tensor) or returned != _LOSS:
        raise Misstep(f"step(closure) returned {kind(returned)}, not the loss that its closure returned")


def scaled_step(optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor], case: Case, index: int) -> None:
    """`optimizer.step()` under a loss scaler: what `torch.amp.GradScaler.step` does, for any gradient dtype.

    Optimizers that advertise in-kernel scaling get `grad_scale` and `found_inf`; for the others gradients are
    multiplied by the float32 reciprocal of the scale, and an overflow skips the step.
    """
    if case.grad_scale is None and case.found_inf_at is None:
        optimizer.step()
        return
    if not parameters:
        raise Misstep("the optimizer has no parameters left")
    device = parameters[0].device
    overflow = torch.full((), float(case.found_inf_at == index), device=device)
    scale = torch.full((), case.grad_scale or 1.0, device=device)
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.grad_scale, optimizer.found_inf = scale, overflow  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
        return
    by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
    for gradient in (p.grad for p in parameters if p.grad is not None):
        by_dtype.setdefault(gradient.dtype, []).append(gradient)
    for gradients in by_dtype.values():
        inverse = scale.double().reciprocal().float()
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflow.clone(), inverse)
    if case.found_inf_at != index:
        optimizer.step()


class Hooks:
    """A hook before and one after every step of an optimizer, as profilers and frameworks register them.

    Raises:
        Unsupported: if the optimizer takes none.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._called: list[str] = []
        try:
            optimizer.register_step_pre_hook(lambda *_: self._called.append("before"))
            optimizer.register_step_post_hook(lambda *_: self._called.append("after"))
        except Exception as error:
            raise Unsupported(f"takes no step hooks: {type(error).__name__}: {first_line(error)}") from error

    def check(self) -> None:
        """A step has ended.

        Raises:
            Misstep: if the hooks were not called around it.
        """
        called, self._called = self._called, []
        missed = [when for when in ("before", "after") if when not in called]
        if missed:
            raise Misstep(f"step did not call the hook that was registered to run {' and '.join(missed)} it")


def lowered(options: dict[str, Any]) -> dict[str, Any]:
    """Options with every number halved: valid where the options are, and others than they, unless they are 0.

    What is looked at in a constructor alone stays.
    """
    kept = ("params", "initial_accumulator_value")
    return {name: value if name in kept else _half(value) for name, value in options.items()}


def _half(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(_half, value))
    return 0.5 * value if isinstance(value, float) else value


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set a group's learning rate as torch's schedulers do: a tensor is filled, a number replaced."""
    if "lr" not in group:
        raise Misstep("a group has no lr, which schedulers set")
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def cycle(group: dict[str, Any]) -> None:
    """Change what schedules change beside lr: momentum, or the first beta, is halved, decay becomes fourfold."""
    if "momentum" in group:
        group["momentum"] *= 0.5
    if "betas" in group:
        group["betas"] = (0.5 * group["betas"][0], *group["betas"][1:])
    if "weight_decay" in group:
        group["weight_decay"] *= 4.0
