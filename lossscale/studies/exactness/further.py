"""What the pairs of the grid do not say by themselves: margins, states, and laws of single elements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kernels import Trainer, bits, get_algorithm

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.controls import EPS_FREE_OPTIMIZER
from ...design.policies import POLICIES
from ...design.spec import CellKey
from ...design.study import Study, StudyContext
from ...engines.populations import BF16, BF16_STATE, FP16, FP16_STATE, FP32, Arithmetic, step_from_zero
from ...engines.threads import one_thread
from ...engines.trainer import samples
from ...models.networks import get_network
from ...runs.records import iter_cells, read_manifest
from . import (
    ACCUMULATOR,
    BREAKS,
    CENTERED,
    CENTERED_SHARE,
    HALF_DIFFER,
    MARGIN,
    MOMENTS,
    NEAR,
    NO_PARAMETER,
    SHORT,
    SMALLEST,
    SWEEP,
    SWEEP_BREAK,
    SWEEP_CAUSE,
    SWEEP_HALF,
    SWEEP_STATE,
    TOO_FAR,
    UNMAPPED,
)
from .degrees import judge_degrees

_LAST: Final = 1000
_MANY: Final = 1024
_NORMAL_FROM: Final = -58
"""log2 of the smallest |g| whose first v, (1 - .999) g², is a normal float32."""
_ELEMENTS: Final = 4096
SIGMAS: Final = (1.0, 1e-3, 3e-5)
"""Standard deviations of the sweep's gradients."""
_SPREAD: Final = "how the 4,096 gradients were spread is not known, and the count follows from it"
_SWEPT: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("adam", {}),
    ("adamw", {}),
    ("adam", {"amsgrad": True}),
    ("adam", {"weight_decay": 0.01}),
)


def further(study: Study, run: Path) -> pd.DataFrame:
    """Lines of the study's claims, from the run's pairs and from populations of the same seed."""
    manifest = read_manifest(run)
    spec = manifest.run_spec
    assert spec is not None, "a grid has a spec"
    context = StudyContext(
        study=study,
        run=run,
        seed=manifest.seed,
        steps=None,
        quick=spec.steps < _LAST,
        device=spec.device,
        backend=spec.backend,
    )
    lines = Lines(study)
    _of_pairs(lines, run)
    with one_thread():
        _sweep(lines, context)
        _moments(lines, context)
        _accumulator(lines, context)
        _centered(lines, context)
        judge_degrees(lines, context)
    lines.unjudged((UNMAPPED, HALF_DIFFER, BREAKS, SMALLEST, MARGIN), "this run has no such pairs")
    lines.unjudged((MOMENTS, NO_PARAMETER), f"this run ends before step {_LAST:,}")
    return lines.frame()


def _of_pairs(lines: Lines, run: Path) -> None:
    """What Adam's pairs say of eps left alone, of float16 and of the far end; and its smallest gradients."""
    for key, pairs in iter_cells(run):
        if key.optimizer == EPS_FREE_OPTIMIZER and POLICIES[key.policy].shifts_exactly:
            _margin(lines, key, pairs)
        if (key.optimizer, key.options) != ("adam", ""):
            continue
        cell: dict[str, Any] = {
            "network": key.network,
            "optimizer": key.optimizer,
            "recipe": key.recipe,
            "policy": key.policy,
        }
        if key.policy == "fp32":
            _smallest(lines, pairs, cell)
        last = pairs[pairs["step"] == pairs["step"].max()]
        if int(last["step"].iloc[0]) < _LAST:
            continue
        for scale in sorted({*NEAR, TOO_FAR} & set(last["scale"])):
            here: dict[str, Any] = {**cell, "scale": scale, "step": _LAST, "against": "base"}
            mapped, loss = (last[(last["arm"] == arm) & (last["scale"] == scale)] for arm in ("mapped", "loss"))
            if key.policy == "fp32" and scale == TOO_FAR:
                broken = Measured(value=int((~mapped["identical"]).sum()), count=len(mapped))
                lines.add("pairs_that_differ", broken, BREAKS, arm="mapped", **here)
            elif key.policy == "fp32":
                lines.add("agreeing_share", _share(loss), UNMAPPED, arm="loss", **here)
            elif key.policy == "fp16-state" and scale in NEAR:
                # Parameters of a network go together, so it is networks that count.
                differing = Measured.mean((mapped["differing_elements"] / mapped["params"]).to_numpy())
                lines.add("mean_share_of_differing_elements", differing, HALF_DIFFER, arm="mapped", **here)


def _margin(lines: Lines, key: CellKey, pairs: pd.DataFrame) -> None:
    """Adam-atan2 where its smallest gradients, scaled, have second moments at the edge of float32's range."""
    cell = {name: getattr(key, name) for name in ("network", "optimizer", "recipe", "policy")}
    for (arm, step), of in pairs[pairs["scale"] == SHORT].groupby(["arm", "step"]):
        smallest = float(np.log2(of["smallest_grad"].min()))  # of the arm, scaled
        short = "" if smallest >= _NORMAL_FROM else f"the smallest |g| · s is 2^{smallest:.1f}, under 2^{_NORMAL_FROM}"
        here = {**cell, "arm": arm, "against": "base", "scale": SHORT, "step": step}
        lines.add("agreeing_share", _share(of), MARGIN, reason=short, **here)


def _share(pairs: pd.DataFrame) -> Measured:
    return Measured.share(int(pairs["identical"].sum()), len(pairs))


def _smallest(lines: Lines, pairs: pd.DataFrame, cell: dict[str, Any]) -> None:
    """Of the unscaled runs, which the null arm repeats."""
    for step, predicted in ((20, -44.0), (_LAST, -65.0)):
        own = pairs[(pairs["arm"] == "null") & (pairs["step"] == step)]["smallest_grad"]
        if own.notna().any():
            smallest = Measured(value=float(np.log2(own.min())), count=len(own))
            few = "" if len(own) >= _MANY else f"an extreme of {len(own)} networks says nothing of that of {_MANY:,}"
            lines.add("log2_smallest_gradient", smallest, SMALLEST, predicted=predicted, reason=few, step=step, **cell)


def _sweep(lines: Lines, context: StudyContext) -> None:
    """4,096 elements under gradients N(0, sigma²), mapped at every k."""
    steps = 20 if context.quick else 100
    for name, options in _SWEPT:
        for sigma in SIGMAS:
            text = ",".join([*(f"{key}={value}" for key, value in options.items()), f"sigma={sigma:g}"])
            cell: dict[str, Any] = {
                "optimizer": name,
                "options": text,
                "arm": "mapped",
                "against": "base",
                "step": steps,
            }
            powers = [*range(-20, 41), -40]
            differ, subnormal = mapped_elements(context, FP32, name, options, powers, steps, sigma)
            inside = Measured(value=int(differ[:-1].sum()), count=differ[:-1].numel())
            lines.add("elements_that_differ", inside, SWEEP, **cell, **FP32.cell)
            here: dict[str, Any] = {**cell, "scale": 2.0**-40, **FP32.cell}
            broken = Measured(value=int(differ[-1].sum()), count=_ELEMENTS)
            lines.add("elements_that_differ", broken, SWEEP_BREAK, reason=_SPREAD, **here)
            other = Measured(value=int((differ[-1] & ~subnormal[-1]).sum()), count=_ELEMENTS)
            lines.add("elements_that_differ_for_no_subnormal", other, SWEEP_CAUSE, **here)
            for arithmetic, claim, reason in ((BF16_STATE, SWEEP_STATE, ""), (FP16_STATE, SWEEP_HALF, _SPREAD)):
                near = [-20, -10, -4, 4, 10, 20]
                differ, _ = mapped_elements(context, arithmetic, name, options, near, steps, sigma)
                for k, row in zip(near, differ, strict=True):
                    counted = Measured(value=int(row.sum()), count=_ELEMENTS)
                    own = {**cell, **arithmetic.cell, "scale": 2.0**k}
                    lines.add("elements_that_differ", counted, claim, reason=reason, **own)


def mapped_elements(
    context: StudyContext,
    arithmetic: Arithmetic,
    name: str,
    options: dict[str, Any],
    powers: Sequence[int],
    steps: int,
    sigma: float,
) -> tuple[Tensor, Tensor]:
    """[powers, elements] each: whether the mapped run's parameter differs, and whether its v was ever subnormal."""
    algorithm = get_algorithm(name)
    base = algorithm.hyperparameters(lr=0.01, **options)
    records = [base, *(algorithm.rescale(base, 2.0**k) for k in powers)]
    rows = [{key: getattr(record, key) for key in ("lr", "eps", "weight_decay", "amsgrad")} for record in records]
    population = arithmetic.population(context, name, rows, _ELEMENTS)
    generator = torch.Generator().manual_seed(context.seed)
    population.params.copy_(torch.randn(_ELEMENTS, generator=generator).expand(len(rows), -1))
    factors = torch.tensor([1.0, *(2.0**k for k in powers)]).unsqueeze(1)
    tiny = torch.finfo(arithmetic.state).tiny
    subnormal = torch.zeros(len(rows), _ELEMENTS, dtype=torch.bool)
    for _ in range(steps):
        drawn = torch.randn(_ELEMENTS, generator=generator) * sigma
        population.step(arithmetic.grads(population, drawn * factors))
        v = population.state["exp_avg_sq"].cpu()
        subnormal |= v < tiny
    differ = bits.mismatch_mask(population.params[1:], population.params[:1].expand(len(powers), -1)).cpu()
    return differ, subnormal[1:]


def _moments(lines: Lines, context: StudyContext) -> None:
    """2,048 networks mapped at k = −20 for 1,000 steps: first moments that differ, and parameters."""
    if context.quick:
        return
    inits, scale = range(2048), 2.0**-20
    network, algorithm = get_network("mlp-6-6-1"), get_algorithm("adam")
    base = algorithm.hyperparameters(lr=0.01)
    params = network.initial(context.seed, inits).repeat_interleave(2, 0).to(context.device)
    records = [base, algorithm.rescale(base, scale)]
    trainer = Trainer("adam", records, params, network=network.name, backend=context.backend, loss_scale=[1.0, scale])
    stream = network.stream(seed=context.seed, inits=inits, device=torch.device(context.device))
    for first in range(1, _LAST + 1, 100):
        trainer.run(samples(stream, range(first, first + 100)))
    m = trainer.state["exp_avg"].double().cpu() / torch.tensor([1.0, scale], dtype=torch.float64).repeat(2048)[:, None]
    cell: dict[str, Any] = {
        "network": network.name,
        "optimizer": "adam",
        "arm": "mapped",
        "against": "base",
        "scale": scale,
    }
    differing = Measured.mean((m[0::2] != m[1::2]).double().mean(1).numpy())
    everything = 2048 * network.parameters
    lines.rounded(
        "share_of_first_moments_that_differ",
        differing,
        MOMENTS,
        12_000 / everything,
        500 / everything,
        step=_LAST,
        **cell,
    )
    parameters = Measured(value=bits.mismatches(params[0::2].cpu(), params[1::2].cpu()), count=params.numel() // 2)
    lines.add("parameters_that_differ", parameters, NO_PARAMETER, step=_LAST, **cell)


def _accumulator(lines: Lines, context: StudyContext) -> None:
    expected = ((1.0, 0.032, 0.0005), (10.0, 0.30, 0.005), (100.0, 0.95, 0.005), (1e4, 1.0, 0.05))
    rows: list[dict[str, Any]] = [{"lr": 1.0, "initial_accumulator_value": 0.1}] * len(expected)
    population = FP32.population(context, "adagrad", rows, 1)
    taken = -step_from_zero(population, torch.tensor([[1e-2 * scale] for scale, _, _ in expected]))
    cell: dict[str, Any] = {
        "optimizer": "adagrad",
        "options": "initial_accumulator_value=0.1",
        "arm": "loss",
        "step": 1,
    }
    for (scale, step, half_unit), found in zip(expected, taken[:, 0].tolist(), strict=True):
        lines.add("step_over_lr", found, ACCUMULATOR, predicted=step, tolerance=half_unit, scale=scale, **cell)


def _centered(lines: Lines, context: StudyContext) -> None:
    """Gradients of mean 1 and a standard deviation of 2^-j: the share of NaN among late steps, format by format."""
    steps, late, elements = (1_900, 100, 64) if context.quick else (3_000, 1_000, 1_024)
    for arithmetic, bits_of in ((FP32, 24), (FP16, 11), (BF16, 8)):
        powers = [-bits_of / 2 + j / 2 for j in range(-8, 9)]
        counts = nan_steps(context, arithmetic, [2.0**power for power in powers], elements, steps, late)
        of = late * elements
        cell: dict[str, Any] = {"optimizer": "rmsprop", "options": "centered=True", "step": steps, **arithmetic.cell}
        risky = [power for power, count in zip(powers, counts, strict=True) if count]
        border = Measured(value=max(risky, default=float("nan")), count=of)
        lines.add("log2_of_largest_ratio_with_nan", border, CENTERED, predicted=-bits_of / 2, **cell)
        for power, count in zip(powers, counts, strict=True):
            here: dict[str, Any] = {**cell, "options": f"centered=True; std/mean=2^{power:g}"}
            share = Measured.share(count, of)
            if (arithmetic, power) == (FP32, -12.0):
                unknown = "the std / |mean| that it was found at is not known"
                lines.add("share_of_steps_nan", share, CENTERED_SHARE, predicted=0.046, reason=unknown, **here)
            else:
                lines.add("share_of_steps_nan", share, **here)


def nan_steps(
    context: StudyContext, arithmetic: Arithmetic, ratios: Sequence[float], elements: int, steps: int, late: int
) -> list[int]:
    """For every ratio std / mean: how many of the last steps of so many elements are NaN under centered RMSprop."""
    rows: list[dict[str, Any]] = [{"lr": 1.0, "centered": True}] * len(ratios)
    population = arithmetic.population(context, "rmsprop", rows, elements)
    spread = torch.tensor(ratios).unsqueeze(1)
    generator = torch.Generator().manual_seed(context.seed)
    counts = torch.zeros(len(ratios), dtype=torch.int64)
    for step in range(steps):
        drawn = 1.0 + spread * torch.randn(elements, generator=generator)
        population.params.zero_()
        population.step(arithmetic.grads(population, drawn))
        if step >= steps - late:
            counts += population.params.isnan().sum(1).cpu()
    found: list[int] = counts.tolist()
    return found
