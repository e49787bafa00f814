"""A probe on a live optimizer: `Probe`. `skips` counts what a GradScaler left out."""

from .probe import Probe

__all__ = ["Probe"]
