"""Whether fl(r + eps) is r: read off a step that is exactly 1 when it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels import bits

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.study import StudyContext
from ...diagnose.rounding import BY_TORCH, half_ulp
from ...engines.populations import BF16, FP16, FP32, Arithmetic, step_from_zero
from ...theory import absorption
from . import ALWAYS, COARSE, EXEMPT, FUSED, NEVER, QUARTER, SAME, SEEN, STAIRCASE, STAIRS
from .steps import closed_form

Flags = npt.NDArray[np.bool_]

_ARITHMETICS: Final = ((FP32, "fp32"), (FP16, "fp16"), (BF16, "bf16"))
_FUSED: Final = tuple(
    Arithmetic(name=f"fused, {policy}", policy=policy, recipe="fused")
    for policy in ("fp32", "bf16-state", "fp16-state")
)


def numbers(arithmetic: Arithmetic, most: int, seed: int) -> Tensor:
    """Numbers of the parameters' format in [1, 2): all of them, or so many with both ends among them; float64."""
    count = BY_TORCH[arithmetic.params].significant_bits - 1
    if 2**count <= most:
        return 1.0 + torch.arange(2**count, dtype=torch.float64) * 2.0**-count
    places = torch.randint(0, 2**count, (most - 4,), generator=torch.Generator().manual_seed(seed))
    ends = torch.tensor([0, 1, 2**count - 2, 2**count - 1])
    return 1.0 + torch.cat([places, ends]).double() * 2.0**-count


def first_steps(context: StudyContext, arithmetic: Arithmetic, eps: Sequence[float], r: Tensor) -> Tensor:
    """[eps, elements] float64: −g / fl(r + eps) as the arithmetic rounds it, for g = r and no memory.

    With both betas 0 and g = r, the root of the second moment is r itself (√fl(r²) = r in binary arithmetic without
    over- and underflow), the corrections are 1, and the step is r / fl(r + eps): 1 where eps is absorbed, less where
    the sum is even one unit larger, for below 1 the numbers lie half as far apart.
    """
    rows = [{"lr": 1.0, "betas": (0.0, 0.0), "eps": value} for value in eps]
    population = arithmetic.population(context, "adam", rows, len(r))
    return step_from_zero(population, arithmetic.grads(population, r))


def seen(context: StudyContext, arithmetic: Arithmetic, eps: Sequence[float], r: Tensor) -> Flags:
    """[eps, elements]: whether the sum is not r."""
    flags: Flags = (first_steps(context, arithmetic, eps, r) != -1.0).numpy()
    return flags


def predicted_seen(arithmetic: Arithmetic, eps: Sequence[float], r: Tensor) -> Flags:
    """[eps, elements]: eps over half the spacing above r, or on it where r's last bit is odd; eps in float32."""
    form = BY_TORCH[arithmetic.params]
    half = half_ulp(r, form.significant_bits, form.smallest).numpy()
    added = np.array(eps, np.float32).astype(np.float64)[:, None]
    odd = (r.numpy() / (2 * half)) % 2 == 1
    flags: Flags = (added > half) | ((added == half) & odd)
    return flags


def staircase(spacing: float) -> list[float]:
    """Values of eps around half a spacing: on it, next to it, and from a quarter of it to four times it."""
    half = spacing / 2.0
    beside = [half * (1 + away) for away in (-(2.0**-10), -(2.0**-16), 0.0, 2.0**-16, 2.0**-10)]
    return [*beside, *(half * 2.0 ** (k / 16) for k in range(-32, 33))]


def judge_absorption(lines: Lines, context: StudyContext) -> None:
    """The bounds and the staircase, per arithmetic; fused kernels; the default eps; pairs; the steps of the change."""
    most = 2_048 if context.quick else 65_536
    for arithmetic, name in _ARITHMETICS:
        form, r = BY_TORCH[arithmetic.params], numbers(arithmetic, most, context.seed)
        eps = staircase(2.0 ** (1 - form.significant_bits))
        found = seen(context, arithmetic, eps, r)
        ratio = np.array(eps)[:, None] / r.numpy()
        bound = absorption(name)
        cell: dict[str, Any] = {"optimizer": "adam", "step": 1, **arithmetic.cell}
        count = found.size
        lowest = Measured(value=float(ratio[found].min()), count=count)
        lines.add("lowest_eps_over_r_seen", lowest, NEVER, predicted=bound.invisible_below, **cell)
        highest = Measured(value=float(ratio[~found].max()), count=count)
        lines.add("highest_eps_over_r_absorbed", highest, ALWAYS, predicted=bound.visible_above, **cell)
        wrong = Measured(value=int((found != predicted_seen(arithmetic, eps, r)).sum()), count=count)
        lines.add("numbers_that_do_otherwise", wrong, STAIRCASE, **cell)
        _judge_stairs(lines, context, arithmetic, eps, r)
    for arithmetic in _FUSED:
        r = numbers(BF16 if "bf16" in arithmetic.policy else FP16 if "fp16" in arithmetic.policy else FP32, most, 0)
        eps = staircase(2.0**-23)
        wrong_fused = int((seen(context, arithmetic, eps, r) != predicted_seen(FP32, eps, r)).sum())
        measured = Measured(value=wrong_fused, count=len(eps) * len(r))
        lines.add("numbers_that_do_otherwise", measured, FUSED, optimizer="adam", step=1, **arithmetic.cell)
    mantissas = numbers(FP32, most, context.seed)
    wide = torch.cat([mantissas * 2.0**k for k in range(-6, 2)])
    by_default = seen(context, FP32, [1e-8], wide)[0]
    wrong_default = Measured(value=int((by_default != (wide < 0.25).numpy()).sum()), count=len(wide))
    lines.add("numbers_that_do_otherwise", wrong_default, QUARTER, optimizer="adam", options="eps=1e-08", step=1)
    _judge_pairs(lines, context)


def _judge_stairs(lines: Lines, context: StudyContext, arithmetic: Arithmetic, eps: Sequence[float], r: Tensor) -> None:
    """The step is r / fl(r + eps), rounded; beside the closed form of its change for s → ∞, 1 + δ."""
    taken = first_steps(context, arithmetic, eps, r)
    narrowed = torch.tensor(eps, dtype=torch.float32).unsqueeze(1)
    total = (r.float() + narrowed).to(arithmetic.params)
    exact = (r.float() / total.float()).to(arithmetic.params).double()
    cell: dict[str, Any] = {"optimizer": "adam", "step": 1, **arithmetic.cell}
    wrong = Measured(value=int((-taken != exact).sum()), count=taken.numel())
    lines.add("steps_that_do_otherwise", wrong, STAIRS, **cell)
    if arithmetic is not FP32:
        delta = narrowed.double() / r
        off = (-1.0 / taken / closed_form(delta, 2.0**60) - 1.0).abs()
        lines.add("largest_deviation", Measured(value=float(off.max()), count=off.numel()), COARSE, **cell)


def _judge_pairs(lines: Lines, context: StudyContext) -> None:
    """1,024 models of 16 parameters whose r stays within [1, 2], and one without a gradient: unmapped pairs."""
    models, width, steps = 1_024, 16, 20 if context.quick else 100
    scales = (1.0, 0.5, 2.0, 2.0**10, 2.0**20, 2.0**-6)
    rows = [{"lr": 1e-2, "eps": 1e-8}] * len(scales)
    population = FP32.population(context, "adam", rows * models, width + 1)
    generator = torch.Generator().manual_seed(context.seed)
    factors = torch.tensor(scales).view(1, -1, 1)
    for _ in range(steps):
        size = 1.0 + torch.rand(models, 1, width, generator=generator)
        signs = torch.randint(0, 2, size.shape, generator=generator) * 2 - 1
        grads = torch.nn.functional.pad(size * signs * factors, (0, 1))
        population.step(FP32.grads(population, grads.reshape(-1, width + 1)))
    params = population.params.view(models, len(scales), width + 1).cpu()
    still = "" if bool((params[:, 0, :width] != 0).any(1).all()) else "a model never moved"
    for place, scale in enumerate(scales[1:], 1):
        same = ~bits.mismatch_mask(params[:, place], params[:, 0]).any(1)
        cell: dict[str, Any] = {
            "optimizer": "adam",
            "options": "eps=1e-08",
            "arm": "loss",
            "against": "base",
            "step": steps,
        }
        claim = SAME if 1e-8 / scale < absorption("fp32").invisible_below else SEEN
        share = Measured.share(int(same.sum()), models)
        lines.add("identical_share", share, claim, reason=still, scale=scale, **cell)
        empty = ~bits.mismatch_mask(params[:, place, width], params[:, 0, width])
        without = Measured.share(int(empty.sum()), models)
        lines.add("identical_share_without_gradient", without, EXEMPT, scale=scale, **cell)
