"""Optimizers that a user might point the suite at."""

from collections.abc import Callable
from typing import Any

import torch

import kernels


class RightSGD(torch.optim.Optimizer):
    """SGD with momentum, rounded as torch's foreach rounds it."""

    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step_one(p, group)

    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        g = p.grad
        assert g is not None
        if group["weight_decay"] != 0:
            g = g.add(p, alpha=group["weight_decay"])
        if group["momentum"] != 0:
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = g.clone()
            else:
                state["momentum_buffer"].mul_(group["momentum"]).add_(g)
            g = state["momentum_buffer"]
        p.add_(g, alpha=-group["lr"])


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


class ReferenceAdam(kernels.Adam):  # type: ignore[misc, valid-type]
    """Ours: identical to the reference by construction."""


NOT_AN_OPTIMIZER = 3
