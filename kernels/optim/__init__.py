"""The drop-in torch.optim classes."""

from .classes import make_optimizer
from .optimizer import StepOptimizer

__all__ = ["StepOptimizer", "make_optimizer"]
