"""Optimizer implementations under test or timing, one file each."""

from __future__ import annotations

from .base import Provider, Traits, Unsupported
from .contained import Ended, contained
from .ours import Ours
from .torch_optim import TorchOptim, reference_for

__all__ = ["Ended", "Ours", "Provider", "TorchOptim", "Traits", "Unsupported", "contained", "reference_for"]
