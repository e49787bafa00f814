"""Paired training runs that show what scaling the loss changes, and how the optimizer decides it.

Importing this package is cheap: torch is imported by what needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from .support.neighbours import require_neighbour

require_neighbour("kernels")

if TYPE_CHECKING:
    from .clipping import clip_grad_norm_
    from .conventions import convert_eps
    from .engines.given import given_run
    from .probe import Probe

__all__ = ["Probe", "__version__", "clip_grad_norm_", "convert_eps", "given_run", "support"]

__version__ = "0.1.0"

_PLACES: Final = {
    "Probe": ".probe",
    "clip_grad_norm_": ".clipping",
    "convert_eps": ".conventions",
    "given_run": ".engines.given",
}
"""Public names that are imported when they are asked for, and where they are."""


def __getattr__(name: str) -> Any:
    """A public name of `_PLACES`."""
    if name in _PLACES:
        return getattr(import_module(_PLACES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
