"""The drop-in torch.optim classes."""

from .classes import make_optimizer
from .graphs import graphed
from .optimizer import StepOptimizer

__all__ = ["StepOptimizer", "graphed", "make_optimizer"]
