"""Where the gradients of networks that learn something lie in each format, and what a scaled loss does there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...design.claims import NULL, Claim, Relation
from ...design.grid import Grid, NetworkInits, OptimizerSpec
from ...design.policies import POLICIES
from ...design.scales import is_power_of_two
from ...design.study import Cell, Prediction, Presentation, Study

if TYPE_CHECKING:
    import pandas as pd

TRANSFORMER = "char-transformer"
DIGITS = "mlp-64-32-10"

GRID = Grid(
    networks=(
        NetworkInits(network=TRANSFORMER, inits=16, cohort_inits=8, quick_inits=1),
        NetworkInits(network=DIGITS, inits=1024, cohort_inits=32, quick_inits=32, last_step=100),
    ),
    optimizers=(OptimizerSpec(algorithm="adamw"),),
    scales=(2.0**-10, 3.0, 2.0**10),
    arms=("base", "loss", "mapped", "null", "ulp"),
    against=(),
    policies=tuple(POLICIES),
    checkpoints=(1, 10, 100, 500),
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


def _mapped(cell: Cell) -> bool:
    return (cell.arm, cell.against) == ("mapped", "base") and is_power_of_two(cell.scale)


def _null(cell: Cell) -> bool:
    return (cell.arm, cell.against) == ("null", "base")


def _inexact(policy: str) -> str:
    if POLICIES[policy].shifts_exactly:
        return ""
    return "equal bits at s = 2^k, for numbers × 2^k leave the range of float16 and its five exponent bits"


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
    cost="35 min of processor time, 30 MB",
    grid=GRID,
    predictions=(
        Prediction(
            id="S5.real-gradients.1",
            quantity="identical_share",
            predicted=1.0,
            tolerance=0.0,
            applies=_mapped,
            unjudged=_inexact,
            moved=True,
            why="Loss × 2^k with mapped eps changes no bit of a real network either, where formats have float32’s "
            "exponents.",
        ),
        Prediction(
            id=NULL.id,
            quantity="identical_share",
            predicted=1.0,
            tolerance=0.0,
            applies=_null,
            moved=True,
            why=NULL.says,
        ),
    ),
    claims=(SPAN,),
    further=_further,
    presentation=_presentation,
)
