"""Every provider by name, and what a name on the command line means."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lossscale.support.errors import InputError, check_choice

from .base import Provider
from .foreign import PACKAGES, UserClass
from .ours import Ours
from .torch_optim import CompiledTorch, TorchOptim, reference_for

RECIPES = ("foreach", "for-loop", "fused", "cpu-fused", "native")


def all_providers() -> dict[str, Provider]:
    """Every provider that has a name, usable here or not."""
    found: list[Provider] = []
    for backend in ("auto", "triton", "interpreter"):
        found += [Ours(recipe=recipe, backend=backend) for recipe in RECIPES]
    found += [TorchOptim(implementation=name) for name in ("for-loop", "foreach", "fused")]
    found += [TorchOptim(implementation=name) for name in ("for-loop-capturable", "foreach-capturable")]
    found += [CompiledTorch(), *PACKAGES]
    return {provider.name: provider for provider in found}


def references() -> dict[str, Provider]:
    """What providers can be held against; `float64` beside them is a measure, not a provider."""
    found: list[Provider] = [TorchOptim(implementation=name) for name in ("foreach", "for-loop", "fused")]
    found += [Ours(recipe=recipe, backend="reference") for recipe in RECIPES]
    return {provider.name: provider for provider in found}


def parse_provider(text: str) -> Provider:
    """The provider of a name or of `module:Class`.

    Raises:
        InputError: if there is no such provider, or the class cannot be had.
    """
    if ":" in text:
        user = UserClass(target=text)
        try:
            user.load()
        except ValueError as error:
            raise InputError("--provider", text, str(error)) from error
        return user
    known = {**all_providers(), **references()}
    return known[check_choice("--provider", text, known)]


def parse_reference(text: str) -> Provider | None:
    """The reference provider of a name; None for `float64`.

    Raises:
        InputError: if there is none.
    """
    known = references()
    check_choice("--against", text, [*known, "float64"])
    return known.get(text)


def recipe_of(provider: Provider) -> str:
    """Whose rounding a provider has, as far as that decides which cases make sense for it."""
    if isinstance(provider, Ours):
        return provider.recipe
    if isinstance(provider, TorchOptim):
        return provider.implementation.removesuffix("-capturable")
    return "foreach"


def default_reference(provider: Provider, device: torch.device) -> Provider:
    """What a provider is held against when nothing else is asked for."""
    recipe = recipe_of(provider)
    if recipe == "native":
        return Ours(recipe="native", backend="reference")
    if device.type == "cuda":
        return reference_for(recipe) if isinstance(provider, Ours) else TorchOptim(implementation="foreach")
    if recipe == "cpu-fused":
        return TorchOptim(implementation="fused")
    if isinstance(provider, Ours):
        return Ours(recipe=recipe, backend="reference")
    if isinstance(provider, TorchOptim) and recipe == "fused":
        return Ours(recipe="cpu-fused", backend="reference")
    return Ours(recipe="foreach", backend="reference")


def default_names(device: torch.device) -> list[str]:
    """The providers of a run that names none: ours as they run here, torch's, and the packages that are there."""
    mine = "triton" if device.type == "cuda" else "interpreter"
    names = [f"kernels-{recipe}[{mine}]" for recipe in ("foreach", "for-loop", "fused")]
    names += [f"kernels-native[{mine}]"]
    names += ["kernels-cpu-fused"] if device.type == "cpu" else []
    names += ["torch-foreach", "torch-for-loop", "torch-fused"]
    return names + [package.name for package in PACKAGES if not package.missing(device)]


def reasons(device: torch.device) -> Mapping[str, str]:
    """Every provider's name to why it cannot run on `device`, or ""."""
    return {
        name: provider.missing(device)
        for name, provider in all_providers().items()
        # `conform` gives the interpreter a process of its own.
        if not (getattr(provider, "backend", "") == "interpreter" and device.type != "cpu")
    } | {
        name: ""
        for name, provider in all_providers().items()
        if getattr(provider, "backend", "") == "interpreter" and device.type == "cpu"
    }
