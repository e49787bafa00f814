"""The phase diagram's part of a cell: the class of every pixel (s, eps)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from ...analysis.phases import RULED, Evidence, classify, majority
from ...runs.parts import read_part
from ...theory import absorption
from .cells import STEPS, Cell, repaired
from .compare import eps_shares, watch
from .direct import Pixels
from .family import Members, train_members
from .floor import floor_of
from .scan import Scan
from .training import Arm, Families, Runs, Setting, families, with_eps

LOWEST: Final = -55
"""The diagram's smallest eps is 2^LOWEST."""

BINADES: Final = 64
"""How far eps goes up from there."""

WEAKEST: Final = {False: -64, True: -24}
"""An eps of this power of two is absorbed everywhere; in eager float16 arithmetic, where smaller ones are 0."""

LEAST_MOVED: Final = 0.5
"""Share of the elements with a gradient that must have moved for an unscaled run to be a reference."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Columns are powers of two, rows are eps.

    Attributes:
        powers: k of every column.
        rows_per_binade: of eps.
    """

    powers: tuple[int, ...]
    rows_per_binade: int

    @property
    def rows(self) -> int:
        """How many."""
        return BINADES * self.rows_per_binade

    @property
    def eps(self) -> npt.NDArray[np.float64]:
        """Of every row."""
        return self.member_eps(np.arange(self.rows))

    def member_eps(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Eps of the family's members, numbered as the rows: exact shifts of one binade's values."""
        binade, within = np.divmod(places, self.rows_per_binade)
        values = (2.0 ** (within / self.rows_per_binade)).astype(np.float32).astype(np.float64)
        return np.asarray(np.ldexp(values, binade + LOWEST), np.float64)

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """[rows, columns] number of the member whose eps is that of the row over s; may be negative."""
        found: npt.NDArray[np.int64] = (
            np.arange(self.rows)[:, None] - self.rows_per_binade * np.array(self.powers)[None]
        )
        return found


FULL: Final = Plane(powers=tuple(range(-48, 48)), rows_per_binade=16)
QUICK: Final = Plane(powers=tuple(range(-48, 48, 4)), rows_per_binade=1)


@dataclass(frozen=True, kw_only=True)
class Diagram:
    """A cell's part.

    Attributes:
        cell: which.
        plane: its pixels.
        seed: of the run.
        inits: of a pixel.
        sample: pixels that are run although they could be drawn from the family.
        backend: what trains.
        trained: steps.
    """

    cell: Cell
    plane: Plane
    seed: int
    inits: int = 16
    sample: int = 1024
    backend: str = "auto"
    trained: int = STEPS

    @property
    def name(self) -> str:
        """Of its file."""
        return f"diagram-{self.cell.name}"

    @property
    def work(self) -> float:
        """In model-steps; where gradients or moments are float16 most pixels are run."""
        share = 1.0 if "fp16" in vars(self.cell.formats).values() else 0.5
        return share * self.plane.rows * len(self.plane.powers) * self.inits * self.trained

    def compute(self, run: Path) -> dict[str, np.ndarray]:
        """The picture: ``phase`` and ``votes`` [rows, columns], and what stands beside it.

        ``distance``, ``rho`` [rows, columns] medians over inits; ``drawn`` [rows, columns] whether the pixel was taken
        from the family; ``powers``, ``eps``; ``floor``; ``rms``, ``root`` medians; ``sampled`` and ``sample_differs``:
        pairs of the sample and those that were not their family's; ``base_rho`` [rows]; ``classes`` counts of pairs.
        """
        plane, cell = self.plane, self.cell
        setting = Setting(optimizer=cell.optimizer, recipe=cell.recipe, policy=cell.formats, backend=self.backend)
        floor = floor_of(read_part(run, Scan(cell=cell, seed=0, inits=0, largest=0).name)).used
        given = families(self.seed, self.inits, self.trained)
        scales = 2.0 ** np.array(plane.powers, np.float64)
        places = plane.places
        numbers = np.arange(places.min(), places.max() + 1)
        members = train_members(setting, given, cell.base, plane.member_eps(numbers), scales)
        at = places - places.min()
        base = np.arange(plane.rows) - places.min()
        drawn = np.asarray(members.in_range.all(0))[at, np.arange(len(scales))[None]]
        evidence = _from_family(members, at, base)
        pixels = Pixels(setting=setting, given=given, base=cell.base, eps=plane.eps, scales=scales)
        pixels.look(evidence, ~drawn, floor, repaired(cell.formats, frozenset("VG")))
        classes = classify(evidence, floor)
        phase, votes = majority(classes)
        chosen, differing = self._verify(setting, given, drawn)
        absorbed = self._absorbed(members, at, base) & drawn[..., None] & evidence.reference
        return {
            "phase": phase.astype(np.uint8),
            "votes": votes.astype(np.uint8),
            "distance": np.median(evidence.distance, 2).astype(np.float32),
            "rho": np.median(evidence.rho, 2).astype(np.float32),
            "drawn": drawn,
            "powers": np.array(plane.powers),
            "eps": plane.eps,
            "floor": np.array(floor),
            "rms": np.array(np.median(members.rms)),
            "root": np.array(np.median(members.smallest_root[:, base[0]])),
            "half_rho": np.array(np.median(self._half_rho(setting, given))),
            "base_rho": np.median(members.rho[:, base], 0),
            "inits": np.array(self.inits),
            "classes": np.bincount(classes.ravel(), minlength=9),
            "absorbed": np.array(int(absorbed.sum())),
            "absorbed_differs": np.array(int((absorbed & ~evidence.exact).sum())),
            "exact_in_range": np.array(int((drawn[..., None] & evidence.exact).sum())),
            "sampled": np.array(chosen * self.inits),
            "sample_differs": np.array(differing),
        }

    def _half_rho(self, setting: Setting, given: Families) -> np.ndarray:
        """[inits] the eps at which rho would be ½ for the moments and roots that a run without eps ends with."""
        runs = Runs(
            setting, given, [Arm(hyper=with_eps(self.cell.base, 2.0 ** WEAKEST[self.cell.arithmetic == "fp16"]))]
        )
        runs.to(given.steps - 1)
        grads = runs.step()
        low, high = np.full(len(given.initial), -80.0), np.full(len(given.initial), 40.0)
        for _ in range(30):
            middle = (low + high) / 2.0
            ruled = eps_shares(runs, grads, torch.from_numpy(2.0**middle)[:, None, None])[:, 0] >= RULED
            low, high = np.where(ruled, low, middle), np.where(ruled, middle, high)
        return 2.0**high

    def _absorbed(self, members: Members, at: npt.NDArray[np.int64], base: npt.NDArray[np.int64]) -> np.ndarray:
        """[rows, columns, inits]: whether eps lies below the absorption border of every r of both runs."""
        border = np.log2(absorption(self.cell.arithmetic).invisible_below)
        inside = (members.eps < 2.0**border * members.smallest_root).T
        return np.asarray(inside[at] & inside[base][:, None])

    def _verify(self, setting: Setting, given: Families, drawn: npt.NDArray[np.bool_]) -> tuple[int, int]:
        """Runs a random sample of pixels that were drawn from the family: how many, and pairs that differ from it."""
        inside = np.argwhere(drawn)
        if not len(inside):
            return 0, 0
        generator = np.random.Generator(np.random.Philox(self.seed))
        count = min(self.sample, len(inside))
        taken = inside[generator.choice(len(inside), count, replace=False)]
        eps, powers = self.plane.eps, np.array(self.plane.powers)
        arms: list[Arm] = []
        for row, column in taken.tolist():
            scale = 2.0 ** float(powers[column])
            arms.append(Arm(hyper=with_eps(self.cell.base, eps[row] / scale), base=len(arms)))
            arms.append(Arm(hyper=with_eps(self.cell.base, eps[row]), scale=scale, base=len(arms) - 1))
        looked = range(1, len(arms), 2)
        same = watch(setting, given, arms, looked, ranges=False).exact[:, 1::2]
        return count, int((~same).sum())


def _from_family(members: Members, at: npt.NDArray[np.int64], base: npt.NDArray[np.int64]) -> Evidence:
    """Evidence [rows, columns, inits] as if every pixel were in range; what is not is looked at afterwards."""
    trace, finite, rho = members.trace.T, members.finite.T, members.rho.T
    reference = (finite & (members.moved.T >= LEAST_MOVED))[base]
    exact = trace[at] == trace[base][:, None]
    shape = exact.shape
    return Evidence(
        reference=np.broadcast_to(reference[:, None], shape).copy(),
        finite=finite[at],
        exact=exact,
        distance=members.distances(at, base),
        range_events=np.zeros(shape, np.bool_),
        repaired_distance=np.full(shape, np.inf),
        rho=rho[at],
        mapped=np.ones(shape, np.bool_),
    )
