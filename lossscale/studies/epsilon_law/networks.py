"""The 6-6-1 networks: zeros among their gradients, norm ratios, from which eps on bits differ, what rounding does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from kernels import DTYPES, Trainer, bits, get_algorithm

from ...analysis.judging import Lines, Measured
from ...design.arms import BASE, ULP, Member
from ...design.policies import get_policy
from ...design.study import StudyContext
from ...engines.start import starting_points
from ...engines.trainer import samples
from ...models.networks import get_network
from ...theory import predicted_update_norm_ratio
from . import (
    CHAOS,
    FLAT,
    FLOOR,
    FLOOR_HIDES,
    HALVES,
    HALVES_MIXED,
    MIXED,
    MOVED,
    NORM,
    ZERO_GRADIENTS,
    ZERO_MOMENTS,
)
from .steps import EPS, SCALES, closed_form, updates

NAME: Final = "mlp-6-6-1"
STEPS: Final = 100
FREE: Final = 2.0**20
"""Scale under which nothing is left of eps."""
_POWERS: Final = range(-64, 1)


class Family:
    """Networks of every initialisation, an arm next to the other, trained by `kernels.Trainer`.

    Args:
        context: of the script.
        policy: preset.
        arms: (hyperparameters beside lr, loss factor, whether a unit in the last place away), one per arm.
        lr: learning rate.
        inits: how many; an eighth of them in a quick run.
    """

    def __init__(
        self,
        context: StudyContext,
        policy: str,
        arms: Sequence[tuple[dict[str, Any], float, bool]],
        lr: float = 0.01,
        inits: int = 1024,
    ) -> None:
        self.arms = len(arms)
        self.inits = range(inits // 8 if context.quick else inits)
        network, make = get_network(NAME), get_algorithm("adam").hyperparameters
        formats = get_policy(policy)
        drawn = network.initial(context.seed, self.inits).to(DTYPES[formats.params].torch)
        family = [Member(arm=ULP) if moved else Member(arm=BASE) for _, _, moved in arms]
        self.initial = starting_points(drawn, family, context.seed, self.inits)
        self.trainer = Trainer(
            "adam",
            [make(lr=lr, **options) for options, _, _ in arms],
            self.initial.to(context.device, copy=True),
            network=NAME,
            policy=policy,
            backend=context.backend,
            loss_scale=[factor for _, factor, _ in arms],
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
    for policy, lr, expected in (
        ("fp32", 0.01, (-36.0, -32.0)),
        ("bf16-mixed", 0.01, None),
        ("bf16-true", 0.01, (-20.0, -16.0)),
        ("bf16-true", 1e-4, (-12.0, -10.0)),
    ):
        _judge_halves(lines, context, policy, lr, expected)
    _judge_rounding(lines, context)


def _judge_zeros(lines: Lines, context: StudyContext) -> None:
    """Zeros, and the norm of the first step from p = 0 on the gradients that the networks have."""
    family = Family(context, "fp32", [({}, 1.0, False)], inits=4096)
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


def _judge_halves(
    lines: Lines, context: StudyContext, policy: str, lr: float, expected: tuple[float, float] | None
) -> None:
    """Pairs (eps, s = 1) and (eps, s = 2^20) for every power of two eps: from which eps / RMS g on bits differ."""
    arms = [({"eps": 2.0**k}, factor, False) for k in _POWERS for factor in (1.0, FREE)]
    family = Family(context, policy, arms, lr)
    grads = family.advance(1)[:, 0]
    size = (grads.square().sum(1) / (grads != 0).sum(1)).sqrt().numpy()
    family.advance(STEPS)
    params = family.params
    differs = bits.mismatch_mask(params[:, 0::2], params[:, 1::2]).any(2).numpy()
    moved = (params[:, 0] != family.split(family.initial)[:, 0]).any(1).numpy() & (size > 0)
    # The first eps from which on the pair differs; an initialisation may be without.
    first = np.where(differs.any(1), differs.argmax(1), len(_POWERS)) + _POWERS[0]
    border = Measured.median((first - np.log2(np.where(size > 0, size, 1.0)))[moved])
    cell: dict[str, Any] = {
        "network": NAME,
        "optimizer": "adam",
        "options": f"lr={lr:g}",
        "policy": policy,
        "step": STEPS,
    }
    cell |= {"arm": "loss", "against": "base", "scale": FREE}
    if expected is None:
        lines.add("log2_eps_over_rms_of_half", border, HALVES_MIXED, **cell)
    else:
        center, half = sum(expected) / 2, (expected[1] - expected[0]) / 2
        lines.add("log2_eps_over_rms_of_half", border, HALVES, predicted=center, tolerance=half, **cell)


def _judge_rounding(lines: Lines, context: StudyContext) -> None:
    """What rounding alone does: eps mapped at s = 3, a unit in the last place, and elements that do not move."""
    eps = 1e-8
    plain, three = ({"eps": eps}, 1.0, False), ({"eps": 3 * eps}, 3.0, False)
    cell: dict[str, Any] = {"network": NAME, "optimizer": "adam", "options": "lr=0.01", "step": STEPS}
    mapped: dict[str, Any] = {"arm": "mapped", "against": "base", "scale": 3.0}
    family = Family(context, "bf16-mixed", [plain, three])
    family.advance(STEPS)
    distance = Measured.median(family.distance(1, 0).numpy())
    lines.rounded("median_distance", distance, MIXED, 7e-4, 5e-5, **cell, policy="bf16-mixed", **mapped)

    family = Family(context, "bf16-true", [plain, three, ({"eps": eps}, 1.0, True)], inits=8192)
    grads = family.advance(1)[:, 0]
    family.advance(STEPS)
    third = Measured.quantile(family.distance(1, 0).numpy(), 0.99)
    lines.add("distance_q99", third, **cell, policy="bf16-true", **mapped)
    floor = Measured.quantile(family.distance(2, 0).numpy(), 0.99)
    ulp: dict[str, Any] = {"arm": "ulp", "against": "base"}
    lines.rounded("distance_q99", floor, FLOOR, 0.11, 0.005, **cell, policy="bf16-true", **ulp)
    size = float((grads[grads != 0].square().mean()).sqrt())
    far = ({"eps": size * 2.0**-6}, 1.0, False), ({"eps": size * 2.0**-6}, FREE, False)
    family = Family(context, "bf16-true", far, inits=8192)
    family.advance(STEPS)
    bias = Measured.median(family.distance(1, 0).numpy())
    lines.add(
        "median_distance",
        bias,
        FLOOR_HIDES,
        predicted=floor.value,
        policy="bf16-true",
        arm="loss",
        against="base",
        scale=FREE,
        **{**cell, "options": "lr=0.01; eps / RMS g = 2^-6"},
    )

    family = Family(context, "fp32", [plain, ({"eps": eps}, 1.0, True)])
    for step, predicted, half_unit in ((1, 2.9e-6, 5e-8), (STEPS, 1.1e-7, 5e-9)):
        family.advance(step)
        apart = Measured.median(family.distance(1, 0).numpy())
        lines.rounded(
            "median_distance", apart, CHAOS, predicted, half_unit, **{**cell, "step": step}, arm="ulp", against="base"
        )

    family = Family(context, "bf16-true", [plain], lr=1e-4)
    grads = family.advance(STEPS)[:, 0]
    moved = family.params[:, 0] != family.initial
    here: dict[str, Any] = {**cell, "options": "lr=0.0001", "policy": "bf16-true"}
    alive = grads != 0
    elements = Measured.share(int((moved & alive).sum()), int(alive.sum()))
    lines.rounded("share_of_elements_moved", elements, MOVED, 0.08, 0.005, **here)
    models = Measured.share(int(moved.any(1).sum()), len(moved))
    lines.rounded("share_of_models_moved", models, MOVED, 0.96, 0.005, **here)
