"""The attribution's part of a cell: distances of its pairs in every way to repair their causes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ...analysis.attribution import SUBSETS
from . import steps
from .cells import Cell, repaired
from .compare import Floats, bases, distances
from .extremes import Extremes
from .powers import OverPowers
from .scan import FLOOR_SCALE
from .training import Arm, Families, Runs, Setting, families

_EPS: Final = "E"


@dataclass(frozen=True, kw_only=True)
class Attribution(OverPowers):
    """The part of a cell."""

    cell: Cell

    @property
    def name(self) -> str:
        """Of its file."""
        return f"causes-{self.cell.name}"

    @property
    def work(self) -> float:
        """In model-steps."""
        return 4.0 * super().work

    def compute(self, run: Path) -> dict[str, np.ndarray]:
        """Distances [8, inits, powers] in the order of `SUBSETS`, of whole runs and of one step from shared state.

        ``distance``; ``step_distance`` relative to the unscaled run's own last step; ``step_floor`` [inits] that of the
        mapped arm at s = 3; ``repaired_floor`` and ``repaired_step_floor`` [inits] with V and G repaired;
        ``repaired_in_range`` [inits, powers] whether the repaired runs stay in range, which is float32's; ``powers``.
        """
        del run
        given = families(self.seed, self.inits, self.trained)
        base = self.cell.base
        own = self._setting(frozenset())
        mapped = own.algorithm.rescale
        scales = [2.0**k for k in self.powers.tolist()]
        arms = [
            Arm(hyper=base),
            *(Arm(hyper=base, scale=scale) for scale in scales),
            *(Arm(hyper=mapped(base, scale), scale=scale) for scale in scales),
            Arm(hyper=mapped(base, FLOOR_SCALE), scale=FLOOR_SCALE),
        ]
        base_of = bases(arms)
        begin = steps.shared(own, given, base, self.trained)
        whole: dict[frozenset[str], Floats] = {}
        single: dict[frozenset[str], Floats] = {}
        floors: dict[frozenset[str], tuple[Floats, Floats]] = {}
        for causes in (subset for subset in SUBSETS if _EPS not in subset):
            setting = self._setting(causes)
            runs = Runs(setting, given, arms)
            runs.to(self.trained)
            apart = distances(runs.params, base_of, runs.initial)
            stepped = steps.take(setting, begin, arms)
            once = distances(stepped.params, base_of, begin.params.to(stepped.params.dtype))
            for found, d in ((whole, apart), (single, once)):
                found[causes] = d[:, 1 : 1 + len(scales)]
                found[causes | {_EPS}] = d[:, 1 + len(scales) : -1]
            floors[causes] = apart[:, -1], once[:, -1]
        return {
            "powers": self.powers,
            "distance": np.stack([whole[subset] for subset in SUBSETS]),
            "step_distance": np.stack([single[subset] for subset in SUBSETS]),
            "step_floor": floors[frozenset()][1],
            "repaired_floor": floors[frozenset("VG")][0],
            "repaired_step_floor": floors[frozenset("VG")][1],
            "repaired_in_range": self._in_range(given),
        }

    def _in_range(self, given: Families) -> np.ndarray:
        runs = Runs(self._setting(frozenset("VG")), given, [Arm(hyper=self.cell.base)])
        extremes = Extremes(runs)
        for _ in range(self.trained):
            extremes.see(runs.step())
        return extremes.in_range(2.0 ** self.powers.astype(np.float64))[:, 0]

    def _setting(self, causes: frozenset[str]) -> Setting:
        return Setting(
            optimizer=self.cell.optimizer,
            recipe=self.cell.recipe,
            policy=repaired(self.cell.formats, causes),
            backend=self.backend,
        )
