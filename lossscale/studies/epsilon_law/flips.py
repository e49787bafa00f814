"""How often a parameter is rounded otherwise because the loss was scaled: the law, and the event that it stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.study import StudyContext
from ...diagnose.rounding import BY_TORCH, half_ulp
from ...engines.populations import BF16_FUSED, FP16_FUSED, FP32, FP32_FUSED, Arithmetic
from . import EVENT, FLIPS, LAW_ENDS

SCALE: Final = 2.0**6
"""Of the loss; v and g stay in float16's range under it."""
_LR: Final = 1e-3
_DELTAS: Final = (1e-4, 1e-5, 1e-6)
BETA2: Final = 0.999
_R: Final = (2.5 / (1.0 - BETA2)) ** 0.5
"""A typical r of `warm`: what makes an eps of a δ."""


@dataclass(frozen=True)
class Elements:
    """What a step of many elements begins from, all [elements] float32.

    Attributes:
        theta: parameters in (.5, 1).
        g, m, v: gradients and averages of the unscaled run.
    """

    theta: Tensor
    g: Tensor
    m: Tensor
    v: Tensor

    @property
    def root(self) -> Tensor:
        """[elements] float64: r of the unscaled run at its first step."""
        return ((BETA2 * self.v.double() + (1.0 - BETA2) * self.g.double() ** 2) / (1.0 - BETA2)).sqrt()


def warm(seed: int, elements: int, *, held_by: torch.dtype = torch.float32) -> Elements:
    """Elements on the way: v in [1, 4), g = 1, u about N(0, .5²), θ evenly in (.5, 1).

    The first step's corrections are used, so that r and u follow from what is given. Both u and eps / r must be spread,
    u over more than a spacing of the parameters: with equal updates all parameters flip or none.

    Args:
        seed: of the draws.
        elements: how many.
        held_by: a format that all numbers are rounded to.
    """
    generator = torch.Generator().manual_seed(seed)
    theta = 0.5 + 0.5 * torch.rand(elements, generator=generator)
    v = 1.0 + 3.0 * torch.rand(elements, generator=generator)
    m = 1.76 * v.sqrt() * torch.randn(elements, generator=generator)
    drawn = (value.to(held_by).float() for value in (theta, torch.ones(elements), m, v))
    return Elements(*drawn)


def stepped(
    context: StudyContext, arithmetic: Arithmetic, at: Elements, *, lr: float, eps: float, scale: float, from_zero: bool
) -> tuple[Tensor, Tensor]:
    """Parameters after the step of the unscaled and of the scaled run, each [elements] in the arithmetic's format.

    Args:
        context: of the script.
        arithmetic: formats and recipe.
        at: where both begin; the averages of the scaled run are scaled with its gradient.
        lr: learning rate.
        eps: of both runs.
        scale: of the scaled run's loss.
        from_zero: whether the parameters are 0 before the step, which leaves the update itself.
    """
    population = arithmetic.population(context, "adam", [{"lr": lr, "eps": eps}] * 2, len(at.g))
    factors = torch.tensor([[1.0], [scale]])
    if not from_zero:
        population.params.copy_(at.theta.expand(2, -1))
    population.state["exp_avg"].copy_(at.m * factors)
    population.state["exp_avg_sq"].copy_(at.v * factors**2)
    population.step(arithmetic.grads(population, at.g * factors))
    taken = population.params.cpu()
    return taken[0], taken[1]


def law(at: Elements, update: Tensor, arithmetic: Arithmetic, eps: float, scale: float) -> Tensor:
    """[elements] float64: min(1, η|u||D| / ulp(θ)), with D = δ (s − 1)/(s + δ), from the unscaled run's update."""
    form = BY_TORCH[arithmetic.params]
    spacing = 2.0 * half_ulp(at.theta.double(), form.significant_bits, form.smallest)
    delta = eps / at.root
    change = delta * (scale - 1.0) / (scale + delta)
    return (update.double().abs() * change.abs() / spacing).clamp(max=1.0)


def event(at: Elements, updates: tuple[Tensor, Tensor], arithmetic: Arithmetic) -> Tensor:
    """[elements] bool: fl(θ − η·u_U) ≠ fl(θ − η·u_S), the difference rounded to float32 and then to the format."""
    after = [(at.theta.to(arithmetic.params).float() + update).to(arithmetic.params) for update in updates]
    return after[0] != after[1]


def judge_flips(lines: Lines, context: StudyContext) -> None:
    """The law in float32; the event in every storage; and where the law ends."""
    elements = 2**18 if context.quick else 2**22
    many = warm(context.seed, elements)
    for delta in _DELTAS:
        for arithmetic in (FP32, FP32_FUSED):
            _judge_law(lines, context, arithmetic, many, delta)
    some = warm(context.seed + 1, 2**16 if context.quick else 2**20, held_by=torch.bfloat16)
    for arithmetic, lr in ((FP32_FUSED, 1e-3), (BF16_FUSED, 1e-2), (BF16_FUSED, 1e-3), (FP16_FUSED, 1e-3)):
        _judge_event(lines, context, arithmetic, some, lr)


def _judge_law(lines: Lines, context: StudyContext, arithmetic: Arithmetic, at: Elements, delta: float) -> None:
    options = {"lr": _LR, "eps": delta * _R, "scale": SCALE}
    update = stepped(context, arithmetic, at, **options, from_zero=True)[0]
    after = stepped(context, arithmetic, at, **options, from_zero=False)
    rate = Measured.share(int((after[0] != after[1]).sum()), len(at.g))
    predicted = float(law(at, update, arithmetic, options["eps"], SCALE).mean())
    enough = "" if rate.width <= 0.05 * predicted else "too few elements in a quick run"
    lines.add("share_flipped", rate, FLIPS, predicted=predicted, reason=enough, **_cell(arithmetic, _LR, delta))


def _judge_event(lines: Lines, context: StudyContext, arithmetic: Arithmetic, at: Elements, lr: float) -> None:
    delta = 5e-3
    options = {"lr": lr, "eps": delta * _R, "scale": SCALE}
    updates = stepped(context, FP32_FUSED, at, **options, from_zero=True)
    expected = event(at, updates, arithmetic)
    after = stepped(context, arithmetic, at, **options, from_zero=False)
    flipped = after[0] != after[1]
    cell, count = _cell(arithmetic, lr, delta), len(at.g)
    wrong = Measured(value=int((flipped != expected).sum()), count=count)
    lines.add("parameters_that_do_otherwise", wrong, EVENT, **cell)
    rate = Measured.share(int(flipped.sum()), count)
    predicted = float(law(at, updates[0], arithmetic, options["eps"], SCALE).mean())
    lines.add("share_flipped", rate, predicted=predicted, **cell)
    if arithmetic is BF16_FUSED and lr == 1e-3:
        few = "too few elements in a quick run" if context.quick else ""
        lines.add("share_flipped_over_law", rate.over(predicted), LAW_ENDS, reason=few, **cell)


def _cell(arithmetic: Arithmetic, lr: float, delta: float) -> dict[str, Any]:
    return {
        "optimizer": "adam",
        "options": f"lr={lr:g}; delta={delta:g}",
        "arm": "loss",
        "against": "base",
        "scale": SCALE,
        "step": 1,
        **arithmetic.cell,
    }
