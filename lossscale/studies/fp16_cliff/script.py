"""Measures the edges of the formats and what a step does beyond them."""

from __future__ import annotations

import math
from typing import Any, Final

import pandas as pd
import torch

from kernels import DTYPES, bits, get_algorithm

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.controls import control_grid
from ...design.study import StudyContext
from ...engines.populations import FP16, FP16_FUSED, FP16_STATE, step_from_zero
from ...engines.threads import one_thread
from ...models.networks import get_network
from ...runs.controls import control_lines
from ...runs.summary import write_lines
from . import (
    ABSORBED,
    AVERAGE,
    BINADES,
    BORDERS,
    CLIFF,
    FOREACH_INFINITE,
    FUSED_FIRST,
    FUSED_INFINITE,
    FUSED_LATER,
    GRADIENT,
    GRADIENT_BINADES,
    IN_RANGE,
    NO_NAN,
    POWERS,
    SHARP,
    SPAN,
    SQUARE,
    ZERO_OVER_ZERO,
    ranges,
)

THRESHOLD: Final = math.sqrt(2.0**-25 / (1.0 - ranges.BETA2))
"""The largest |g| whose first v is 0 in float16."""

_FIRST_POWERS: Final = {
    "g": (GRADIENT, {"nonzero": (-149, -133, -24), "normal": (-126, -126, -14)}),
    "g²": (SQUARE, {"nonzero": (-74, -66, -12), "normal": (-63, -63, -7), "infinite": (64, 64, 8)}),
    "(1 − β₂) g²": (AVERAGE, {"nonzero": (-70, -62, -7), "normal": (-58, -58, -2)}),
}
"""Number → its claim, and for each event the exponents predicted for float32, bfloat16 and float16 states."""

_BORDERS: Final = {
    ("g²", "nonzero"): (1.73e-4, 5e-7),
    ("g²", "infinite"): (255.97, 5e-3),
    ("(1 − β₂) g²", "nonzero"): (5.46e-3, 5e-6),
    ("(1 − β₂) g²", "normal"): (0.247, 5e-4),
}
"""Of float16: the border that is predicted, and half a unit of its last digit."""


def execute(context: StudyContext) -> None:
    """Run everything and write summary.csv."""
    lines = Lines(context.study)
    with one_thread():
        _cliff(lines, context)
        _windows(lines, context)
        _nan(lines, context)
        _absorbed(lines, context)
        _fused(lines, context)
        _in_range(lines, context)
        # float32 beside them: where float16's range takes the floor, float32's is the judge.
        controls = control_lines(context, control_grid(("fp32", "fp16-state", "fp16-mixed")))
    write_lines(context.run, pd.concat([lines.frame(), controls], ignore_index=True))


def _cliff(lines: Lines, context: StudyContext) -> None:
    """The share of v = 0 after a step, for gradients N(0, THRESHOLD²) times s."""
    elements = 2**16 if context.quick else 2**20
    generator = torch.Generator().manual_seed(context.seed)
    normal = torch.randn(elements, generator=generator) * THRESHOLD
    for arithmetic in (FP16_STATE, FP16, FP16_FUSED):
        for k in range(-8, 9, 2):
            population = arithmetic.population(context, "adam", [{"betas": (0.9, ranges.BETA2)}], elements)
            grads = arithmetic.grads(population, normal * 2.0**k)
            population.step(grads)
            zero = int((population.state["exp_avg_sq"] == 0).sum())
            predicted = float((grads.abs().double() <= THRESHOLD).double().mean())
            # Judged by the number: the prediction is of these very gradients.
            measured = Measured(value=zero / elements, count=elements)
            cell: dict[str, Any] = {
                "optimizer": "adam",
                "options": "beta2=0.999",
                "scale": 2.0**k,
                "step": 1,
                **arithmetic.cell,
            }
            lines.add("share_of_v_zero", measured, CLIFF, predicted=predicted, **cell)


def _windows(lines: Lines, context: StudyContext) -> None:
    found: dict[tuple[str, str], float] = {}
    for held in ranges.HELD:
        claim, table = _FIRST_POWERS[held.name]
        for place, arithmetic in enumerate(ranges.STATES):
            cell: dict[str, Any] = {"optimizer": held.algorithm, "options": held.name, "step": 1, **arithmetic.cell}
            first = ranges.first_powers(context, held, arithmetic)
            for event, exponents in table.items():
                lines.add(f"first_{event}_power", first[event], claim, predicted=exponents[place], **cell)
            wrong, of = ranges.wrong_powers(context, held, arithmetic)
            lines.add("powers_that_do_otherwise", Measured(value=wrong, count=of), POWERS, **cell)
    for held in (ranges.SQUARE, ranges.AVERAGE):
        for event in ranges.EVENTS:
            cell = {"optimizer": held.algorithm, "options": held.name, "step": 1, **FP16_STATE.cell}
            found[held.name, event] = at = ranges.border(context, held, FP16_STATE, event)
            if (held.name, event) in _BORDERS:
                predicted, half_unit = _BORDERS[held.name, event]
                lines.add(f"{event}_from", at, BORDERS, predicted=predicted, tolerance=half_unit, **cell)
            else:
                lines.add(f"{event}_from", at, **cell)
    cell = {"optimizer": "adam", "options": "beta2=0.999", **FP16_STATE.cell}
    window = math.log2(found["g²", "infinite"] / found["(1 − β₂) g²", "nonzero"])
    lines.add("binades_of_the_window", window, BINADES, **cell)
    form = DTYPES["fp16"]
    lines.add("binades_of_gradients", math.log2(form.largest / form.smallest), GRADIENT_BINADES, **FP16.cell)
    _span(lines, context)


def _span(lines: Lines, context: StudyContext) -> None:
    """How far the gradients of small networks reach after 100 steps."""
    from kernels import Trainer

    from ...engines.trainer import samples

    inits = range(128 if context.quick else 1024)
    network = get_network("mlp-6-6-1")
    stream = network.stream(seed=context.seed, inits=inits, device=torch.device(context.device))
    params = network.initial(context.seed, inits).to(context.device)
    record = get_algorithm("adam").hyperparameters(lr=0.01)
    trainer = Trainer("adam", [record], params, network=network.name, backend=context.backend)
    trainer.run(samples(stream, range(1, 100)))
    grads = trainer.run(samples(stream, range(100, 101)), keep_gradients=True)
    assert grads is not None, "they were asked for"
    size = grads[0].abs().double().cpu()
    each = [float((row.max() / row[row > 0].min()).log2()) for row in size if bool((row > 0).any())]
    cell: dict[str, Any] = {"network": network.name, "optimizer": "adam", "step": 100}
    alive = size[size > 0]
    pooled = Measured(value=float((alive.max() / alive.min()).log2()), count=len(alive))
    lines.add("binades_of_all_gradients", pooled, SPAN, **cell)
    lines.add("binades_of_one_networks_gradients", Measured.median(each), **cell)


def _nan(lines: Lines, context: StudyContext) -> None:
    """Half of the elements have no gradient; eps is what they divide by."""
    elements = 4_096
    grads = torch.ones(elements)
    grads[::2] = 0.0
    for arithmetic in (FP16, FP16_FUSED):
        for eps, claim in ((1e-8, ZERO_OVER_ZERO), (3e-8, NO_NAN), (1e-7, NO_NAN), (1e-4, NO_NAN)):
            population = arithmetic.population(context, "adam", [{"eps": eps}], elements)
            population.step(arithmetic.grads(population, grads))
            nan = population.params[0, ::2].isnan()
            share = Measured.share(int(nan.sum()), nan.numel())
            # Fused kernels add eps in float32, where it is not 0.
            judged = claim if arithmetic is FP16 else NO_NAN
            cell: dict[str, Any] = {"optimizer": "adam", "options": f"eps={eps:g}", "step": 1, **arithmetic.cell}
            lines.add("share_nan_without_gradient", share, judged, **cell)


def _absorbed(lines: Lines, context: StudyContext) -> None:
    """Every positive float16 v, held fixed by alpha = 1; the gradient is its root: the step is 1 without eps."""
    every = torch.arange(1, 0x7C00, dtype=torch.int16).view(torch.float16)
    for eps, claim in ((2.0**-23, ABSORBED), (2.0**-23 * (1 + 2.0**-10), SHARP)):
        population = FP16.population(context, "rmsprop", [{"lr": 1.0, "alpha": 1.0, "eps": eps}], len(every))
        population.state["square_avg"].copy_(every.unsqueeze(0))
        taken = step_from_zero(population, FP16.grads(population, every.double().sqrt()))
        seen = Measured(value=int((taken != -1.0).sum()), count=len(every))
        lines.add("v_that_see_eps", seen, claim, optimizer="rmsprop", options=f"eps={eps!r}", step=1, **FP16.cell)


def _fused(lines: Lines, context: StudyContext) -> None:
    """A gradient whose v is stored as 0: fifty steps, then one without a gradient."""
    elements = 1_024
    for arithmetic in (FP16_FUSED, FP16):
        population = arithmetic.population(context, "adam", [{"lr": 1.0}], elements)
        grads = arithmetic.grads(population, torch.full((elements,), 5e-3))
        taken = [-step_from_zero(population, grads) for _ in range(50)]
        last = step_from_zero(population, torch.zeros_like(grads))
        cell: dict[str, Any] = {"optimizer": "adam", "options": "g=5e-3", **arithmetic.cell}
        if arithmetic is FP16:
            infinite = Measured.share(int(taken[0].isinf().sum()), elements)
            lines.add("share_infinite", infinite, FOREACH_INFINITE, **cell, step=1)
            continue
        lines.add("step_size", Measured.median(taken[0].numpy()), FUSED_FIRST, **cell, step=1)
        lines.add("step_size", Measured.median(taken[49].numpy()), FUSED_LATER, **cell, step=50)
        infinite = Measured.share(int(last.isinf().sum()), elements)
        lines.add("share_infinite", infinite, FUSED_INFINITE, **cell, step=51)


def _in_range(lines: Lines, context: StudyContext) -> None:
    """1,024 models of 16 parameters whose gradients lie in [1, 2): every state stays normal under s = 1/4 … 4."""
    models, width, steps = 1_024, 16, 200
    algorithm = get_algorithm("adam")
    base = algorithm.hyperparameters(lr=1e-2, eps=1e-3)
    scales = (1.0, 0.25, 0.5, 2.0, 4.0)
    records: list[Any] = [algorithm.rescale(base, scale) for scale in scales]
    rows = [{name: getattr(record, name) for name in ("lr", "eps")} for record in records]
    population = FP16_STATE.population(context, "adam", rows * models, width)
    generator = torch.Generator().manual_seed(context.seed)
    factors = torch.tensor(scales).view(1, -1, 1)
    for _ in range(steps):
        drawn = 1.0 + torch.rand(models, 1, width, generator=generator)
        population.step(FP16_STATE.grads(population, (drawn * factors).reshape(-1, width)))
    params = population.params.view(models, len(scales), width).cpu()
    still = "" if bool((params[:, 0] != 0).all()) else "a model never moved"
    for place, scale in enumerate(scales[1:], 1):
        same = ~bits.mismatch_mask(params[:, place], params[:, 0]).any(1)
        cell: dict[str, Any] = {
            "optimizer": "adam",
            "options": "eps=0.001",
            "arm": "mapped",
            "against": "base",
            "step": steps,
        }
        share = Measured.share(int(same.sum()), models)
        lines.add("identical_share", share, IN_RANGE, reason=still, scale=scale, **cell, **FP16_STATE.cell)
