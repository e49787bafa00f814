"""The drop-in torch.optim classes."""

from .optimizer import StepOptimizer, make_optimizer

__all__ = ["StepOptimizer", "make_optimizer"]
