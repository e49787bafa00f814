"""Every provider by name, and what a name on the command line means."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lossscale.support.errors import InputError

from ..choices import choose
from .base import Provider
from .foreign import PACKAGES
from .ours import Ours
from .torch_optim import CompiledTorch, TorchOptim
from .user import UserClass

RECIPES = ("foreach", "for-loop", "fused", "cpu-fused", "native")
# Other people's: a new provider is one more line here, or one more entry of PACKAGES.
OTHERS: tuple[Provider, ...] = (*PACKAGES,)


def all_providers() -> dict[str, Provider]:
    """Every provider that has a name, usable here or not."""
    import kernels

    found: list[Provider] = []
    # The reference is what others are held against (`references`).
    for backend in ("auto", *(name for name in kernels.available_backends() if name != "reference")):
        found += [Ours(recipe=recipe, backend=backend) for recipe in RECIPES]
    found += [Ours(recipe="fused", graphed=True)]
    found += [TorchOptim(implementation=name) for name in ("for-loop", "foreach", "fused")]
    found += [TorchOptim(implementation=name) for name in ("for-loop-capturable", "foreach-capturable")]
    found += [CompiledTorch(), *OTHERS]
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
    return known[choose("--provider", text, known)]


def parse_reference(text: str) -> Provider | None:
    """The reference provider of a name; None for `float64`.

    Raises:
        InputError: if there is none.
    """
    known = references()
    return known.get(choose("--against", text, [*known, "float64"]))


def reference_of(provider: Provider, device: torch.device) -> Provider:
    """What a provider is held against when nothing else is asked for."""
    return references()[provider.against(device)]


def default_names(device: torch.device) -> list[str]:
    """The providers of a run that names none: ours as they run here, torch's, and the packages that are there."""
    mine = "triton" if device.type == "cuda" else "simd"
    if device.type == "cpu" and Ours(recipe="foreach", backend=mine).missing(device):
        mine = "interpreter"
    names = [f"kernels-{recipe}[{mine}]" for recipe in ("foreach", "for-loop", "fused")]
    names += [f"kernels-native[{mine}]"]
    names += ["kernels-cpu-fused"] if device.type == "cpu" else []
    names += ["torch-foreach", "torch-for-loop", "torch-fused"]
    return names + [other.name for other in OTHERS if not other.missing(device)]


def missing_in_worker(provider: Provider, device: torch.device) -> str:
    """Why a provider cannot run on `device` in a worker of its own, which has the interpreter if it needs it; or ""."""
    return "" if provider.traits.interpreted and device.type == "cpu" else provider.missing(device)


def reasons(device: torch.device) -> Mapping[str, str]:
    """Every provider's name to why it cannot run on `device`, or ""."""
    return {name: missing_in_worker(provider, device) for name, provider in all_providers().items()}
