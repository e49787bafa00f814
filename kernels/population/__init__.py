"""Many models at once: their optimizer steps, each with hyperparameters of its own."""

from .step import Population

__all__ = ["Population"]
