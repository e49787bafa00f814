"""The controls that a study carries: small networks trained in its policies, with nothing changed and all undone."""

from __future__ import annotations

from typing import Final

from .claims import EPS_FREE, MAPPED, NULL
from .grid import Grid, NetworkInits, OptimizerSpec
from .policies import POLICIES
from .scales import is_power_of_two
from .study import Cell, Prediction

EPS_FREE_OPTIMIZER: Final = "adam_atan2"


def control_grid(policies: tuple[str, ...], optimizers: tuple[str, ...] = ("adam",)) -> Grid:
    """1,024 pairs a cell of the 6-6-1 network over 100 steps: null, mapped, one ulp, and Adam-atan2 unmapped.

    Args:
        policies: in which it trains, those of the study.
        optimizers: beside Adam-atan2.
    """
    return Grid(
        networks=(NetworkInits(network="mlp-6-6-1", inits=1024, cohort_inits=128, quick_inits=128),),
        optimizers=(
            *(OptimizerSpec(algorithm=name) for name in optimizers),
            OptimizerSpec(algorithm=EPS_FREE_OPTIMIZER, recipe="native"),
        ),
        scales=(2.0**-10, 2.0**4),
        arms=("null", "mapped", "loss", "ulp"),
        against=(),
        policies=policies,
        checkpoints=(100,),
        measures=("moved_elements",),
        engine="trainer",
    )


def out_of_range(policy: str) -> str:
    """Why equal bits at s = 2^k are not predicted in a policy; empty where they are."""
    if POLICIES[policy].shifts_exactly:
        return ""
    return "equal bits at s = 2^k, for numbers × 2^k leave the range of float16 and its five exponent bits"


def _null(cell: Cell) -> bool:
    return (cell.arm, cell.against) == ("null", "base")


def _mapped(cell: Cell) -> bool:
    return (cell.arm, cell.against) == ("mapped", "base") and is_power_of_two(cell.scale)


def _eps_free(cell: Cell) -> bool:
    return (
        (cell.arm, cell.against) == ("loss", "base")
        and cell.optimizer == EPS_FREE_OPTIMIZER
        and is_power_of_two(cell.scale)
    )


CONTROLS: Final = (
    Prediction(
        id=NULL.id, quantity="identical_share", predicted=1.0, tolerance=0.0, applies=_null, moved=True, why=NULL.says
    ),
    Prediction(
        id=MAPPED.id,
        quantity="identical_share",
        predicted=1.0,
        tolerance=0.0,
        applies=_mapped,
        unjudged=out_of_range,
        moved=True,
        why=MAPPED.says,
    ),
    Prediction(
        id=EPS_FREE.id,
        quantity="identical_share",
        predicted=1.0,
        tolerance=0.0,
        applies=_eps_free,
        unjudged=out_of_range,
        moved=True,
        why=EPS_FREE.says,
    ),
)
"""What a control grid predicts. The one-ulp pair predicts nothing."""
