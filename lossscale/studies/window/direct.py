"""Pixels that are run, because their numbers leave the formats' range: evidence on what became of each pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ...analysis.phases import RULED, Evidence
from ...design.policies import Policy
from .compare import Flags, Floats, bases, differing, distances, eps_shares, out_of_range, watch
from .training import Arm, Families, Runs, Setting, with_eps

_ARMS: Final = 2048
"""Pixels that are trained at a time."""

Places = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The pixels of a cell, and how they are run.

    Attributes:
        setting: formats and recipe.
        given: families.
        base: hyperparameters but for eps.
        eps: of every row.
        scales: of every column.
    """

    setting: Setting
    given: Families
    base: Any
    eps: Floats
    scales: Floats

    def look(self, evidence: Evidence, chosen: Flags, floor: float, repaired: Policy) -> None:
        """Fill in the evidence on the chosen pixels [rows, columns], in the order of the classes and no further.

        Args:
            evidence: [rows, columns, inits]; changed in place.
            chosen: which are run.
            floor: the distance that rounding alone reaches.
            repaired: the policy with float32 states and gradients.
        """
        chosen = chosen & evidence.reference.any(2)
        where = np.argwhere(chosen)
        evidence.exact[chosen] = False
        evidence.mapped[chosen] = False
        for first in range(0, len(where), _ARMS):
            self._look(evidence, where[first : first + _ARMS], floor, repaired)

    def _look(self, evidence: Evidence, where: Places, floor: float, repaired: Policy) -> None:
        rows, columns = where.T
        arms, begin = self._arms(where, mapped=False)
        ended = _end(self.setting, self.given, arms)
        of = (rows, columns)
        evidence.finite[of] = ended.finite[:, begin:].T
        evidence.distance[of] = ended.distance[:, begin:].T
        evidence.rho[of] = ended.rho[:, begin:].T
        events = ended.range_events[:, begin:].T
        open_ = ended.same & np.pad(evidence.reference[of].T, ((0, 0), (begin, 0)))
        undecided = [begin + index for index in np.flatnonzero(open_[:, begin:].any(0)).tolist()]
        seen = watch(self.setting, self.given, arms, undecided, ranges=False, needed=open_)
        evidence.exact[of] = (seen.exact & open_)[:, begin:].T
        left = evidence.reference[of] & evidence.finite[of] & ~evidence.exact[of]
        with np.errstate(invalid="ignore"):
            left &= ~(evidence.distance[of] <= floor)
        # Does a wider format shorten the distance? And if it does, has anything left its range?
        if repaired != self.setting.policy and left.any():
            wide = Setting(
                optimizer=self.setting.optimizer,
                recipe=self.setting.recipe,
                policy=repaired,
                backend=self.setting.backend,
            )
            some = np.flatnonzero(left.any(1))
            own, start = self._arms(where[some], mapped=False)
            runs = Runs(wide, self.given, own)
            runs.to(self.given.steps)
            shorter = np.full(left.shape, np.inf)
            shorter[some] = distances(runs.params, bases(own), runs.initial)[:, start:].T
            evidence.repaired_distance[of] = shorter
            with np.errstate(invalid="ignore"):
                helped = left & (shorter <= RULED * evidence.distance[of])
            late = np.flatnonzero((helped & ~events).any(1))
            asked = np.zeros((begin + len(where), left.shape[1]), np.bool_)
            asked[begin:] = helped & ~events
            late_arms = [begin + index for index in late.tolist()]
            found = watch(self.setting, self.given, arms, late_arms, ranges=True, needed=asked.T)
            events |= found.range_events[:, begin:].T
            evidence.range_events[of] = events
            left &= ~(helped & events)
        left &= ~(evidence.rho[of] >= RULED)
        if left.any():
            evidence.mapped[of] = self._mapped(where, left)

    def _mapped(self, where: Places, left: Flags) -> Flags:
        """[pixels, inits]: of those that are left, whether the pair is exact with its eps mapped."""
        exact = np.zeros_like(left)
        some = np.flatnonzero(left.any(1))
        arms, begin = self._arms(where[some], mapped=True)
        runs = Runs(self.setting, self.given, arms)
        runs.to(self.given.steps)
        asked = np.pad(left[some].T, ((0, 0), (begin, 0))) & ~differing(runs.params, bases(arms)).numpy()
        undecided = [begin + index for index in np.flatnonzero(asked[:, begin:].any(0)).tolist()]
        seen = watch(self.setting, self.given, arms, undecided, ranges=False, needed=asked)
        exact[some] = (seen.exact & asked)[:, begin:].T
        return exact

    def _arms(self, where: Places, *, mapped: bool) -> tuple[list[Arm], int]:
        """The unscaled runs of the pixels' rows, then the pixels; and where these begin."""
        used = sorted(set(where[:, 0].tolist()))
        place = {row: index for index, row in enumerate(used)}
        arms = [Arm(hyper=self._hyper(row), base=index) for row, index in place.items()]
        rescale = self.setting.algorithm.rescale
        for row, column in where.tolist():
            hyper, scale = self._hyper(row), float(self.scales[column])
            arms.append(Arm(hyper=rescale(hyper, scale) if mapped else hyper, scale=scale, base=place[row]))
        return arms, len(used)

    def _hyper(self, row: int) -> Any:
        return with_eps(self.base, float(self.eps[row]))


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """[inits, arms] each."""

    finite: Flags
    same: Flags
    distance: Floats
    rho: Floats
    range_events: Flags


def _end(setting: Setting, given: Families, arms: Sequence[Arm]) -> _Ended:
    """Train to the end; looked at after the first step and after the last."""
    runs, base_of = Runs(setting, given, arms), bases(arms)
    events = out_of_range(setting, runs.step(), runs.second_moment, base_of)
    runs.to(given.steps - 1)
    grads = runs.step()
    events = events | out_of_range(setting, grads, runs.second_moment, base_of)
    return _Ended(
        finite=runs.params.isfinite().all(2).numpy(),
        same=~differing(runs.params, base_of).numpy(),
        distance=distances(runs.params, base_of, runs.initial),
        rho=eps_shares(runs, grads),
        range_events=events.numpy(),
    )
