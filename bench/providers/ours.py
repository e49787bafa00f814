"""This project's kernels, by recipe and backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..optimizers import registered
from .base import Provider, Traits, Unsupported, build_or_unsupported


@dataclass(frozen=True, kw_only=True)
class Ours(Provider):
    """The drop-in classes of `kernels` under one recipe and backend, with `kernels.graphed` if so wanted."""

    recipe: str
    backend: str = "auto"
    graphed: bool = False

    @property
    def name(self) -> str:
        """The provider's name in results."""
        if self.backend == "reference":
            return f"reference-{self.recipe}"
        name = f"kernels-{self.recipe}" + ("-graphed" if self.graphed else "")
        return name + ("" if self.backend == "auto" else f"[{self.backend}]")

    @property
    def traits(self) -> Traits:
        """Held to its recipe, to the last bit."""
        return Traits(
            recipe=self.recipe,
            claims_identity=True,
            bits_known=True,
            block=64 if self.recipe == "cpu-fused" else 1,
            interpreted=self.backend == "interpreter",
            tables=True,
            known=True,
        )

    def missing(self, device: torch.device) -> str:
        """Why the backend cannot run here; empty when it can."""
        import kernels

        if self.graphed and device.type != "cuda":
            return "graphs need CUDA tensors"
        if self.backend == "auto":
            return ""
        if self.backend == "triton" and device.type != "cuda":
            return "the triton backend needs CUDA tensors"
        if self.backend in ("interpreter", "simd") and device.type != "cpu":
            return f"the {self.backend} backend needs CPU tensors"
        return str(kernels.available_backends().get(self.backend, f"no backend called {self.backend!r}"))

    def offers(self, optimizer: str) -> bool:
        """Whether the registry has the optimizer with this recipe."""
        return self.recipe in registered(optimizer).recipes

    def against(self, device: torch.device) -> str:
        """The torch implementation that the recipe reproduces; off a GPU the reference, but for fused."""
        if self.recipe == "native":
            return "reference-native"
        if self.recipe == "cpu-fused":
            return "torch-fused"
        return f"torch-{self.recipe}" if device.type == "cuda" else f"reference-{self.recipe}"

    def rule_line(self, optimizer: str, quantity: str) -> dict[str, str] | None:
        """The line of the recipe's rule that computes the quantity."""
        from .rule_lines import rule_line

        return rule_line(optimizer, self.recipe, quantity)

    def build(self, optimizer: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The drop-in with `recipe=` and `backend=`."""
        try:
            algorithm = registered(optimizer)
        except KeyError as error:
            raise Unsupported(f"kernels has no {optimizer}") from error
        made = {**options, "recipe": self.recipe, "backend": self.backend}
        if not self.graphed:
            return build_or_unsupported(_drop_in(algorithm.name, optimizer), groups, made)
        return build_or_unsupported(partial(_graphed, _drop_in(algorithm.name, optimizer)), groups, made)


def _graphed(drop_in: Any, groups: list[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
    import kernels

    optimizer: torch.optim.Optimizer = kernels.graphed(drop_in(groups, **options))
    return optimizer


def _drop_in(name: str, title: str) -> Any:
    """The optimizer class of an algorithm: exported by `kernels`, or made here for one registered elsewhere."""
    import kernels

    return getattr(kernels, title, None) or kernels.make_optimizer(kernels.get_algorithm(name))
