"""The thresholds' part of a cell: every power of two against the unscaled run, its controls, and the exact event."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

import kernels

from ...design.arms import ULP, Member
from ...design.policies import POLICIES
from ...diagnose import steps as diagnose
from ...engines.start import starting_points
from . import steps
from .cells import FREE, STEPS, Cell
from .compare import Floats, bases, differing, distances, watch
from .extremes import Extremes
from .powers import OverPowers
from .training import Arm, Runs, Setting, families, with_eps

MAPPED_POWERS: Final = (-20, -10, -4, 4, 10, 20)
"""Where the mapped control is compared after every step."""

FLOOR_SCALE: Final = 3.0
"""The scale of the arm whose distance is the floor: no power of two, so the map rounds."""

EVENT_STEPS: Final = (1, 2, STEPS)


@dataclass(frozen=True, kw_only=True)
class Scan(OverPowers):
    """The part of a cell."""

    cell: Cell

    @property
    def name(self) -> str:
        """Of its file."""
        return f"scan-{self.cell.name}"

    def compute(self, run: Path) -> dict[str, np.ndarray]:
        """Everything that is measured of the cell; `_scaled` and the others say what."""
        del run
        cell = self.cell
        setting = Setting(optimizer=cell.optimizer, recipe=cell.recipe, policy=cell.formats, backend=self.backend)
        found = {"powers": self.powers, **self._scaled(setting), **self._reference(setting), **self._family(setting)}
        for step in sorted({min(step, self.trained) for step in EVENT_STEPS}):
            found |= {f"{name}_{step}": array for name, array in self._event(setting, step).items()}
        return found

    def _scaled(self, setting: Setting) -> dict[str, np.ndarray]:
        """The run at every power, and the controls.

        ``distance`` [inits, powers] d; ``differs`` [inits, powers] whether any bit differs at any step; ``loss`` and
        ``losses`` [inits] and [inits, powers] on a sample nobody trains on; ``floor``, ``ulp``, ``ulp_first`` [inits] d
        of the mapped arm at s = 3 and of the one-ulp arm at the end and after one step; ``null`` [inits] and
        ``mapped`` [inits, `MAPPED_POWERS`] whether any bit differs at any step; ``mapped_distance`` [inits, powers].
        """
        base, algorithm, powers = self.cell.base, setting.algorithm, self.powers
        given = families(self.seed, self.inits, self.trained)
        arms = [Arm(hyper=base), *(Arm(hyper=base, scale=2.0**k) for k in powers.tolist())]
        controls = [
            Arm(hyper=base),
            Arm(hyper=base),
            Arm(hyper=algorithm.rescale(base, FLOOR_SCALE), scale=FLOOR_SCALE),
        ]
        mapped = [Arm(hyper=algorithm.rescale(base, 2.0**k), scale=2.0**k) for k in powers.tolist()]
        every = [*arms, *controls, *mapped]
        null, ulp, floor = (len(arms) + place for place in range(3))
        drawn = given.initial.to(kernels.DTYPES[setting.policy.params].torch)
        inits = range(self.inits)
        starts = drawn.unsqueeze(1).repeat(1, len(every), 1)
        starts[:, ulp] = starting_points(drawn, [Member(arm=ULP)], self.seed, inits)
        runs, base_of = Runs(setting, given, every, starts), bases(every)
        runs.to(1)
        first = distances(runs.params[:, [0, ulp]].contiguous(), torch.tensor([0, 0]), drawn)[:, 1]
        runs.to(self.trained)
        apart, other = distances(runs.params, base_of, drawn), differing(runs.params, base_of).numpy()
        losses = runs.losses().double().numpy()
        kept = [len(arms) + len(controls) + int(np.flatnonzero(powers == k)[0]) for k in MAPPED_POWERS if k in powers]
        looked = [*range(1, len(arms)), null, *kept]
        undecided = [index for index in looked if not other[:, index].all()]
        same = watch(setting, given, every, undecided, ranges=False).exact
        other = other | ~same
        own = slice(1, len(arms))
        return {
            "distance": apart[:, own],
            "differs": other[:, own],
            "reconverged": np.array((~differing(runs.params, base_of).numpy() & other)[:, own].sum()),
            "loss": losses[:, 0],
            "losses": losses[:, own],
            "null": other[:, null],
            "floor": apart[:, floor],
            "ulp": apart[:, ulp],
            "ulp_first": first,
            "mapped": other[:, kept],
            "mapped_powers": np.array([k for k in MAPPED_POWERS if k in powers]),
            "mapped_distance": apart[:, len(arms) + len(controls) :],
            "float32_floor": self._float32_floor(setting),
        }

    def _float32_floor(self, setting: Setting) -> np.ndarray:
        """[inits] d of the mapped arm at s = 3 with everything in float32."""
        given = families(self.seed, self.inits, self.trained)
        mapped = setting.algorithm.rescale(self.cell.base, FLOOR_SCALE)
        arms = [Arm(hyper=self.cell.base), Arm(hyper=mapped, scale=FLOOR_SCALE)]
        runs = Runs(dataclasses.replace(setting, policy=POLICIES["fp32"]), given, arms)
        runs.to(self.trained)
        return distances(runs.params, bases(arms), runs.initial)[:, 1]

    def _reference(self, setting: Setting) -> dict[str, np.ndarray]:
        """The unscaled run alone, watched at every step.

        ``rms`` [inits] of the nonzero gradients at step 1; ``root`` and ``root_last`` [inits] the smallest r over the
        elements with a second moment, of all steps and at the end; ``moved``, ``alive`` [inits] elements that ended
        elsewhere and those that had a gradient at any step; ``finite`` [inits]; ``in_range`` [inits, powers]; ``rho``.
        """
        given = families(self.seed, self.inits, self.trained)
        runs = Runs(setting, given, [Arm(hyper=self.cell.base)])
        extremes = Extremes(runs)
        alive = torch.zeros(runs.shape, dtype=torch.bool)
        smallest = torch.full(runs.shape[:2], torch.inf, dtype=torch.float64)
        rms = last = torch.empty(0)
        for step in range(1, self.trained + 1):
            grads = runs.step()
            extremes.see(grads)
            alive |= grads != 0
            if step == 1:
                squares = grads.double().square()
                rms = (squares.sum(2) / (grads != 0).sum(2)).sqrt()[:, 0]
            root = diagnose.root(setting.algorithm, runs.state, self.cell.base, step)
            assert root is not None, "an optimizer with eps has a root"
            last = torch.where(root > 0, root, torch.inf).amin(2)
            smallest = torch.minimum(smallest, last)
        moved = (kernels.bits.bit_view(runs.params[:, 0]) != kernels.bits.bit_view(runs.initial)) & alive[:, 0]
        return {
            "rms": rms.numpy(),
            "root": smallest[:, 0].numpy(),
            "root_last": last[:, 0].numpy(),
            "moved": moved.sum(1).numpy(),
            "alive": alive[:, 0].sum(1).numpy(),
            "finite": runs.params[:, 0].isfinite().all(1).numpy(),
            "in_range": extremes.in_range(2.0 ** self.powers.astype(np.float64))[:, 0],
        }

    def _family(self, setting: Setting) -> dict[str, np.ndarray]:
        """Runs at s = 1 with eps = 2^j against the smallest of them, which stands for none.

        ``eps`` [arms], ``eps_differs`` [inits, arms]: whether any bit differs from it at any step.
        """
        given = families(self.seed, self.inits, self.trained)
        # In eager float16 arithmetic a smaller eps is 0, and a dead element's step 0 / 0.
        lowest = -24 if self.cell.arithmetic == "fp16" else -64
        eps = 2.0 ** np.arange(lowest, 5, dtype=np.float64)
        arms = [Arm(hyper=with_eps(self.cell.base, value)) for value in eps.tolist()]
        runs, base_of = Runs(setting, given, arms), bases(arms)
        runs.to(self.trained)
        other = differing(runs.params, base_of).numpy()
        undecided = [index for index in range(1, len(arms)) if not other[:, index].all()]
        same = watch(setting, given, arms, undecided, ranges=False).exact
        other = other | ~same
        other[:, 0] = False
        return {"eps": eps, "eps_differs": other}

    def _event(self, setting: Setting, step: int) -> dict[str, np.ndarray]:
        """One step from mapped shared state.

        ``step`` [inits, powers] whether any parameter bit changes; ``judged`` and ``wrong``: elements in range and
        those among them where the measured event is not the predicted one; ``changed``: those where there is one;
        ``exempt``, ``exempt_changed``: those without gradient and moments, and how many of them change.
        """
        given = families(self.seed, self.inits, self.trained)
        begin = steps.shared(setting, given, self.cell.base, step)
        scales = (2.0 ** self.powers.astype(np.float64)).tolist()
        measured, inside = steps.changes(setting, begin, scales, self.cell.base)
        predicted = steps.predicted_changes(setting, begin, scales, self.cell.base)
        # Without a moment or a gradient there is nothing for eps to divide.
        own = [begin.states[name] for name in begin.states]
        still = torch.stack([state == 0 for state in own]).all(0) & (steps.gradients(setting, begin) == 0)
        untouched = still.unsqueeze(1).expand_as(measured)
        return {
            "step": measured.any(2).numpy(),
            "step_predicted": predicted.any(2).numpy(),
            "judged": np.array(int(inside.sum())),
            "wrong": np.array(int(((measured != predicted) & inside).sum())),
            "changed": np.array(int((measured & inside).sum())),
            "exempt": np.array(int((untouched & inside).sum())),
            "exempt_changed": np.array(int((untouched & measured & inside).sum())),
        }


@dataclass(frozen=True, kw_only=True)
class EpsFree(OverPowers):
    """The control without eps: Adam-atan2 at every power of two, nothing mapped."""

    policy: str
    largest: int = 20

    @property
    def name(self) -> str:
        """Of its file."""
        return f"free-{self.policy}"

    def compute(self, run: Path) -> dict[str, np.ndarray]:
        """``differs`` [inits, powers] at any step, ``powers``, ``moved`` [inits]."""
        del run
        cell = Cell(optimizer=FREE, policy=self.policy, recipe="native")
        setting = Setting(optimizer=FREE, recipe="native", policy=cell.formats, backend=self.backend)
        powers = self.powers
        given = families(self.seed, self.inits, self.trained)
        arms = [Arm(hyper=cell.base), *(Arm(hyper=cell.base, scale=2.0**k) for k in powers.tolist())]
        same = watch(setting, given, arms, range(1, len(arms)), ranges=False).exact
        runs = Runs(setting, given, arms[:1])
        runs.to(self.trained)
        moved = (runs.params[:, 0] != runs.initial).any(1)
        return {"powers": powers, "differs": ~same[:, 1:], "moved": moved.numpy()}


def half_border(part: Mapping[str, Any]) -> Floats:
    """[inits] log2 of the smallest eps / RMS g at which a run differs from the one that eps does not reach.

    From powers of two: the border lies within a binade below. Infinite where none differs.
    """
    differs = part["eps_differs"]
    first = np.where(differs.any(1), part["eps"][differs.argmax(1)], np.inf)
    border: Floats = np.log2(first) - np.log2(part["rms"])
    return border
