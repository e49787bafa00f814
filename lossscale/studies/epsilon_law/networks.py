"""The 6-6-1 networks: zeros among their gradients, norm ratios, what rounding does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from kernels import DTYPES, Trainer, get_algorithm

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.policies import get_policy
from ...design.study import StudyContext
from ...engines.trainer import samples
from ...models.networks import get_network
from ...theory import predicted_update_norm_ratio
from . import FLAT, MIXED, NORM, ZERO_GRADIENTS, ZERO_MOMENTS
from .steps import EPS, SCALES, closed_form, updates

NAME: Final = "mlp-6-6-1"
STEPS: Final = 100
UNSEEN: Final = 2.0**-100
"""An eps under half a unit in the last place of every r of these networks."""


class Family:
    """Networks of every initialisation, an arm next to the other, trained by `kernels.Trainer`.

    Args:
        context: of the script.
        policy: preset.
        arms: (hyperparameters beside lr, loss factor), one per arm.
        inits: how many; an eighth of them in a quick run.
    """

    def __init__(
        self,
        context: StudyContext,
        policy: str,
        arms: Sequence[tuple[dict[str, Any], float]],
        inits: int = 1024,
    ) -> None:
        self.arms = len(arms)
        self.inits = range(inits // 8 if context.quick else inits)
        network, make = get_network(NAME), get_algorithm("adam").hyperparameters
        formats = get_policy(policy)
        drawn = network.initial(context.seed, self.inits).to(DTYPES[formats.params].torch)
        self.initial = drawn.repeat_interleave(self.arms, 0)
        self.trainer = Trainer(
            "adam",
            [make(lr=0.01, **options) for options, _ in arms],
            self.initial.to(context.device, copy=True),
            network=NAME,
            policy=policy,
            backend=context.backend,
            loss_scale=[factor for _, factor in arms],
        )
        self._stream = network.stream(seed=context.seed, inits=self.inits, device=torch.device(context.device))

    def advance(self, until: int) -> Tensor:
        """Trains up to that step; [inits, arms, n] gradients of the last one, in float64."""
        first = self.trainer.step_count + 1
        if until > first:
            self.trainer.run(samples(self._stream, range(first, until)))
        grads = self.trainer.run(samples(self._stream, range(until, until + 1)), keep_gradients=True)
        assert grads is not None, "they were asked for"
        return self.split(grads[0]).double()

    def split(self, tensor: Tensor) -> Tensor:
        """[inits, arms, n] on the CPU."""
        return tensor.cpu().view(len(self.inits), self.arms, -1)

    @property
    def params(self) -> Tensor:
        """[inits, arms, n]."""
        return self.split(self.trainer.params)

    def distance(self, arm: int, against: int) -> Tensor:
        """[inits] float64: |arm − against| / |against − its start|."""
        params, start = self.params.double(), self.split(self.initial).double()
        way = (params[:, against] - start[:, against]).norm(dim=1)
        distance: Tensor = (params[:, arm] - params[:, against]).norm(dim=1) / way
        return distance


def judge_networks(lines: Lines, context: StudyContext) -> None:
    """Everything that is said of the networks."""
    _judge_zeros(lines, context)
    _judge_rounding(lines, context)


def _judge_zeros(lines: Lines, context: StudyContext) -> None:
    """Zeros, and the norm of the first step from p = 0 on the gradients that the networks have."""
    family = Family(context, "fp32", [({}, 1.0)], inits=4096)
    grads = family.advance(1)[:, 0].float()
    cell: dict[str, Any] = {"network": NAME, "optimizer": "adam", "options": "lr=0.01"}
    # Zeros come by the unit, so it is networks that count.
    zero = Measured.mean((grads == 0).double().mean(1).numpy())
    lines.rounded("share_of_zero_gradients", zero, ZERO_GRADIENTS, 0.49, 0.005, step=1, **cell)
    family.advance(20)
    v = family.trainer.state["exp_avg_sq"].cpu()
    zero = Measured.mean((v == 0).double().mean(1).numpy())
    lines.rounded("share_of_v_zero", zero, ZERO_MOMENTS, 0.19, 0.005, step=20, **cell)
    root = grads.double().abs()
    for eps in EPS:
        here: dict[str, Any] = {"network": NAME, "optimizer": "adam", "options": f"eps={eps:g}", "step": 1}
        base = updates(context, "adam", [eps] * len(grads), grads)
        for scale in SCALES:
            left = updates(context, "adam", [eps] * len(grads), (grads.double() * scale).float())
            alive = base.norm(dim=1) > 0
            ones = torch.ones(len(grads), 1, dtype=torch.float64)
            predicted = predicted_update_norm_ratio(base, root, eps * ones, scale * ones)
            off = (left.norm(dim=1) / base.norm(dim=1) / predicted - 1.0).abs()[alive]
            largest = Measured(value=float(off.max()), count=int(alive.sum()))
            lines.add("largest_deviation_of_norm", largest, NORM, arm="loss", against="base", scale=scale, **here)
        change = (closed_form(eps / root[root > 0], SCALES[-1]) - 1.0).abs()
        flat = Measured.share(int((change < 1e-6).sum()), change.numel())
        lines.add("share_of_flat_curves", flat, FLAT if eps == EPS[0] else None, scale=SCALES[-1], **here)


def _judge_rounding(lines: Lines, context: StudyContext) -> None:
    """What rounding alone does in bf16-mixed at s = 3, which is no power of two: without eps, and with it mapped.

    Where an element has no gradient an eps of 0 divides 0 by 0. One that no r sees stands for it: it changes nothing
    else.
    """
    for eps in (0.0, UNSEEN, EPS[0]):
        family = Family(context, "bf16-mixed", [({"eps": eps}, 1.0), ({"eps": 3.0 * eps}, 3.0)])
        family.advance(STEPS)
        finite = family.params.isfinite().flatten(1).all(1)
        left = f"eps = 0 is 0/0 where there is no gradient: {int(finite.sum())} of {len(finite):,} pairs stay finite"
        lines.rounded(
            "median_distance",
            Measured.median(family.distance(1, 0)[finite].numpy()),
            MIXED,
            7e-4,
            5e-5,
            reason="" if eps else left,
            nonfinite=int((~finite).sum()),
            network=NAME,
            optimizer="adam",
            options=f"lr=0.01; eps={eps:g}",
            policy="bf16-mixed",
            arm="mapped",
            against="base",
            scale=3.0,
            step=STEPS,
        )
