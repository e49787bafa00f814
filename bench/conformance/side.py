"""One provider's half of a comparison: parameters and an optimizer, advanced step by step as a case says."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch

from kernels import DTYPES

from ..optimizers import registered
from ..providers.base import Provider, Unsupported
from ..tracebacks import first_line
from .calls import Hooks, Misstep, cycle, kind, lowered, scaled_step, set_rate, step_with
from .cases import Case
from .inputs import make_gradients, make_groups, make_parameters

_COMPARED = {torch.float64, *(known.torch for known in DTYPES.values())}


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
        if case.added:
            # What is handed over later must be taken too.
            provider.build(case.optimizer, self._groups(), self._mapped(case.options))
        self.optimizer = self._build()
        if case.order == "early":
            self._fill(values)
        #: Whether a step counter was found and set.
        self.jumped = False
        self._rates: list[float] = []
        self._hooks = Hooks(self.optimizer) if case.hooks else None

    def _fill(self, values: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def _groups(self) -> list[dict[str, Any]]:
        return [self._mapped(group) for group in make_groups(self.case, self.parameters)]

    def _build(self, *, others: bool = False) -> torch.optim.Optimizer:
        """The provider's optimizer over the parameters; with `others` its numbers are not the case's."""
        groups = self._groups()
        groups, options = groups[: len(groups) - self._waiting], self._mapped(self.case.options)
        if others:
            groups, options = [lowered(group) for group in groups], lowered(options)
        if self.case.tensor_lr:
            groups, options = [_with_tensor(group) for group in groups], _with_tensor(options)
        return self.provider.build(self.case.optimizer, groups, options)

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
        if index and not self.case.keep_gradients:
            self.optimizer.zero_grad()
        addresses = [parameter.data_ptr() for parameter in self.parameters]
        held = {id(parameter) for parameter in self._held()}
        self._schedule(index)
        if self.case.closure:
            step_with(self.optimizer, lambda: self._give_all(index))
        else:
            self._give_all(index)
            scaled_step(self.optimizer, self._held(), self.case, index)
        if self._hooks:
            self._hooks.check()
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
            # Between steps it is zero_grad that takes gradients away.
            if not index or self.case.keep_gradients:
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
        if self.case.copied:
            self._copy()

    def _copy(self) -> None:
        """Go on with a copy of the optimizer and its parameters, as after copy.deepcopy or in another process."""
        if not hasattr(self.optimizer, "_optimizer_step_pre_hooks"):
            # Torch would patch the whole class, for attributes that a copy has and this one has not.
            raise Unsupported("cannot be copied: Optimizer.__init__ was not called")
        pickled = self.case.copied == "pickled"
        pair = self.optimizer, self.parameters
        try:
            self.optimizer, self.parameters = pickle.loads(pickle.dumps(pair)) if pickled else copy.deepcopy(pair)
        except Exception as error:
            how = "pickled" if pickled else "deep-copied"
            raise Unsupported(f"cannot be {how}: {type(error).__name__}: {first_line(error)}") from error
        if self._hooks:
            self._hooks = Hooks(self.optimizer)

    def _schedule(self, index: int) -> None:
        """What a scheduler does to the groups before a step."""
        groups, schedule = self.optimizer.param_groups, self.case.schedule
        if schedule == "falling" and index and index % 2 == 0:
            for group in groups:
                set_rate(group, 0.5 * float(group.get("lr", 0.0)))
        if schedule == "warming" and index == 0:
            self._rates = [float(group.get("lr", 0.0)) for group in groups]
            for group in groups:
                set_rate(group, 0.0)
        if schedule == "warming" and index == 1:
            for group, rate in zip(groups, self._rates, strict=False):
                set_rate(group, rate)
        if schedule == "cycled" and index:
            for group in groups:
                cycle(group)

    def _jump(self) -> None:
        """Set the step counter through the state dictionary, as a user resuming a long run would."""
        saved = self.optimizer.state_dict()
        for state in saved["state"].values():
            if isinstance(state, MutableMapping) and "step" in state:
                was, start = state["step"], float(self.case.start_step)
                if not isinstance(was, torch.Tensor | int | float):
                    raise Unsupported(f"its step counter is {kind(was)}, not a number")
                state["step"] = torch.full_like(was, start) if isinstance(was, torch.Tensor) else type(was)(start)
                self.jumped = True
        self.optimizer.load_state_dict(saved)

    def _reload(self) -> None:
        """Save the state to bytes and go on with a new optimizer, made with other numbers, that has read them."""
        saved = io.BytesIO()
        torch.save(self.optimizer.state_dict(), saved)
        saved.seek(0)
        self.optimizer = self._build(others=True)
        if self._hooks:
            self._hooks = Hooks(self.optimizer)
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
                self.apart[name] = kind(value)
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
            raise Misstep(f"its state is {kind(self.optimizer.state)}, not a mapping by parameter")
        entry = self.optimizer.state.get(parameter, {})
        if isinstance(entry, Mapping):
            return entry
        self.apart["a parameter's entry"] = kind(entry)
        return {}

    def arrays(self) -> dict[str, torch.Tensor]:
        """Parameters, gradients (where they are anybody's business) and states, each flattened over all tensors.

        Of a case with two dtypes those in the other one stand apart, under a name that says so.
        """
        found: dict[str, list[torch.Tensor]] = {}
        for parameter in self.parameters:
            entries = {"param": parameter.detach().reshape(-1), **self.states(parameter)}
            if parameter.grad is not None and not self._scratch():
                entries["grad"] = parameter.grad.reshape(-1)
            for name, flat in entries.items():
                found.setdefault(self._with_dtype(name, flat), []).append(flat)
        return {name: torch.cat(pieces).to(self.device) for name, pieces in found.items()}

    def _scratch(self) -> bool:
        """Whether what a step leaves in gradients is nobody's business."""
        if gradient_is_scratch(self.case) or self.case.power:
            return True
        if self.state_names is None:
            return False
        # Who scales in the kernel may leave the scaled gradient, or not.
        return not self.provider.traits.keeps_gradients or self.case.grad_scale is not None

    def _with_dtype(self, name: str, flat: torch.Tensor) -> str:
        own = name == "step" or not self.case.mixed or flat.dtype == DTYPES[self.case.dtype].torch
        return name if own else f"{name} in {str(flat.dtype).removeprefix('torch.')}"


def _with_tensor(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options whose learning rate, if any, is a tensor: of float64, in which torch rounds as with numbers."""
    return {
        name: torch.tensor(value, dtype=torch.float64) if name == "lr" else value for name, value in options.items()
    }


def gradient_is_scratch(case: Case) -> bool:
    """Whether torch adds into `p.grad` itself, which nobody should copy: foreach SGD with nesterov alone."""
    options = case.options
    plain = not options.get("weight_decay") and not options.get("maximize")
    return case.recipe == "foreach" and bool(options.get("nesterov")) and plain
