"""Optimizers that are right in plain steps, and wrong in one habit."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from tests.bench.example_optimizers import RightSGD


class ClosureTwice(RightSGD):
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if closure is not None:
            with torch.enable_grad():
                closure()
        return super().step(closure)


class KeepsItsRates(RightSGD):
    """load_state_dict brings states, and no hyperparameters."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        kept = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, own in zip(self.param_groups, kept, strict=True):
            group.update(own)


class CopiesAreItself(RightSGD):
    def __deepcopy__(self, memo: Any) -> Any:
        return self


class PicklesWithoutState(RightSGD):
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "state": defaultdict(dict)}


class HooksForgotten(RightSGD):
    """Its instances call the step below the one that torch wraps."""

    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, momentum, 0.0, weight_decay)
        unwrapped = RightSGD.step
        while hasattr(unwrapped, "__wrapped__"):
            unwrapped = unwrapped.__wrapped__
        self.step = torch.no_grad()(lambda closure=None: unwrapped(self, closure))  # type: ignore[method-assign]


class DecayOfTheFirstStep(RightSGD):
    def _step_group(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        first = group.setdefault("first_decay", group["weight_decay"])
        super()._step_group(params, {**group, "weight_decay": first})


class RestsAtZero(RightSGD):
    """At a learning rate of 0 nothing is done, to the momentum neither."""

    def _step_group(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        if group["lr"]:
            super()._step_group(params, group)


class LowersItsRate(RightSGD):
    """A learning rate that is a tensor gets smaller with every step."""

    def _step_group(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        super()._step_group(params, group)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].mul_(0.999)


class FirstDtypeForAll(RightSGD):
    def _step_group(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        for p in params:
            assert p.grad is not None
            p.grad = p.grad.to(params[0].dtype).to(p.dtype)
        super()._step_group(params, group)


class ImagesInMemorysOrder(RightSGD):
    """Reads gradients of images element by element as they lie, whatever the parameter's order."""

    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        if p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last) and p.grad.is_contiguous():
            p.grad = p.grad.reshape(-1).view(p.movedim(1, -1).shape).movedim(-1, 1)
        super()._step_one(p, group)


class ZerosForNone(RightSGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none=False)


class DecaysTheGradient(RightSGD):
    """Adds the decay into `p.grad` itself."""

    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        if group["weight_decay"]:
            p.grad.add_(p, alpha=group["weight_decay"])
        super()._step_one(p, {**group, "weight_decay": 0.0})


class OneFlagForAll(torch.optim.Adam):
    """Whether a group has amsgrad is what the constructor was told."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["amsgrad"] = self.defaults["amsgrad"]
        return super().step(closure)


class CorrectionGivenUp(torch.optim.Adam):
    """From step 2,000 on bias is taken to be gone."""

    def step(self, closure: Any = None) -> Any:
        late = [state["step"] for state in self.state.values() if state and state["step"] >= 2000]
        for step in late:
            step.add_(2.0**23)
        loss = super().step(closure)
        for step in late:
            step.sub_(2.0**23)
        return loss


class NotNegative(torch.optim.RMSprop):
    """Takes a centered variance that rounding has made negative for 0, by a square that is too large."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"] if group["centered"] else ():
                if self.state[p] and p.grad is not None:
                    self._raise(self.state[p], group["alpha"], p.grad)
        return super().step(closure)

    def _raise(self, state: dict[str, Any], alpha: float, grad: torch.Tensor) -> None:
        square = state["square_avg"].mul(alpha).addcmul(grad, grad, value=1 - alpha)
        mean = state["grad_avg"].lerp(grad, 1 - alpha)
        state["square_avg"][square < mean * mean] *= 1.0 + 2.0**-10


class NoDecayByDefault(torch.optim.AdamW):
    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.0, **options: Any) -> None:
        super().__init__(params, lr, weight_decay=weight_decay, **options)


# -- right ones ------------------------------------------------------------------------------------


class CountsUnderAnotherName(torch.optim.Adam):
    """Saves its step counter as `t`."""

    def state_dict(self) -> dict[str, Any]:
        found = super().state_dict()
        found["state"] = {
            key: {"t" if name == "step" else name: value for name, value in state.items()}
            for key, state in found["state"].items()
        }
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        states = {
            key: {"step" if name == "t" else name: value for name, value in state.items()}
            for key, state in state_dict["state"].items()
        }
        super().load_state_dict({**state_dict, "state": states})


class Logs(torch.optim.Adam):
    """Has an attribute of its own, which torch's optimizers do not copy."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        self.log: list[int] = []

    def step(self, closure: Any = None) -> Any:
        self.log.append(len(self.log))
        return super().step(closure)


class Wraps(torch.optim.Optimizer):
    """Hands everything on to another optimizer; what torch's base class makes it does without."""

    def __init__(self, params: Any, **options: Any) -> None:
        self.inner = torch.optim.SGD(params, **options)
        self.defaults = self.inner.defaults

    param_groups = property(lambda self: self.inner.param_groups)  # type: ignore[assignment]
    state = property(lambda self: self.inner.state)  # type: ignore[assignment]

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.inner.add_param_group(param_group)


class TakesAnyOption(torch.optim.Adagrad):
    """Adagrad without a falling rate, whose constructor does not say so."""

    def __init__(self, params: Any, **options: Any) -> None:
        if "lr_decay" in options:
            raise TypeError("no option lr_decay")
        super().__init__(params, **options)
        del self.defaults["lr_decay"]
        for group in self.param_groups:
            group["lr_decay"] = 0.0

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group({**param_group, "lr_decay": 0.0})
