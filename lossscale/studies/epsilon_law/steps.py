"""One step of many elements under loss × s with eps left alone, and the closed form of its change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from kernels import get_algorithm

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.study import StudyContext
from ...engines.populations import FP32, Arithmetic, step_from_zero
from . import EXAMPLES, FORM, HALF, HALF_RATIO, MAPPED_S, MOMENTUM, SATURATES

OPTIMIZERS: Final = ("adam", "adamw", "rmsprop", "adagrad")
EPS: Final = (1e-8, 1e-3)
SCALES: Final = tuple(10.0**k for k in range(-8, 9))
_ROOT: Final = {"rmsprop": (1 - 0.99) ** 0.5}
"""r / |g| at the first step, where it is not 1: RMSprop does not correct its average."""


def updates(
    context: StudyContext,
    algorithm: str,
    eps: Sequence[float],
    grads: Tensor,
    arithmetic: Arithmetic = FP32,
) -> Tensor:
    """[models, elements] float64: first steps at lr 1 from p = 0, an eps per model; of gradients [models, elements]."""
    rows = [{"lr": 1.0, "eps": value} for value in eps]
    population = arithmetic.population(context, algorithm, rows, grads.shape[1])
    return step_from_zero(population, arithmetic.grads(population, grads))


def drawn(context: StudyContext, elements: int) -> Tensor:
    """[elements] float32 gradients of both signs, their sizes spread evenly over 1e-6 to 1 on a logarithmic axis."""
    generator = torch.Generator().manual_seed(context.seed)
    size = torch.exp(torch.rand(elements, generator=generator, dtype=torch.float64) * -np.log(1e6))
    signs = torch.randint(0, 2, (elements,), generator=generator) * 2 - 1
    return (size * signs).float()


def closed_form(delta: Tensor, scale: Tensor | float) -> Tensor:
    """(1 + δ)/(1 + δ/s), float64; as `theory.update_ratio`, on tensors."""
    return (1.0 + delta) / (1.0 + delta / scale)


def judge_closed_form(lines: Lines, context: StudyContext) -> None:
    """The form itself, its two ends, and eps mapped where s rounds."""
    elements = 4_096 if context.quick else 65_536
    grads = drawn(context, elements)
    scales = torch.tensor(SCALES, dtype=torch.float64).unsqueeze(1)
    scaled = (grads.double() * scales).float()
    for name in OPTIMIZERS:
        root = grads.double().abs() * _ROOT.get(name, 1.0)
        for eps in EPS:
            base = updates(context, name, [eps], grads.unsqueeze(0))
            left = updates(context, name, [eps] * len(SCALES), scaled)
            delta = eps / root
            off = (left / base / closed_form(delta, scales) - 1.0).abs()
            cell: dict[str, Any] = {
                "optimizer": name,
                "options": f"eps={eps:g}",
                "step": 1,
                "arm": "loss",
                "against": "base",
            }
            for place, scale in enumerate(SCALES):
                largest = Measured(value=float(off[place].max()), count=elements)
                lines.add("largest_deviation", largest, FORM, scale=scale, **cell)
            calm = delta <= 1.0
            top = (left[-1] / base[0] / (1.0 + delta) - 1.0).abs()[calm]
            largest = Measured(value=float(top.max()), count=int(calm.sum()))
            lines.add("largest_deviation_from_1_plus_delta", largest, SATURATES, scale=SCALES[-1], **cell)
            weak = SCALES[0] * root / eps <= 1e-4
            sgd = grads.double() * SCALES[0] / eps
            bottom = (left[0] / -sgd - 1.0).abs()[weak]
            lines.add(
                "largest_deviation_from_sgd",
                Measured(value=float(bottom.max()), count=int(weak.sum())),
                MOMENTUM,
                predicted=float((SCALES[0] * root / eps)[weak].max()),
                scale=SCALES[0],
                **cell,
            )
            _judge_mapped(lines, context, name, eps, grads, base)


def _judge_mapped(lines: Lines, context: StudyContext, name: str, eps: float, grads: Tensor, base: Tensor) -> None:
    algorithm = get_algorithm(name)
    scales = (0.1, 3.0, 10.0, 1e4)
    record = algorithm.hyperparameters(lr=1.0, eps=eps)
    mapped = [algorithm.rescale(record, scale).eps for scale in scales]
    scaled = torch.stack([(grads.double() * scale).float() for scale in scales])
    off = (updates(context, name, mapped, scaled) / base - 1.0).abs()
    for place, scale in enumerate(scales):
        lines.add(
            "largest_deviation",
            Measured(value=float(off[place].max()), count=off.shape[1]),
            MAPPED_S,
            optimizer=name,
            options=f"eps={eps:g}",
            step=1,
            arm="mapped",
            against="base",
            scale=scale,
        )


def judge_points(lines: Lines, context: StudyContext) -> None:
    """The four examples, and the half step where s·r = eps."""
    cell: dict[str, Any] = {"optimizer": "adam", "step": 1, "arm": "loss", "against": "base"}
    elements = 1_024
    for delta, scale, change, half_unit in (
        (0.1, 100.0, 0.099, 0.0005),
        (0.1, 0.1, -0.45, 0.005),
        (1.0, 100.0, 0.98, 0.005),
        (1.0, 0.1, -0.82, 0.005),
    ):
        size = torch.exp2(torch.rand(elements, generator=torch.Generator().manual_seed(context.seed)))
        both = torch.stack([size, size * scale])
        # One eps per model: the same δ for every element needs one size a model, so elements are models here.
        eps = [delta * float(value) for value in size] * 2
        taken = updates(context, "adam", eps, both.reshape(-1, 1)).reshape(2, elements)
        measured = Measured.median((taken[1] / taken[0] - 1.0).numpy())
        options = f"delta={delta:g}"
        lines.add(
            "change", measured, EXAMPLES, predicted=change, tolerance=half_unit, options=options, scale=scale, **cell
        )
    # Every eps, of 32 places in a binade, meets every scale, on a gradient whose s · r is that eps.
    sizes = (1e-3 * 2.0 ** (torch.arange(32, dtype=torch.float64) / 32)).float().repeat(33)
    scales = (2.0 ** torch.arange(-16, 17, dtype=torch.float64)).float().repeat_interleave(32)
    own = sizes.tolist()
    base = updates(context, "adam", own, (sizes / scales).unsqueeze(1))
    left = updates(context, "adam", own, sizes.unsqueeze(1))
    options = "eps=0.001 to 0.002"
    lines.add("step_size", Measured.median(left.abs().numpy()), HALF, options=options, **cell)
    ratio = left / base / ((1.0 + scales.double().unsqueeze(1)) / 2.0) - 1.0
    largest = Measured(value=float(ratio.abs().max()), count=len(own))
    lines.add("largest_deviation", largest, HALF_RATIO, options=options, **cell)
