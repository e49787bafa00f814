"""What one step does to every number of a binade: whether an average can fall, a parameter move, a decay bite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from torch import Tensor

from ...design.study import StudyContext
from ...diagnose.rounding import BY_TORCH, half_ulp
from ...engines.populations import BF16, Arithmetic
from .averages import Floats, second_moment

_TINY: Final = 2.0**-140
_FINE: Final = 512


def binade(arithmetic: Arithmetic) -> Tensor:
    """[mantissas] float64: all numbers of the state's format in [1, 2)."""
    bits = BY_TORCH[arithmetic.state].significant_bits - 1
    return 1.0 + torch.arange(2**bits, dtype=torch.float64) * 2.0**-bits


def half_spacings(values: Tensor, arithmetic: Arithmetic) -> tuple[Floats, Floats]:
    """Half the spacing of the state's numbers below and above each value; a power of two has the smaller one below."""
    above = half_ulp(values, BY_TORCH[arithmetic.state].significant_bits, _TINY)
    below = torch.where(torch.frexp(values).mantissa == 0.5, above / 2.0, above)
    return below.numpy(), above.numpy()


def without_gradient(
    context: StudyContext, arithmetic: Arithmetic, betas: Sequence[float], start: Tensor, steps: int = 1
) -> Floats:
    """[betas, elements] float64: what is left of each v in ``start`` [elements] under each beta2."""
    rows = [{"lr": 1.0, "betas": (0.9, beta)} for beta in betas]
    population = arithmetic.population(context, "adam", rows, len(start))
    population.state["exp_avg_sq"].copy_(start.expand(len(rows), -1))
    nothing = torch.zeros_like(population.params)
    for _ in range(steps):
        population.step(nothing)
    return second_moment(population)


def predicted_falls(arithmetic: Arithmetic, betas: Sequence[float]) -> npt.NDArray[np.bool_]:
    """[betas, mantissas]: (1 − beta2) · v above half the spacing below v, beta2 as float32 holds it."""
    values = binade(arithmetic)
    lost = (1.0 - np.array(betas, np.float32).astype(np.float64))[:, None] * values.numpy()
    falls: npt.NDArray[np.bool_] = lost > half_spacings(values, arithmetic)[0]
    return falls


def beta_borders(context: StudyContext, arithmetic: Arithmetic) -> tuple[float, float]:
    """The largest beta2 at which some number of a binade falls, and the smallest at which one stays, in 2,048 steps.

    Looked for between 1 − 2^−(p−1) and 1 − 2^−(p+2), p the state's significant bits.
    """
    bits = BY_TORCH[arithmetic.state].significant_bits
    betas = 1.0 - np.linspace(2.0 ** (1 - bits), 2.0 ** -(bits + 2), 4 * _FINE + 1)
    values = binade(arithmetic)
    falls = without_gradient(context, arithmetic, list(betas), values) < values.numpy()
    return float(betas[falls.any(1)].max()), float(betas[~falls.all(1)].min())


def stays(
    context: StudyContext, arithmetic: Arithmetic, beta2: float, values: Tensor, draws: int, seed: int
) -> npt.NDArray[np.int64]:
    """[values]: of so many gradients N(0, v) each, how many leave v unchanged in one step from m = 0."""
    population = arithmetic.population(context, "adam", [{"lr": 1.0, "betas": (0.9, beta2)}] * len(values), draws)
    held = values.to(arithmetic.state).unsqueeze(1).expand(-1, draws)
    population.state["exp_avg_sq"].copy_(held)
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(len(values), draws, generator=generator, dtype=torch.float64)
    population.step(arithmetic.grads(population, normal * values.sqrt().unsqueeze(1)))
    same = population.state["exp_avg_sq"].cpu() == held
    counted: npt.NDArray[np.int64] = same.sum(1).numpy()
    return counted


def predicted_stays(arithmetic: Arithmetic, beta2: float, values: Tensor) -> Floats:
    """[values]: P(v − half spacing below ≤ beta2 · v + (1 − beta2) · g² ≤ v + half spacing above) for g of N(0, v)."""
    below, above = half_spacings(values, arithmetic)
    weight = (1.0 - beta2) * values.numpy()
    share: Floats = special.chdtr(1.0, 1.0 + above / weight) - special.chdtr(1.0, np.maximum(1.0 - below / weight, 0.0))
    return share


def moving(context: StudyContext, lr: float, elements: int) -> tuple[int, int]:
    """Of so many bfloat16 parameters N(0, .02²), how many change in a step of SGD with gradients of ±1.

    And how many do otherwise than lr and half the spacing on the side of the step say (a tie goes to the even number).
    """
    generator = torch.Generator().manual_seed(context.seed)
    population = BF16.population(context, "sgd", [{"lr": lr}], elements)
    before = (torch.randn(elements, generator=generator) * 0.02).to(BF16.params)
    population.params.copy_(before)
    signs = torch.randint(0, 2, (elements,), generator=generator) * 2 - 1
    population.step(BF16.grads(population, signs))
    moved = (population.params[0].cpu() != before).numpy()
    below, above = half_spacings(before.double().abs(), BF16)
    inward = (signs * before.double() > 0).numpy()
    half, size = np.where(inward, below, above), float(np.float32(lr))
    return int(moved.sum()), int((moved != (size > half)).sum())


def decayed(
    context: StudyContext, products: Sequence[float], steps: int = 1, lr: float = 0.01
) -> npt.NDArray[np.bool_]:
    """[products, mantissas]: which bfloat16 parameters change under AdamW without a gradient, by lr · weight decay."""
    rows = [{"lr": lr, "weight_decay": product / lr} for product in products]
    values = binade(BF16)
    population = BF16.population(context, "adamw", rows, len(values))
    population.params.copy_(values.expand(len(rows), -1))
    before = population.params.clone()
    nothing = torch.zeros_like(population.params)
    for _ in range(steps):
        population.step(nothing)
    changed: npt.NDArray[np.bool_] = (population.params != before).cpu().numpy()
    return changed
