"""Names of a model's parameters as the model was written, whatever is wrapped around it or its parts."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..support.arguments import shown

_PARTS_OF_WRAPPERS: Final = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Modules that torch.compile, FSDP and activation checkpointing put between a module and its parameters."""


def model_of(optimizer: Any, model: Any) -> torch.nn.Module | None:
    """The model, if it is one that the optimizer trains, or None.

    Raises:
        TypeError: it is no module.
        ValueError: it has none of the optimizer's parameters.
    """
    if model is None:
        return None
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"model {shown(model)}: is no torch.nn.Module; give the module that is trained, or leave it out"
        )
    known = {id(p) for p in model.parameters()}
    if not any(id(p) in known for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            f"model {type(model).__name__}: has none of the optimizer's parameters; give the module whose "
            "parameters it steps"
        )
    return model


def names_in(model: torch.nn.Module | None) -> dict[int, str]:
    """The names of its parameters by their identity; none without a model."""
    if model is None:
        return {}
    parallel = {
        f"{name}.module" if name else "module"
        for name, module in model.named_modules()
        if isinstance(module, DataParallel | DistributedDataParallel)
    }
    return {id(p): _unwrapped(name, parallel) for name, p in model.named_parameters()}


def _unwrapped(name: str, parallel: set[str]) -> str:
    parts = name.split(".")
    return ".".join(
        part
        for place, part in enumerate(parts)
        if part not in _PARTS_OF_WRAPPERS and ".".join(parts[: place + 1]) not in parallel
    )
