"""Skip rates of two policies, and networks that train under scales of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from kernels import get_algorithm

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.arms import FLOOR as FLOOR_ARM
from ...design.claims import EPS_FREE, MAPPED, NULL, Claim
from ...design.study import StudyContext
from ...engines.scaler import Growth, Scalers
from ...engines.stepwise import Arms
from ...engines.threads import one_thread
from ...models.networks import get_network
from ...runs.controls import STILL as UNMOVED
from ...runs.controls import pair_lines
from ...runs.summary import write_lines
from . import ALONE, BACKED_OFF, DEEPSPEED_RATE, EXACT, OTHER_FACTORS, STILL, TORCH_RATE
from .policies import DeepSpeed, Torch, Wander, skip_rates

SLOW: Final = 0.003
"""Binades a step: in 2,000 steps the maximum wanders by a seventh of a binade."""
WANDERS: Final = (0.0, 0.001, SLOW, 0.01, 0.03)
INITIAL: Final = 2.0**8
"""It grows to 2^11 in 300 steps, which no gradient of the network carries out of float16’s range."""
_STEPS: Final = 300
_OVERFLOWING: Final = 2.0**20
"""The factor on the loss of a neighbour whose float16 gradients overflow until its scale has come down."""
_TOO_HIGH: Final = 2.0**24
"""A first scale that overflows."""


def execute(context: StudyContext) -> None:
    """Measure the rates and train the networks; write summary.csv."""
    lines = Lines(context.study)
    # Whole cycles of both policies: 2,001 and 1,002 steps.
    steps, many = (24_012, 64) if context.quick else (60_030, 256)
    for wander in WANDERS:
        chains = many if wander else 1
        rates = skip_rates(
            (Torch(chains), DeepSpeed(chains)),
            Wander(step=wander),
            steps=steps,
            chains=chains,
            seed=context.seed,
            burn_in=4_002,
        )
        for arm, rate, claim, still in (
            ("torch", rates[0], TORCH_RATE, 1 / 2001),
            ("deepspeed", rates[1], DEEPSPEED_RATE, 2 / 1002),
        ):
            cell: dict[str, Any] = {"network": f"wander {wander:g}", "arm": arm, "step": steps}
            mean = Measured(value=float(rate.mean()), count=len(rate) * steps)
            if wander == 0:
                lines.add("skip_rate", mean, STILL, predicted=still, **cell)
            else:
                lines.add("skip_rate", mean, claim if wander == SLOW else None, **cell)
    with one_thread():
        _networks(lines, context)
    write_lines(context.run, lines.frame())


OFTEN: Final = Growth(interval=100)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How the losses of all arms are scaled.

    Attributes:
        arm: its name in the summary.
        initial: the first scale.
        growth: when it changes.
        claim: of whether the bits are those of training without a scale that skips the same steps.
    """

    arm: str = ""
    initial: float = INITIAL
    growth: Growth = OFTEN
    claim: Claim | None = None


CALM: Final = Scaling()
SCALINGS: Final = (
    Scaling(arm="backs off by 1/2", initial=_TOO_HIGH, claim=BACKED_OFF),
    Scaling(arm="begins at 3 · 2^6", initial=3.0 * 2.0**6, claim=OTHER_FACTORS),
    Scaling(arm="grows by 3", growth=Growth(interval=100, factor=3.0), claim=OTHER_FACTORS),
    Scaling(arm="backs off by 1/3", initial=_TOO_HIGH, growth=Growth(interval=100, backoff=1 / 3), claim=OTHER_FACTORS),
)
_ARMS: Final = ("base", "null", "mapped", "ulp", "floor")
_FACTORS: Final = (1.0, 1.0, 2.0**-4, 1.0, FLOOR_ARM.at)
"""On the losses of the arms, beside the scale."""


def _networks(lines: Lines, context: StudyContext) -> None:
    """The controls under a scaler; with one and without; beside a neighbour that overflows; and other factors."""
    inits = range(128 if context.quick else 1024)
    for name in ("sgd", "adam", "adam_atan2"):
        cell: dict[str, Any] = {
            **{"network": "mlp-6-6-1", "optimizer": name, "recipe": get_algorithm(name).default_recipe},
            "step": _STEPS,
        }
        plain, calm = (train(context, name, inits, _FACTORS, scaling) for scaling in (None, CALM))
        claims = {"null": NULL, "mapped": EPS_FREE if name == "adam_atan2" else MAPPED}
        for place, arm in enumerate(_ARMS):
            if place:
                pair_lines(lines, calm, place, claims.get(arm), arm=arm, scale=_FACTORS[place], **cell)
        still = "" if float(calm.moved(0).median()) > 0 else UNMOVED
        same = _same(calm, 0, plain, 0)
        lines.add("identical_share", same, EXACT, reason=still, **cell, scale=INITIAL, arm="grad-scaler")
        beside = train(context, name, inits, (1.0, _OVERFLOWING, *_FACTORS[2:]), CALM)
        same = _same(beside, 0, calm, 0)
        lines.add("identical_share", same, ALONE, reason=still, **cell, scale=INITIAL, arm="beside-overflows")
        skipped = _STEPS - beside.of(1, beside.population.steps.unsqueeze(1)).double()
        lines.add("skipped_steps_of_neighbour", Measured.median(skipped.numpy()), **cell, arm="neighbour")
        for scaling in SCALINGS if name != "adam_atan2" else ():
            skips: list[Tensor] = []
            scaled = train(context, name, inits, (1.0,), scaling, skips=skips)
            without = train(context, name, inits, (1.0,), None, skips=skips)
            here = {**cell, "arm": scaling.arm, "against": "the same steps skipped", "scale": scaling.initial}
            lines.add("identical_share", _same(scaled, 0, without, 0), scaling.claim, reason=still, **here)
            many = torch.stack(skips).sum(0).double()
            lines.add("skipped_steps", Measured.median(many.numpy()), **here)


def train(
    context: StudyContext,
    name: str,
    inits: range,
    factors: Sequence[float],
    scaling: Scaling | None,
    *,
    skips: list[Tensor] | None = None,
) -> Arms:
    """Arms side by side whose losses are multiplied by the factors, hyperparameters mapped; scaled or not.

    Args:
        context: of the script.
        name: of the optimizer.
        inits: initialisations.
        factors: an arm each; the fourth begins an ulp away.
        scaling: of the losses; gradients that leave float16's range are infinite then. None for none.
        skips: [steps] of [models], the steps that were skipped: written by scaled training, obeyed by training without.
    """
    network, device = get_network("mlp-6-6-1"), torch.device(context.device)
    algorithm = get_algorithm(name)
    base = algorithm.hyperparameters(lr=0.01)
    overflows = [factor == _OVERFLOWING for factor in factors]
    arms = Arms(
        network,
        name,
        [base if wild else algorithm.rescale(base, factor) for wild, factor in zip(overflows, factors, strict=True)],
        stream=network.stream(seed=context.seed, inits=inits, device=device),
        seed=context.seed,
        inits=inits,
        device=device,
        backend=context.backend,
        moved_by_one_ulp=[_ARMS.index("ulp")] if len(factors) == len(_ARMS) else [],
    )
    models = len(arms.params)
    limit = torch.finfo(torch.float16).max
    scalers = Scalers(models, scaling.growth, initial=scaling.initial, device=device) if scaling else None
    ones = torch.ones(models, device=device)
    for step in range(1, _STEPS + 1):
        grads = arms.gradients(step, factors)
        if scalers is None and skips is None:
            arms.population.step(grads)
        elif scalers is None:
            assert skips is not None, "the branch before is that of no skips"
            arms.population.step(grads, grad_scale=ones, found_inf=skips[step - 1])
        else:
            grads = grads * scalers.scale.unsqueeze(1)
            # float32 numbers with float16's range: what is tested here is the scale, not the rounding of 11 bits.
            grads = torch.where(grads.abs() > limit, torch.inf, grads)
            found = scalers.found_inf(grads)
            arms.population.step(grads, grad_scale=scalers.scale, found_inf=found)
            scalers.update(found)
            if skips is not None:
                skips.append(found)
    return arms


def _same(one: Arms, arm: int, other: Arms, against: int) -> Measured:
    equal = (one.of(arm).view(torch.int32) == other.of(against).view(torch.int32)).all(1)
    return Measured.share(int(equal.sum()), len(equal))
