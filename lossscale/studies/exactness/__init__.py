"""Does the invariance map undo a loss × 2^k bit for bit, for every optimizer and option, and where does that end?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from ...design.claims import Claim, Relation
from ...design.controls import EPS_FREE_OPTIMIZER, EPS_FREE_PAIRS, FLOOR_PAIRS, NULL_PAIRS, is_eps_free, out_of_range
from ...design.grid import Grid, NetworkInits, OptimizerSpec
from ...design.measures import DISTANCE_OVER_MOVED
from ...design.study import Cell, Prediction, Presentation, Study

if TYPE_CHECKING:
    import pandas as pd

_DECAY = ("weight_decay", 0.01)
OPTIMIZERS = (
    *(
        OptimizerSpec(algorithm="sgd", options=options)
        for options in (
            (),
            (("momentum", 0.9),),
            (("momentum", 0.9), ("nesterov", True), _DECAY),
            (("momentum", 0.9), ("dampening", 0.5), ("maximize", True)),
        )
    ),
    *(
        OptimizerSpec(algorithm="adam", options=options)
        for options in ((), (("eps", 0.001),), (("amsgrad", True),), (_DECAY,))
    ),
    *(OptimizerSpec(algorithm="adamw", options=options) for options in ((), (("amsgrad", True),))),
    *(
        OptimizerSpec(algorithm="rmsprop", options=options)
        for options in ((), (("momentum", 0.9), _DECAY), (("centered", True),))
    ),
    *(
        OptimizerSpec(algorithm="adagrad", options=options)
        for options in ((), (("initial_accumulator_value", 0.1), ("lr_decay", 0.01), _DECAY))
    ),
    OptimizerSpec(algorithm=EPS_FREE_OPTIMIZER),
)

NEAR = tuple(2.0**k for k in (-20, -10, -4, 4, 10, 20))
FAR, TOO_FAR = 2.0**40, 2.0**-40

GRID = Grid(
    networks=(NetworkInits(network="mlp-6-6-1", inits=1024, cohort_inits=64, quick_inits=64),),
    optimizers=OPTIMIZERS,
    scales=tuple(sorted((*NEAR, FAR, TOO_FAR))),
    arms=("null", "mapped", "loss", "ulp", "floor"),
    against=(),
    policies=("fp32", "bf16-state", "fp16-state"),
    checkpoints=(20, 1000),
    measures=("moved_elements", "differing_elements", DISTANCE_OVER_MOVED.name),
    engine="trainer",
)


SHORT = 2.0**-20
"""Scale at which the margin of an optimizer without eps is short."""


def _mapped(cell: Cell) -> bool:
    return (cell.arm, cell.against) == ("mapped", "base")


def _near(cell: Cell) -> bool:
    """Small scales at which nothing is said of Adam-atan2: no eps hides what its smallest moments lose."""
    return cell.scale in NEAR and not (cell.optimizer == EPS_FREE_OPTIMIZER and cell.scale == SHORT)


EXACT = Prediction(
    id="S5.exactness.1",
    quantity="identical_share",
    predicted=1.0,
    tolerance=0.0,
    applies=lambda cell: _mapped(cell) and _near(cell),
    unjudged=out_of_range,
    moved=True,
    why="Every quantity has a degree and is multiplied by a power of two: with mapped hyperparameters 1,000 steps of "
    "every optimizer and option agree in every parameter bit for k = ±4, ±10, ±20.",
)
FAR_EXACT = Prediction(
    id="S2.range.1",
    quantity="identical_share",
    predicted=1.0,
    tolerance=0.0,
    applies=lambda cell: _mapped(cell) and cell.scale == FAR,
    unjudged=out_of_range,
    moved=True,
    why="The same at k = 40, where it is the unscaled run whose small numbers leave the normal range first.",
)
STATES = Prediction(
    id="S5.exactness.2",
    quantity="state_identical_share",
    predicted=1.0,
    tolerance=0.0,
    applies=lambda cell: _mapped(cell) and _near(cell),
    unjudged=out_of_range,
    moved=True,
    why="States agree too, times 2^(degree · k), over the elements that are normal numbers in both runs.",
)

UNMAPPED = Claim(
    id="S5.exactness.3",
    says="With eps = 1e-8 left alone they differ: Adam, float32, |k| ≥ 4, after 1,000 steps at most half of the pairs "
    "agree.",
    predicted=0.5,
    relation=Relation.AT_MOST,
)
HALF_DIFFER = Claim(
    id="S5.exactness.4",
    says="With a float16 state more than half of the weights differ at |k| ≥ 4, mapped or not (Adam, 1,000 steps).",
    predicted=0.5,
    relation=Relation.AT_LEAST,
)
BREAKS = Claim(
    id="S2.break.1",
    says="At k = −40 subnormal second moments break some pairs (Adam, float32).",
    predicted=1.0,
    relation=Relation.AT_LEAST,
)
SWEEP = Claim(
    id="S2.sweep.1",
    says="Adam, AdamW, AMSGrad and Adam with L2 decay on 4,096 elements: no bit differs at any k from −20 to 40.",
    predicted=0.0,
)
SWEEP_STATE = Claim(
    id="S2.sweep.2",
    says="Nor with a bfloat16 state at k = ±4, ±10, ±20.",
    predicted=0.0,
)
SWEEP_BREAK = Claim(
    id="S2.break.2",
    says="At k = −40 57 to 65 of the 4,096 differ.",
    predicted=61.0,
    tolerance=4.0,
)
SWEEP_CAUSE = Claim(
    id="S2.break.3",
    says="Every element that differs there has had a subnormal v: none of the others does.",
    predicted=0.0,
)
SWEEP_HALF = Claim(
    id="S2.fp16.1",
    says="With a float16 state 2,776 to 3,959 of the 4,096 differ at |k| ≥ 4.",
    predicted=3367.5,
    tolerance=591.5,
)
SMALLEST = Claim(
    id="S5.exactness.5",
    says="Dead units decay: the smallest nonzero |g| is 2^−44 at step 20 and 2^−65 at step 1,000, so the margin to the "
    "subnormals shrinks.",
    tolerance=0.5,
)
MOMENTS = Claim(
    id="S5.exactness.6",
    says="First moments of such elements differ where one run goes subnormal first, about 12,000 of 100,352 at step "
    "1,000.",
    tolerance=None,
)
NO_PARAMETER = Claim(
    id="S5.exactness.7",
    says="While no parameter bit does.",
    predicted=0.0,
)
MARGIN = Claim(
    id="S5.exactness.8",
    says="Adam-atan2 has the same bits at k = −20 too while its moments stay normal: while the smallest |g| · 2^−20 is "
    "at least 2^−58. Where the margin is shorter that is conditional, for no eps hides what a subnormal v has lost.",
    predicted=1.0,
)
ACCUMULATOR = Claim(
    id="S2.adagrad.1",
    says="Adagrad with initial_accumulator_value .1 depends on the scale: first step / lr is .032, .30, .95, 1.0 at s "
    "= 1, 10, 100, 1e4 for g = 1e-2.",
    tolerance=None,
)
CENTERED = Claim(
    id="S2.centered.1",
    says="Centered RMSprop: v − mean² rounds negative, and the root is NaN, where std / |mean| is under about "
    "2^(−p/2): 2.4e-4 (float32), 2.2e-2 (float16), 6e-2 (bfloat16), within a factor of 4.",
    tolerance=2.0,
)
CENTERED_SHARE = Claim(
    id="S2.centered.2",
    says="In float32 4.6 % of the steps are NaN.",
    tolerance=None,
)
DECAY_LEFT = Claim(
    id="S2.sgd.1",
    says="Without its decay mapped, loss × s is not lr × s under SGD: with an L2 decay of .01 left alone no pair of "
    "the two agrees at s = 2^±4.",
    predicted=0.0,
)
DECAY_MAPPED = Claim(
    id="S2.sgd.2",
    says="With the decay × s every pair does, bit for bit.",
    predicted=1.0,
)
INSIDE = Claim(
    id="S2.inside.1",
    says="An eps inside the root has degree 2: with eps × s² no step of Adam’s differs at k = ±4, ±10, ±20.",
    predicted=0.0,
)


def _further(study: Study, run: Path) -> pd.DataFrame:
    from .further import further

    return further(study, run)


def _presentation(study: Study) -> Presentation:
    from .presentation import Exactness

    return Exactness(study)


STUDY = Study(
    name="exactness",
    title="The invariance map, bit for bit",
    shows="which hyperparameters undo a loss × 2^k so that no bit differs, for every optimizer, and where that ends",
    cost="108 s of processor time (16 s with --quick), 78 MB",
    grid=GRID,
    predictions=(
        EXACT,
        FAR_EXACT,
        STATES,
        NULL_PAIRS,
        dataclasses.replace(EPS_FREE_PAIRS, applies=lambda cell: is_eps_free(cell) and _near(cell)),
        FLOOR_PAIRS,
    ),
    claims=(
        *(UNMAPPED, HALF_DIFFER, BREAKS, SWEEP, SWEEP_STATE, SWEEP_BREAK, SWEEP_CAUSE, SWEEP_HALF),
        *(SMALLEST, MOMENTS, NO_PARAMETER, MARGIN, ACCUMULATOR, CENTERED, CENTERED_SHARE),
        *(DECAY_LEFT, DECAY_MAPPED, INSIDE),
    ),
    further=_further,
    presentation=_presentation,
)
