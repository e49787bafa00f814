"""Paired training runs that show what scaling the loss changes, and how the optimizer decides it.

Importing this package is cheap: torch is imported by what needs it.
"""

from .support.neighbours import require_neighbour

require_neighbour("kernels")

__all__ = ["__version__", "support"]

__version__ = "0.1.0"
