"""Networks under two weighted losses: frozen and shared trunks, and the article's degenerate pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch

from kernels import get_algorithm

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.arms import FLOOR as FLOOR_ARM
from ...design.claims import EPS_FREE, NULL, Claim
from ...design.study import StudyContext
from ...engines.stepwise import Arms
from ...engines.threads import one_thread
from ...models.data import UniformStream
from ...runs.controls import STILL, pair_lines
from ...runs.summary import write_lines
from . import CANCELS, COMMON, OWN, UNEVEN, WORKS
from .network import FIRST, SECOND, TwoLosses

_STEPS: Final = 200
_SCALES: Final = (2.0**-4, 2.0**4, 2.0**10)
_UNEVEN_EPS: Final = tuple(2.0**k for k in range(-2, 5))


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """An arm: two weights, a factor on eps, and what of it is compared with the base arm.

    Attributes:
        name: in the summary.
        weights: of the two losses.
        eps: eps is multiplied by it.
        scale: for the summary's column.
        columns: the parameters that are compared.
        claim: judged by the share of identical pairs.
    """

    name: str
    weights: tuple[float, float]
    eps: float = 1.0
    scale: float = 1.0
    columns: slice = field(default_factory=lambda: slice(None))
    claim: Claim | None = None


BASE: Final = Weighted(name="base", weights=(1.0, 1.0))
_CONTROLS: Final = (
    replace(BASE, name="null", claim=NULL),
    replace(BASE, name="ulp"),
    replace(BASE, name="floor", weights=(FLOOR_ARM.at, FLOOR_ARM.at), eps=FLOOR_ARM.at, scale=FLOOR_ARM.at),
)


def frozen_arms(eps_free: bool) -> tuple[Weighted, ...]:
    """Each head's own weight, with and without eps mapped."""
    own = EPS_FREE if eps_free else OWN
    arms = []
    for scale in _SCALES:
        first = Weighted(name="own-weight-1", weights=(scale, 1.0), eps=scale, scale=scale, columns=FIRST, claim=own)
        second = replace(first, name="own-weight-2", weights=(1.0, scale), columns=SECOND)
        alone = replace(first, name="own-weight-1-eps-alone", eps=1.0, claim=own if eps_free else None)
        arms += [first, second, alone]
    return (BASE, *arms, *_CONTROLS)


def shared_arms(eps_free: bool) -> tuple[Weighted, ...]:
    """A common factor, and weights that differ at every eps in reach."""
    common = [
        Weighted(
            name="common-factor",
            weights=(scale, scale),
            eps=scale,
            scale=scale,
            claim=EPS_FREE if eps_free else COMMON,
        )
        for scale in _SCALES
    ]
    uneven = [
        Weighted(name="uneven", weights=(1.0, 4.0), eps=factor, scale=factor, claim=None if eps_free else UNEVEN)
        for factor in (_UNEVEN_EPS[2:3] if eps_free else _UNEVEN_EPS)
    ]
    return (BASE, *common, *uneven, *_CONTROLS)


def execute(context: StudyContext) -> None:
    """Train every arm and write summary.csv."""
    lines = Lines(context.study)
    inits = range(128 if context.quick else 1024)
    with one_thread():
        for name in ("adam", "adam_atan2"):
            for title, network, arms in (
                ("two-heads, frozen trunk", TwoLosses(frozen=True), frozen_arms(name == "adam_atan2")),
                ("two-heads", TwoLosses(), shared_arms(name == "adam_atan2")),
            ):
                _add_lines(lines, title, name, train(network, name, arms, context, inits), arms)
        still = train(TwoLosses(one_output=True), "adam", (BASE, replace(BASE, weights=(1.0, 100.0))), context, inits)
        cell: dict[str, Any] = {
            "network": "mlp-6-6-1",
            "optimizer": "adam",
            "recipe": "foreach",
            "step": _STEPS,
            "against": "initial",
        }
        for place, claim in ((0, CANCELS), (1, None)):
            moved = Measured.median(np.asarray(still.moved(place).cpu()))
            lines.add("moved", moved, claim, **cell, arm=("weights-1-1", "weights-1-100")[place])
    write_lines(context.run, lines.frame())


def train(
    network: TwoLosses, algorithm: str, arms: Sequence[Weighted], context: StudyContext, inits: Sequence[int]
) -> Arms:
    """The arms after their last step; one named ``ulp`` begins a unit in the last place away."""
    make = get_algorithm(algorithm).hyperparameters
    plain = make(lr=0.01)
    device = torch.device(context.device)
    trained = Arms(
        network,
        algorithm,
        [plain if algorithm == "adam_atan2" else replace(plain, eps=plain.eps * arm.eps) for arm in arms],
        stream=UniformStream(features=6, seed=context.seed, inits=inits, device=device),
        seed=context.seed,
        inits=inits,
        device=device,
        backend=context.backend,
        moved_by_one_ulp=[place for place, arm in enumerate(arms) if arm.name == "ulp"],
    )
    trained.advance(range(1, _STEPS + 1), [arm.weights for arm in arms])
    return trained


def _add_lines(lines: Lines, title: str, name: str, trained: Arms, arms: Sequence[Weighted]) -> None:
    recipe = get_algorithm(name).default_recipe
    still = "" if float(trained.moved(0).median()) > 0 else STILL
    for place, arm in enumerate(arms):
        if not place:
            continue
        cell: dict[str, Any] = {
            **{"network": title, "optimizer": name, "recipe": recipe, "step": _STEPS},
            **{"arm": arm.name, "scale": arm.scale},
        }
        pair_lines(lines, trained, place, arm.claim, beside=trained.params[:, arm.columns], **cell)
        if arm.name == "uneven" and arm.eps == 1.0 and name == "adam":
            way = Measured.median(np.asarray(trained.distance(place, 0).cpu()))
            lines.add("median_distance_over_moved", way, WORKS, reason=still, against="base", **cell)
