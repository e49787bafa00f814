"""This project's kernels, by recipe and backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .base import Unsupported, build_or_unsupported


@dataclass(frozen=True, kw_only=True)
class Ours:
    """The drop-in classes of `kernels` under one recipe and backend."""

    recipe: str
    backend: str = "auto"

    @property
    def name(self) -> str:
        """The provider's name in results."""
        if self.backend == "reference":
            return f"reference-{self.recipe}"
        return f"kernels-{self.recipe}" + ("" if self.backend == "auto" else f"[{self.backend}]")

    def missing(self, device: torch.device) -> str:
        """Why the backend cannot run here; empty when it can."""
        import kernels

        if self.backend == "auto":
            return ""
        if self.backend == "triton" and device.type != "cuda":
            return "the triton backend needs CUDA tensors"
        return str(kernels.available_backends().get(self.backend, f"no backend called {self.backend!r}"))

    def build(self, optimizer: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The drop-in with `recipe=` and `backend=`."""
        import kernels

        made = getattr(kernels, optimizer, None)
        if made is None:
            raise Unsupported(f"kernels has no {optimizer}")
        return build_or_unsupported(made, groups, {**options, "recipe": self.recipe, "backend": self.backend})
