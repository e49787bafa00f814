"""What parts of the window have in common that run over every power of two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .cells import STEPS


@dataclass(frozen=True, kw_only=True)
class OverPowers:
    """Runs at every power of two.

    Attributes:
        seed: of the run.
        inits: initialisations.
        largest: the grid is s = 2^-largest … 2^largest.
        backend: what trains.
        trained: steps.
    """

    seed: int
    inits: int
    largest: int
    backend: str = "auto"
    trained: int = STEPS

    @property
    def work(self) -> float:
        """In model-steps."""
        return float(self.inits * self.largest * self.trained)

    @property
    def powers(self) -> npt.NDArray[np.int64]:
        """k, but 0."""
        every = np.arange(-self.largest, self.largest + 1)
        return np.asarray(every[every != 0], np.int64)
