"""torch.optim itself, by implementation: for-loop, foreach, fused."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .base import Provider, Traits, Unsupported, build_or_unsupported

_FLAGS: Mapping[str, Mapping[str, bool]] = {
    "foreach": {"foreach": True},
    "for-loop": {"foreach": False},
    "fused": {"fused": True},
    "foreach-capturable": {"foreach": True, "capturable": True},
    "for-loop-capturable": {"foreach": False, "capturable": True},
}


def constructor_takes(optimizer: str, option: str) -> bool:
    """Whether torch's class of that name exists and its constructor has the option: no fused RMSprop, say."""
    made = getattr(torch.optim, optimizer, None)
    return made is not None and option in inspect.signature(made).parameters


@dataclass(frozen=True, kw_only=True)
class TorchOptim(Provider):
    """torch.optim with one implementation forced: "foreach", "for-loop", "fused"; the first two also "-capturable"."""

    implementation: str

    @property
    def name(self) -> str:
        """The provider's name in results."""
        return f"torch-{self.implementation}"

    @property
    def traits(self) -> Traits:
        """Cases are those of the recipe that reproduces it."""
        return Traits(recipe=self.implementation.removesuffix("-capturable"), known=True)

    def missing(self, device: torch.device) -> str:
        """Empty: torch.optim runs wherever torch does, but for its capturable variants."""
        return "torch refuses capturable off a GPU" if self.capturable and device.type != "cuda" else ""

    @property
    def capturable(self) -> bool:
        """Whether all of a step's arithmetic is on the device."""
        return self.implementation.endswith("-capturable")

    def has(self, optimizer: str) -> bool:
        """Whether torch has this implementation of the optimizer."""
        return all(constructor_takes(optimizer, flag) for flag in _FLAGS[self.implementation])

    def against(self, device: torch.device) -> str:
        """Torch's foreach; off a GPU the reference, of its own fused kernels where it is them."""
        if device.type == "cuda":
            return "torch-foreach"
        return "reference-cpu-fused" if self.implementation == "fused" else "reference-foreach"

    def build(self, optimizer: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
        """Torch's optimizer; fused Adagrad goes through the operator where torch's Python refuses it (2.11 on CUDA)."""
        made = getattr(torch.optim, optimizer, None)
        if made is None:
            raise Unsupported(f"torch.optim has no {optimizer}")
        if not self.has(optimizer):
            raise Unsupported(f"torch has no {self.implementation.rpartition('-')[2]} {optimizer}")
        flags = dict(_FLAGS[self.implementation])
        if self.implementation.startswith("for-loop") and constructor_takes(optimizer, "fused"):
            flags["fused"] = False
        try:
            built = build_or_unsupported(made, groups, {**options, **flags})
        except Unsupported:
            if (self.implementation, optimizer) != ("fused", "Adagrad"):
                raise
            return FusedAdagradOperator(groups, **options)
        if (self.implementation, optimizer) == ("fused", "SGD"):
            vars(built)["step"] = _refusing_late_momentum(built.step)
        return built


def _refusing_late_momentum(step: Callable[..., Any]) -> Callable[..., Any]:
    """Torch's fused SGD makes a group's momentum buffers all at once: with some of them missing it is a TypeError."""

    def refusing(closure: Callable[[], Any] | None = None) -> Any:
        try:
            return step(closure)
        except TypeError as error:
            if "NoneType" not in str(error):
                raise
            raise Unsupported("torch's fused SGD takes no parameter whose first gradient comes later") from error

    return refusing


@dataclass(frozen=True, kw_only=True)
class CompiledTorch(Provider):
    """torch.optim's foreach step through torch.compile, as users time it; compiling takes seconds per option set."""

    @property
    def name(self) -> str:
        """The provider's name in results."""
        return "torch-compiled"

    @property
    def traits(self) -> Traits:
        """It compiles for every shape."""
        return Traits(slow=True, known=True)

    def missing(self, device: torch.device) -> str:
        """Why torch.compile cannot be used: on the CPU it needs a C++ compiler."""
        import shutil

        compiler = shutil.which("g++") or shutil.which("clang++")
        return "" if device.type == "cuda" or compiler else "torch.compile needs a C++ compiler"

    def build(self, optimizer: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The foreach optimizer with its step compiled."""
        made = TorchOptim(implementation="foreach").build(optimizer, groups, options)
        vars(made)["step"] = torch.compile(made.step)
        return made


def reference_for(recipe: str) -> TorchOptim:
    """The torch implementation whose rounding `recipe` reproduces."""
    return TorchOptim(implementation="fused" if recipe == "cpu-fused" else recipe)


class FusedAdagradOperator(torch.optim.Adagrad):
    """`torch._fused_adagrad_` driven as later torch versions drive it from Python (steps, found_inf)."""

    def __init__(self, params: Any, **options: Any) -> None:
        """Take torch.optim.Adagrad's arguments."""
        super().__init__(params, foreach=False, **options)
        self._step_supports_amp_scaling = True
        for state in self.state.values():
            state["step"] = state["step"].to(state["sum"].device)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One fused step per group; honours `grad_scale` and `found_inf` attributes."""
        assert closure is None
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            steps = [self.state[p]["step"] for p in params]
            torch._foreach_add_(steps, 1)
            torch._fused_adagrad_(
                params,
                [p.grad for p in params],
                [self.state[p]["sum"] for p in params],
                steps,
                lr=group["lr"],
                lr_decay=group["lr_decay"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=group["maximize"],
                grad_scale=scale,
                found_inf=found_inf,
            )
            if found_inf is not None:
                torch._foreach_sub_(steps, [found_inf] * len(steps))
