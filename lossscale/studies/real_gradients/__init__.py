"""Where the gradients of networks that learn something lie in each format, and what a scaled loss does there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...design.claims import Claim, Relation
from ...design.controls import (
    EPS_FREE_OPTIMIZER,
    EPS_FREE_PAIRS,
    FLOOR_PAIRS,
    NULL_PAIRS,
    is_mapped,
    out_of_range,
)
from ...design.grid import Grid, NetworkInits, OptimizerSpec
from ...design.measures import DISTANCE_OVER_MOVED
from ...design.policies import POLICIES
from ...design.study import Prediction, Presentation, Study

if TYPE_CHECKING:
    import pandas as pd

TRANSFORMER = "char-transformer"
DIGITS = "mlp-64-32-10"

GRID = Grid(
    networks=(
        NetworkInits(network=TRANSFORMER, inits=16, cohort_inits=8, quick_inits=1),
        NetworkInits(network=DIGITS, inits=1024, cohort_inits=32, quick_inits=32, last_step=100),
    ),
    optimizers=(
        OptimizerSpec(algorithm="adamw"),
        OptimizerSpec(algorithm=EPS_FREE_OPTIMIZER, recipe="native", networks=(DIGITS,)),
    ),
    scales=(2.0**-10, 2.0**10),
    arms=("base", "loss", "mapped", "null", "ulp", "floor"),
    against=(),
    policies=tuple(POLICIES),
    checkpoints=(1, 10, 100, 500),
    measures=(DISTANCE_OVER_MOVED.name,),
    lr=1e-3,
)

SPAN = Claim(
    id="S4c.real.1",
    says="The nonzero gradients of a trained network span more binades (from the .5 % to the 99.5 % quantile) than "
    "the 15.5 "
    "that a float16 second moment has room for at β₂ = .999: no single s serves all of them.",
    predicted=15.5,
    relation=Relation.AT_LEAST,
)


def _further(study: Study, run: Path) -> pd.DataFrame:
    from .spectra import further

    return further(study, run)


def _presentation(study: Study) -> Presentation:
    from .presentation import RealGradients

    return RealGradients(study)


STUDY = Study(
    name="real-gradients",
    title="Gradients of networks that learn something",
    shows="where the gradients and second moments of a transformer and a digits classifier lie in every format's "
    "range, "
    "layer by layer, and what a scaled loss does to them in all seven policies",
    cost="42 min of processor time (61 s with --quick), 25 MB",
    grid=GRID,
    predictions=(
        Prediction(
            id="S5.real-gradients.1",
            quantity="identical_share",
            predicted=1.0,
            tolerance=0.0,
            applies=is_mapped,
            unjudged=out_of_range,
            moved=True,
            why="Loss × 2^k with mapped eps changes no bit of a real network either, where formats have float32’s "
            "exponents.",
        ),
        NULL_PAIRS,
        EPS_FREE_PAIRS,
        FLOOR_PAIRS,
    ),
    claims=(SPAN,),
    further=_further,
    presentation=_presentation,
)
