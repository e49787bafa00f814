"""Skip rates of two policies, and networks that train under scales of their own."""

from __future__ import annotations

from typing import Any, Final

import torch

from kernels import get_algorithm

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.claims import NULL
from ...design.study import StudyContext
from ...engines.scaler import Growth, Scalers
from ...engines.stepwise import Arms
from ...engines.threads import one_thread
from ...models.networks import get_network
from ...runs.summary import write_lines
from . import ALONE, DEEPSPEED_RATE, EXACT, STILL, TORCH_RATE
from .policies import DeepSpeed, Torch, Wander, skip_rates

SLOW: Final = 0.003
"""Binades a step: in 2,000 steps the maximum wanders by a seventh of a binade."""
WANDERS: Final = (0.0, 0.001, SLOW, 0.01, 0.03)
INITIAL: Final = 2.0**8
"""It grows to 2^11 in 300 steps, which no gradient of the network carries out of float16’s range."""
_STEPS: Final = 300
_OVERFLOWING: Final = 2.0**20
"""The factor on the loss of a neighbour whose float16 gradients overflow until its scale has come down."""


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


def _networks(lines: Lines, context: StudyContext) -> None:
    """Arms: without a scaler, with one, again (null), and beside it a neighbour that overflows."""
    pairs = 128 if context.quick else 1024
    for name in ("sgd", "adam"):
        plain = train(context, name, range(pairs), scaled=False, neighbour=1.0)
        calm = train(context, name, range(pairs), scaled=True, neighbour=1.0)
        beside = train(context, name, range(pairs), scaled=True, neighbour=_OVERFLOWING)
        cell: dict[str, Any] = {
            **{"network": "mlp-6-6-1", "optimizer": name, "recipe": get_algorithm(name).default_recipe},
            **{"step": _STEPS, "scale": INITIAL},
        }
        still = "" if float(calm.moved(0).median()) > 0 else "the median model never moved"
        same = _same(calm, 0, plain, 0)
        lines.add("identical_share", same, EXACT, reason=still, **cell, arm="grad-scaler", against="base")
        same = _same(calm, 1, calm, 0)
        lines.add("identical_share", same, NULL, reason=still, **{**cell, "arm": "null", "against": "grad-scaler"})
        same = _same(beside, 0, calm, 0)
        lines.add("identical_share", same, ALONE, reason=still, **cell, arm="beside-overflows", against="grad-scaler")
        skipped = _STEPS - beside.of(1, beside.population.steps.unsqueeze(1)).double()
        lines.add("skipped_steps_of_neighbour", Measured.median(skipped.numpy()), **cell, arm="neighbour")


def train(context: StudyContext, name: str, inits: range, *, scaled: bool, neighbour: float) -> Arms:
    """Two arms side by side, the second with its loss multiplied; gradients pass through float16 where scaled."""
    network, device = get_network("mlp-6-6-1"), torch.device(context.device)
    base = get_algorithm(name).hyperparameters(lr=0.01)
    arms = Arms(
        network,
        name,
        [base, base],
        stream=network.stream(seed=context.seed, inits=inits, device=device),
        seed=context.seed,
        inits=inits,
        device=device,
        backend=context.backend,
    )
    scalers = Scalers(len(arms.params), Growth(interval=100), initial=INITIAL, device=device)
    limit = torch.finfo(torch.float16).max
    for step in range(1, _STEPS + 1):
        if not scaled:
            arms.population.step(arms.gradients(step, [1.0, neighbour]))
            continue
        grads = arms.gradients(step, [1.0, neighbour]) * scalers.scale.unsqueeze(1)
        # float32 numbers with float16's range: what is tested here is the scale, not the rounding of 11 bits.
        grads = torch.where(grads.abs() > limit, torch.inf, grads)
        found = scalers.found_inf(grads)
        arms.population.step(grads, grad_scale=scalers.scale, found_inf=found)
        scalers.update(found)
    return arms


def _same(one: Arms, arm: int, other: Arms, against: int) -> Measured:
    equal = (one.of(arm).view(torch.int32) == other.of(against).view(torch.int32)).all(1)
    return Measured.share(int(equal.sum()), len(equal))
