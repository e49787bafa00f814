"""What is compared between the arms of a family: bits, distances, ranges, and how much eps decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import kernels

from ...diagnose import steps as diagnose
from .training import Arm, Families, Runs, Setting, with_eps

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_AT_ONCE: Final = 1 << 15
"""Models that are trained step by step at a time: their numbers stay in a core's caches."""


def bases(arms: Sequence[Arm]) -> Tensor:
    """[arms] index of each arm's base."""
    return torch.tensor([arm.base for arm in arms])


def differing(params: Tensor, base_of: Tensor) -> Tensor:
    """[inits, arms] bool: any bit of [inits, arms, n] differs from the base arm's."""
    bits = kernels.bits.bit_view(params)
    return (bits != bits[:, base_of]).any(2)


def distances(params: Tensor, base_of: Tensor, initial: Tensor) -> Floats:
    """[inits, arms] d = ‖θ_S − θ_U‖ / ‖θ_U − θ_0‖; infinite where S is not finite or U has not moved and S has."""
    found = np.empty(params.shape[:2])
    piece = max(1, _AT_ONCE // params.shape[1])
    for first in range(0, len(params), piece):
        rows = params[first : first + piece].double()
        own = rows - initial[first : first + piece].double().unsqueeze(1)
        length = own.norm(dim=2)[:, base_of]
        apart = (rows - rows[:, base_of]).norm(dim=2)
        d = torch.where(apart == 0, 0.0, apart / length)
        found[first : first + piece] = torch.where(rows.isfinite().all(2), d, torch.inf).numpy()
    return found


def eps_shares(runs: Runs, grads: Tensor, eps: Tensor | None = None) -> Floats:
    """[inits, arms] rho after the step that took these gradients.

    Args:
        runs: after the step.
        grads: [inits, arms, n].
        eps: [inits, 1, 1] in place of the arms' own.
    """
    setting = runs.setting
    hyper, step = runs.arms[0].hyper, runs.trainer.step_count
    own = torch.tensor([arm.hyper.eps for arm in runs.arms], dtype=torch.float64)[None, :, None]
    every = own.expand(runs.shape[0], -1, -1) if eps is None else eps
    found = np.empty(runs.shape[:2])
    piece = max(1, _AT_ONCE // runs.shape[1])
    for first in range(0, runs.shape[0], piece):
        part = slice(first, first + piece)
        states = {name: tensor[part] for name, tensor in runs.state.items()}
        r = diagnose.root(setting.algorithm, states, hyper, step)
        # What is divided, from the update with an eps of 1: arms differ in theirs.
        divided = diagnose.update(setting.algorithm, states, with_eps(hyper, 1.0), step, grads=grads[part])
        assert r is not None and divided is not None, "an optimizer with eps has both"
        updates = divided * (r + 1.0) / (r + every[part])
        found[part] = diagnose.eps_share(updates, r, every[part]).numpy()
    return found


def out_of_range(setting: Setting, grads: Tensor, moment: Tensor, base_of: Tensor) -> Tensor:
    """[inits, arms] bool: an element has left the range that has not in the base arm at the same step.

    Gradients that are 0, subnormal or infinite where the base's is not 0, and second moments that are 0, subnormal or
    infinite there.
    """
    alive = grads[:, base_of] != 0
    bad = (grads.abs() < setting.smallest_gradient) | grads.isinf()
    bad |= (moment.abs() < setting.smallest_state) | moment.isinf()
    return (alive & bad & ~bad[:, base_of]).any(2)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a run that was watched at every step has shown, [inits, arms] each."""

    exact: Flags
    range_events: Flags


def watch(
    setting: Setting,
    given: Families,
    arms: Sequence[Arm],
    chosen: Sequence[int],
    *,
    ranges: bool,
    needed: Flags | None = None,
) -> Watched:
    """Compare arms with their bases after every single step, until everything is known.

    Args:
        setting: what they share.
        given: families.
        arms: all of them.
        chosen: indices of those to look at; others are False in the result.
        ranges: whether to look for range events, in place of equal bits.
        needed: [inits, arms] of whom it has to be known; None for all.
    """
    exact = np.zeros((len(given.initial), len(arms)), np.bool_)
    events = np.zeros_like(exact)
    for part in _parts(len(given.initial), chosen):
        used = sorted({arms[index].base for index in part})
        own = [*(dataclasses.replace(arms[index], base=place) for place, index in enumerate(used))]
        own += [dataclasses.replace(arms[index], base=used.index(arms[index].base)) for index in part]
        base_of = bases(own)
        runs = Runs(setting, given, own)
        same = torch.ones(runs.shape[:2], dtype=torch.bool)
        left = torch.zeros_like(same)
        asked = torch.ones_like(same)
        if needed is not None:
            asked[:, len(used) :] = torch.from_numpy(needed[:, part])
        asked[:, : len(used)] = False
        if ranges:
            for _ in range(given.steps):
                left |= out_of_range(setting, runs.step(), runs.second_moment, base_of)
                if not (asked & ~left).any():
                    break
        else:
            for _ in runs.trainer.walk(given.data[:-1]):
                same &= ~differing(runs.params, base_of)
                if not (asked & same).any():
                    break
        exact[:, part] = same[:, len(used) :].numpy()
        events[:, part] = left[:, len(used) :].numpy()
    return Watched(exact=exact, range_events=events)


def _parts(inits: int, chosen: Sequence[int]) -> Iterator[list[int]]:
    piece = max(1, _AT_ONCE // inits)
    for first in range(0, len(chosen), piece):
        yield list(chosen[first : first + piece])
