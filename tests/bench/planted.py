"""Providers with planted faults, importable by worker processes."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bench.providers.base import Provider, build_or_unsupported


class NoOp(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["momentum_buffer"] = None


class DecayIgnored(torch.optim.AdamW):
    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **{**options, "weight_decay": 0.0})


class LateEps(torch.optim.Adam):
    """A bit here and there: eps is off where it hardly shows."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **{**options, "eps": 1.5e-8})


class LrCaptured(torch.optim.Adam):
    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        self.lr = self.param_groups[0]["lr"]

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["lr"] = self.lr
        super().step()


class ScaleIgnored(torch.optim.Adam):
    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        self._step_supports_amp_scaling = True

    def step(self, closure: Any = None) -> None:
        held = self.grad_scale, self.found_inf
        self.grad_scale = self.found_inf = None
        super().step()
        self.grad_scale, self.found_inf = held


class TailSkipped(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        kept = [(p, p.detach()[-1:].clone()) for group in self.param_groups for p in group["params"] if p.dim()]
        super().step()
        with torch.no_grad():
            for p, tail in kept:
                p[-1:] = tail


class Raises(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        raise RuntimeError("planted")


class Refuses(torch.optim.SGD):
    def __init__(self, params: Any, **options: Any) -> None:
        raise ValueError("no such option here")


class Hangs(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        time.sleep(600)


class Dies(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class WrongState(torch.optim.Adam):
    def step(self, closure: Any = None) -> None:
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["surprise"] = p.detach().clone()


@dataclass(frozen=True)
class Planted(Provider):
    """A provider around one of the classes above; it fails only where the options ask for momentum, if told so."""

    make: Callable[..., torch.optim.Optimizer]
    only_with_momentum: bool = False

    @property
    def name(self) -> str:
        return self.make.__name__

    def build(self, optimizer: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
        sound = self.only_with_momentum and not options.get("momentum")
        return build_or_unsupported(torch.optim.SGD if sound else self.make, groups, {**options, "foreach": True})
