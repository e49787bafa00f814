"""A warm Adam's step after the gradient changes, element by element; and networks whose loss is rescaled on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from kernels import Population, get_algorithm

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.arms import FLOOR as FLOOR_ARM
from ...design.claims import EPS_FREE, NULL
from ...design.study import StudyContext
from ...engines.stepwise import Arms
from ...engines.threads import one_thread
from ...models.networks import get_network
from ...runs.controls import pair_lines
from ...runs.summary import write_lines
from ...support.files import write_json
from . import BALANCED, CARRIED, FELT, FORM, HALVED, LOW, PEAK, PEAK_STEP

RESPONSES: Final = "mid-run.json"
"""The responses that the page draws."""

LIMIT: Final = 2.0**20
"""Stands for c → ∞: the step is within 1e-9 of its limit."""
SLIGHT: Final = 1.01
"""A change of the scale whose first order is told from its second."""
BETA1: Final = 0.9
_WARM: Final = 100_000
"""Steps after which both bias corrections are 1 in float32."""
_STEPS: Final = 3600
_ELEMENTS: Final = 1024
_BEFORE, _AFTER = 100, 100
_ARMS: Final = ("base", "null", "mapped", "mapped-without-moments", "ulp", "floor")
"""What becomes of a warm network: it goes on; is rescaled, with or without its moments; or began an ulp away."""


@dataclass(frozen=True, kw_only=True)
class Jump:
    """A factor on the gradient, and what is predicted of the step's response."""

    beta2: float
    factor: float
    peak: tuple[float, float] | None = None
    """Height and tolerance."""
    peak_step: int | None = None
    low: bool = False
    halved: tuple[int, int] | None = None


JUMPS: Final = (
    Jump(beta2=0.999, factor=LIMIT, peak=(6.57, 0.005), peak_step=12),
    Jump(beta2=0.999, factor=8.0, peak=(4.77, 0.005), peak_step=19),
    Jump(beta2=0.999, factor=10.0, peak=(5.20, 0.005), peak_step=17),
    Jump(beta2=0.999, factor=1 / 8, low=True, halved=(9, 3042)),
    Jump(beta2=0.999, factor=1 / 10, halved=(8, 3494)),
    Jump(beta2=0.95, factor=LIMIT, peak=(1.097, 0.0005)),
    Jump(beta2=0.95, factor=8.0, peak=(1.11, 0.005)),
    Jump(beta2=0.95, factor=10.0, peak=(1.11, 0.005)),
    Jump(beta2=0.95, factor=1 / 10, halved=(12, 67)),
    *(Jump(beta2=beta2, factor=SLIGHT) for beta2 in (0.999, 0.95, BETA1)),
)


def execute(context: StudyContext) -> None:
    """Measure the responses and train the networks; write mid-run.json and summary.csv."""
    lines = Lines(context.study)
    device = torch.device(context.device)
    with one_thread():
        measured = responses(JUMPS, device=device, backend=context.backend, seed=context.seed)
        for jump, response in zip(JUMPS, measured, strict=True):
            _judge(lines, jump, response)
        _networks(lines, context, device)
    kept = [
        {
            "beta2": jump.beta2,
            "factor": jump.factor,
            "step": [round(float(value), 6) for value in np.median(of, axis=1)],
        }
        for jump, of in zip(JUMPS, measured, strict=True)
        if jump.factor != SLIGHT
    ]
    write_json(context.run / RESPONSES, kept)
    # What does not depend on the factor is the same line for each of them.
    write_lines(context.run, lines.frame().drop_duplicates())


def closed_form(beta2: float, factor: float, steps: int) -> npt.NDArray[np.float64]:
    """[steps] the step's size after the change over the one before: m from 1 to c, v from 1 to c², eps = 0."""
    t = np.arange(1, steps + 1)
    response = (factor - (factor - 1) * BETA1**t) / np.sqrt(factor**2 - (factor**2 - 1) * beta2**t)
    return np.asarray(response, dtype=np.float64)


def rounding_bound(beta2: float) -> float:
    """What rounding can do to the step, relative.

    A float32 average is rounded twice a step, by up to 2^-24 of its value each, and ends up to 2^-23 / (1 − beta) off
    where every rounding goes the same way, as under a constant gradient; the root halves it. Four more roundings make
    the step.
    """
    return 2.0**-24 * (1.0 / (1.0 - beta2) + 2.0 / (1.0 - BETA1) + 4.0)


def responses(
    jumps: Sequence[Jump], *, device: torch.device, backend: str, seed: int, steps: int = _STEPS
) -> list[npt.NDArray[np.float64]]:
    """For every jump [steps, elements]: the step taken over the warm one, for gradients of many sizes.

    A model is a jump, its elements differ in the gradient's size (2^-10 to 2^10); the parameters are put back to 0
    before every step, so that a step is read off with the rounding of its own size only. eps is 1e-30, so nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    size = torch.exp2(torch.rand(_ELEMENTS, generator=generator) * 20 - 10).to(device)
    make = get_algorithm("adam").hyperparameters
    population = Population(
        "adam",
        [make(lr=1.0, betas=(BETA1, jump.beta2), eps=1e-30) for jump in jumps],
        torch.zeros(len(jumps), _ELEMENTS, device=device),
        backend=backend,
    )
    population.step_count = _WARM
    population.state["exp_avg"].copy_(size)
    population.state["exp_avg_sq"].copy_(size * size)
    factors = torch.tensor([jump.factor for jump in jumps], device=device).unsqueeze(1)
    grads = (size * factors).contiguous()
    taken = np.empty((steps, len(jumps), _ELEMENTS), np.float32)
    for step in range(steps):
        population.params.zero_()
        population.step(grads)
        taken[step] = -population.params.cpu().numpy()
    return [taken[:, place].astype(np.float64) for place in range(len(jumps))]


def _judge(lines: Lines, jump: Jump, response: npt.NDArray[np.float64]) -> None:
    cell: dict[str, Any] = {
        "optimizer": "adam",
        "options": f"betas=({BETA1}; {jump.beta2})",
        "recipe": "foreach",
        "arm": "jump",
        "against": "warm",
        "scale": jump.factor,
    }
    worst = np.abs(response / closed_form(jump.beta2, jump.factor, len(response))[:, None] - 1).max()
    lines.add(
        "largest_deviation_from_closed_form",
        Measured(value=float(worst), count=response.size),
        FORM,
        tolerance=rounding_bound(jump.beta2),
        **cell,
    )
    if jump.factor == SLIGHT:
        expected = float(np.abs(closed_form(jump.beta2, jump.factor, len(response)) - 1).max())
        felt = Measured.median(np.abs(response - 1).max(axis=0))
        lines.add("felt", felt, BALANCED, predicted=expected, tolerance=rounding_bound(jump.beta2), **cell)
        return
    if jump.factor > 1:
        at = Measured.median(response.argmax(axis=0) + 1)
        lines.add("peak_step", at, None if jump.peak_step is None else PEAK_STEP, predicted=jump.peak_step, **cell)
        height, tolerance = jump.peak or (None, None)
        claim = PEAK if jump.peak else None
        lines.add("peak", Measured.median(response.max(axis=0)), claim, predicted=height, tolerance=tolerance, **cell)
        return
    lowest = Measured.median(response.min(axis=0))
    lines.add("lowest", lowest, LOW if jump.low else None, **cell)
    first, last = under_half(response)
    for name, steps, place in (("first_step_under_half", first, 0), ("last_step_under_half", last, 1)):
        predicted = jump.halved[place] if jump.halved else None
        lines.add(name, Measured.median(steps), HALVED if jump.halved else None, predicted=predicted, **cell)


def under_half(response: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and last step, from 1, at which each element's response lies under a half."""
    under = response < 0.5
    return under.argmax(axis=0) + 1, len(under) - under[::-1].argmax(axis=0)


def _networks(lines: Lines, context: StudyContext, device: torch.device) -> None:
    """Warm networks whose loss is multiplied by 2^k at step 101, with and without their moments mapped."""
    inits = range(128 if context.quick else 1024)
    for name in ("adam", "adam_atan2"):
        algorithm = get_algorithm(name)
        base = algorithm.hyperparameters(lr=0.01)
        warm = _arms(context, device, inits, name, [base] * len(_ARMS))
        warm.advance(range(1, _BEFORE + 1), [1.0] * len(_ARMS))
        for scale in (1 / 8, 8.0, 2.0**12):
            factors = [1.0, 1.0, scale, scale, 1.0, FLOOR_ARM.at]
            arms = _arms(context, device, inits, name, [algorithm.rescale(base, factor) for factor in factors])
            arms.go_on_from(warm)
            for state in algorithm.states:
                if state.name in arms.population.state:
                    for place in (_ARMS.index("mapped"), _ARMS.index("floor")):
                        arms.of(place, arms.population.state[state.name]).mul_(factors[place] ** state.degree)
            arms.advance(range(_BEFORE + 1, _BEFORE + _AFTER + 1), factors)
            _compare(lines, arms, name, factors)


def _arms(context: StudyContext, device: torch.device, inits: range, name: str, hyper: Sequence[Any]) -> Arms:
    network = get_network("mlp-6-6-1")
    return Arms(
        network,
        name,
        hyper,
        stream=network.stream(seed=context.seed, inits=inits, device=device),
        seed=context.seed,
        inits=inits,
        device=device,
        backend=context.backend,
        moved_by_one_ulp=[_ARMS.index("ulp")],
    )


def _compare(lines: Lines, arms: Arms, name: str, factors: Sequence[float]) -> None:
    eps_free = name == "adam_atan2"
    cell: dict[str, Any] = {
        "network": "mlp-6-6-1",
        "optimizer": name,
        "recipe": "native" if eps_free else "foreach",
        "step": _BEFORE + _AFTER,
    }
    claims = {"null": NULL, "mapped": EPS_FREE if eps_free else CARRIED}
    if not eps_free:
        claims["mapped-without-moments"] = FELT
    for place, arm in enumerate(_ARMS):
        if place:
            pair_lines(lines, arms, place, claims.get(arm), arm=arm, scale=factors[place], **cell)
