"""Optimizers that a user might point the suite at."""

from collections.abc import Callable
from typing import Any

import torch

import kernels


class RightSGD(torch.optim.Optimizer):
    """SGD with momentum, rounded as torch's foreach rounds it."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group([p for p in group["params"] if p.grad is not None], group)
        return loss

    def _step_group(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        for p in params:
            self._step_one(p, group)

    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        g = p.grad
        assert g is not None
        if group["weight_decay"] != 0:
            g = g.add(p, alpha=group["weight_decay"])
        if group["momentum"] != 0:
            if self._is_first(p):
                self.state[p]["momentum_buffer"] = g.clone()
            else:
                buffer = self.state[p]["momentum_buffer"]
                buffer.mul_(group["momentum"]).add_(g, alpha=1 - group["dampening"])
            g = self.state[p]["momentum_buffer"]
        p.add_(g, alpha=-group["lr"])

    def _is_first(self, p: torch.Tensor) -> bool:
        return "momentum_buffer" not in self.state[p]


class WrongSGD(RightSGD):
    """Decay acts on the stepped parameter, as if it were decoupled."""

    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        super()._step_one(p, {**group, "weight_decay": 0.0})
        p.mul_(1 - group["lr"] * group["weight_decay"])


class Replacing(RightSGD):
    """Puts new memory behind each parameter."""

    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        super()._step_one(p, group)
        p.data = p.data.clone()


class BuffersFromTheStart(RightSGD):
    """Has momentum buffers from the start, and takes all of them for used once a state was loaded."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        self.used: set[torch.Tensor] = set()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)

    def _is_first(self, p: torch.Tensor) -> bool:
        first = p not in self.used
        self.used.add(p)
        return first

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            self.used.update(group["params"])


class EmptyTailSkips(RightSGD):
    """Steps no group whose last tensor is empty."""

    def _step_group(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        if params and params[-1].numel():
            super()._step_group(params, group)


class ClosureWithoutGradients(RightSGD):
    """Calls its closure with gradients off."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else closure()
        super().step()
        return loss


class ClosureForgotten(RightSGD):
    """Takes a closure and does not call it."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        super().step()


class LossForgotten(RightSGD):
    """Returns nothing from a step."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        super().step(closure)


class NoClosure(RightSGD):
    """Takes no closure."""

    def step(self) -> None:  # type: ignore[override]
        super().step()


class ReferenceAdam(kernels.Adam):  # type: ignore[misc, valid-type]
    """Ours: identical to the reference by construction."""


class SlightlyOff(torch.optim.Adam):
    """A learning rate that is off by a factor of 1 + 2^-12."""

    def __init__(self, params: Any, lr: float, **options: Any) -> None:
        super().__init__(params, lr=lr * (1 + 2**-12), **options)


NOT_AN_OPTIMIZER = 3
