"""The drop-in torch.optim classes."""

from .classes import make_optimizer
from .graphs import graphed
from .native import compiled_look_missing
from .optimizer import StepOptimizer

__all__ = ["StepOptimizer", "compiled_look_missing", "graphed", "make_optimizer"]
