"""One provider's half of a comparison: parameters and an optimizer, advanced step by step as a case says."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch

from kernels import DTYPES

from ..optimizers import registered
from ..providers.base import Provider, Unsupported
from .cases import Case
from .inputs import make_gradients, make_groups, make_parameters

_COMPARED = {torch.float64, *(known.torch for known in DTYPES.values())}
_LOSS = 0.5
"""What closures return."""


class Misstep(Exception):
    """A step broke what callers of torch.optim rely on, whatever numbers it left; the message says what."""


class Side:
    """A provider's parameters and optimizer.

    Args:
        provider: builds the optimizer.
        case: what to do.
        device: where.
        power: the loss is 2^power times the case's, and the hyperparameters are mapped for it.
    """

    def __init__(self, provider: Provider, case: Case, device: torch.device, *, power: int = 0) -> None:
        self.provider, self.case, self.device, self.power = provider, case, device, power
        self.degrees: Mapping[str, Any] = registered(case.optimizer).degrees if power else {}
        # The states' names under which others know them; None compares everything under its own name.
        self.state_names = provider.states_of(case.optimizer)
        self.parameters = make_parameters(case, device)
        #: Groups that are handed over later.
        self._waiting = int(case.added)
        values = [p.detach().clone() for p in self.parameters]
        if case.order == "early":
            self._fill([torch.zeros_like(value) for value in values])
        #: States under torch's names that cannot be compared, and what they are instead of numbers.
        self.apart: dict[str, str] = {}
        self.optimizer = self._build()
        if case.order == "early":
            self._fill(values)

    def _fill(self, values: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def _groups(self) -> list[dict[str, Any]]:
        return [self._mapped(group) for group in make_groups(self.case, self.parameters)]

    def _build(self) -> torch.optim.Optimizer:
        groups = self._groups()
        groups = groups[: len(groups) - self._waiting]
        return self.provider.build(self.case.optimizer, groups, self._mapped(self.case.options))

    def _mapped(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options (of the constructor or of a group) for a run on 2^power times the loss, defaults included."""
        if not self.power:
            return dict(options)
        algorithm = registered(self.case.optimizer)
        given = {name: value for name, value in options.items() if name in algorithm.hyperparameter_names}
        hyper = algorithm.hyperparameters(**{**self.case.options, **given})
        mapped = algorithm.rescale(hyper, 2.0**self.power)
        changed = {
            name: getattr(mapped, name)
            for name in algorithm.hyperparameter_names
            if getattr(mapped, name) != getattr(hyper, name) and (name in given or "params" not in options)
        }
        return {**options, **changed}

    def step(self, index: int) -> None:
        """Step `index` of the case, with everything that happens around it.

        Raises:
            Misstep: if parameters are no longer the tensors that they were, or a closure was not served as torch does.
            Unsupported: if the optimizer takes no closure where the case has one.
        """
        if index == 1:
            self._after_first()
        if index - 1 == self.case.reload_at:
            self._reload()
        addresses = [parameter.data_ptr() for parameter in self.parameters]
        held = {id(parameter) for parameter in self._held()}
        if self.case.schedule == "falling" and index and index % 2 == 0:
            self._halve_lr()
        if self.case.closure:
            _step_with(self.optimizer, lambda: self._give_all(index))
        else:
            self._give_all(index)
            scaled_step(self.optimizer, self._held(), self.case, index)
        left = held - {id(parameter) for parameter in self._held()}
        if left or [parameter.data_ptr() for parameter in self.parameters] != addresses:
            raise Misstep(f"step {index} replaced parameters instead of updating them in place")

    def _held(self) -> list[torch.Tensor]:
        """The optimizer's parameters."""
        try:
            return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        except (AttributeError, KeyError, TypeError) as error:
            raise Misstep(f"param_groups are no list of groups with params: {type(error).__name__}: {error}") from error

    def _give_all(self, index: int) -> None:
        for number, gradient in enumerate(make_gradients(self.case, index, self.device)):
            self._give(number, gradient.mul_(2.0**self.power) if self.power else gradient, index)

    def _give(self, number: int, gradient: torch.Tensor, index: int) -> None:
        parameter = self.parameters[number]
        if self.case.idles(number, index):
            parameter.grad = None
        elif self.case.keep_gradients and parameter.grad is not None:
            parameter.grad.copy_(gradient)
        else:
            parameter.grad = gradient

    def _after_first(self) -> None:
        """What happens between the first step and the second."""
        if self.case.start_step:
            self._jump()
        if self._waiting:
            self._waiting = 0
            self.optimizer.add_param_group(self._groups()[-1])

    def _halve_lr(self) -> None:
        for group in self.optimizer.param_groups:
            # As torch's schedulers do: a tensor is filled, a number replaced.
            if "lr" not in group:
                raise Misstep("a group has no lr, which schedulers set")
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].mul_(0.5)
            else:
                group["lr"] *= 0.5

    def _jump(self) -> None:
        """Set the step counter through the state dictionary, as a user resuming a long run would."""
        saved = self.optimizer.state_dict()
        for state in saved["state"].values():
            if isinstance(state, MutableMapping) and "step" in state:
                was, start = state["step"], float(self.case.start_step)
                if not isinstance(was, torch.Tensor | int | float):
                    raise Unsupported(f"its step counter is {_kind(was)}, not a number")
                state["step"] = torch.full_like(was, start) if isinstance(was, torch.Tensor) else type(was)(start)
        self.optimizer.load_state_dict(saved)

    def _reload(self) -> None:
        """Save the state to bytes and go on with a new optimizer that has read them."""
        saved = io.BytesIO()
        torch.save(self.optimizer.state_dict(), saved)
        saved.seek(0)
        self.optimizer = self._build()
        self.optimizer.load_state_dict(torch.load(saved, weights_only=False))

    def states(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """A parameter's states as flat tensors under torch's names, brought back to the case's own loss."""
        found: dict[str, torch.Tensor] = {}
        for name, value in self._entry(parameter).items():
            if self.state_names is not None:
                if name not in self.state_names:
                    continue
                name = self.state_names[name]
            if value is None or name == "master":
                continue
            if not isinstance(value, torch.Tensor | int | float):
                self.apart[name] = _kind(value)
                continue
            flat = torch.as_tensor(value).reshape(-1)
            if name != "step" and flat.dtype not in _COMPARED:
                self.apart[name] = f"of {flat.dtype}"
                continue
            degree = self.degrees.get(name, 0)
            flat = flat * 2.0 ** (-self.power * degree) if degree else flat
            found[name] = flat.float() if name == "step" else flat
        return found

    def _entry(self, parameter: torch.Tensor) -> Mapping[str, Any]:
        """What the optimizer keeps for a parameter, by name."""
        if not isinstance(self.optimizer.state, Mapping):
            raise Misstep(f"its state is {_kind(self.optimizer.state)}, not a mapping by parameter")
        entry = self.optimizer.state.get(parameter, {})
        if isinstance(entry, Mapping):
            return entry
        self.apart["a parameter's entry"] = _kind(entry)
        return {}

    def arrays(self) -> dict[str, torch.Tensor]:
        """Parameters, gradients (where they are anybody's business) and states, each flattened over all tensors."""
        found: dict[str, list[torch.Tensor]] = {}
        scratch = gradient_is_scratch(self.case) or self.state_names is not None or bool(self.case.power)
        for parameter in self.parameters:
            found.setdefault("param", []).append(parameter.detach().reshape(-1))
            if parameter.grad is not None and not scratch:
                found.setdefault("grad", []).append(parameter.grad.reshape(-1))
            for name, flat in self.states(parameter).items():
                found.setdefault(name, []).append(flat)
        return {name: torch.cat(pieces).to(self.device) for name, pieces in found.items()}


def _kind(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def gradient_is_scratch(case: Case) -> bool:
    """Whether torch adds into `p.grad` itself, which nobody should copy: foreach SGD with nesterov alone."""
    options = case.options
    plain = not options.get("weight_decay") and not options.get("maximize")
    return case.recipe == "foreach" and bool(options.get("nesterov")) and plain


def _step_with(optimizer: torch.optim.Optimizer, evaluate: Callable[[], None]) -> None:
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
    if returned is None:
        raise Misstep("step(closure) returned None; return what the closure returned")
    if not isinstance(returned, float | torch.Tensor) or returned != _LOSS:
        raise Misstep(f"step(closure) returned {_kind(returned)}, not the loss that its closure returned")


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
    gradients = [p.grad for p in parameters if p.grad is not None]
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflow.clone(), scale.double().reciprocal().float())
    if case.found_inf_at != index:
        optimizer.step()
