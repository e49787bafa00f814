"""The controls that a study carries: small networks trained in its policies, with nothing changed and all undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .claims import EPS_FREE, FLOOR, MAPPED, NULL, USELESS, Claim
from .grid import Grid, NetworkInits, OptimizerSpec
from .measures import DISTANCE_OVER_MOVED
from .policies import POLICIES
from .scales import is_power_of_two
from .study import Cell, Prediction

EPS_FREE_OPTIMIZER: Final = "adam_atan2"
EPS_FREE_SPEC: Final = OptimizerSpec(algorithm=EPS_FREE_OPTIMIZER, recipe="native")


def control_grid(policies: tuple[str, ...], optimizers: tuple[str, ...] = ("adam",), *, steps: int = 100) -> Grid:
    """1,024 pairs a cell of the 6-6-1 network: null, mapped, one ulp, the floor, and Adam-atan2 unmapped.

    Args:
        policies: in which it trains, those of the study.
        optimizers: beside Adam-atan2.
        steps: of training.
    """
    return Grid(
        networks=(NetworkInits(network="mlp-6-6-1", inits=1024, cohort_inits=128, quick_inits=128),),
        optimizers=(*(OptimizerSpec(algorithm=name) for name in optimizers), EPS_FREE_SPEC),
        scales=(2.0**-10, 2.0**4),
        arms=("null", "mapped", "loss", "ulp", "floor"),
        against=(),
        policies=policies,
        checkpoints=(steps,),
        measures=("moved_elements", DISTANCE_OVER_MOVED.name),
        engine="trainer",
    )


def out_of_range(policy: str) -> str:
    """Why equal bits at s = 2^k are not predicted in a policy; empty where they are."""
    if POLICIES[policy].shifts_exactly:
        return ""
    return "equal bits at s = 2^k, for numbers × 2^k leave the range of float16 and its five exponent bits"


def _no_floor(policy: str) -> str:
    if POLICIES[policy].shifts_exactly:
        return ""
    return "a floor, for numbers × 3 leave the range of float16"


def is_null(cell: Cell) -> bool:
    """Whether the cell has the null pairs."""
    return (cell.arm, cell.against) == ("null", "base")


def is_mapped(cell: Cell) -> bool:
    """Whether it has mapped pairs at a power of two."""
    return (cell.arm, cell.against) == ("mapped", "base") and is_power_of_two(cell.scale)


def is_eps_free(cell: Cell) -> bool:
    """Whether it has pairs of the optimizer without eps at a power of two, with nothing mapped."""
    return (
        (cell.arm, cell.against) == ("loss", "base")
        and cell.optimizer == EPS_FREE_OPTIMIZER
        and is_power_of_two(cell.scale)
    )


def is_floor(cell: Cell) -> bool:
    """Whether it has the pairs of the floor."""
    return (cell.arm, cell.against) == ("floor", "base")


def _same_bits(claim: Claim, applies: Callable[[Cell], bool], unjudged: Callable[[str], str]) -> Prediction:
    return Prediction(
        id=claim.id,
        quantity="identical_share",
        predicted=1.0,
        tolerance=0.0,
        applies=applies,
        unjudged=unjudged,
        moved=True,
        why=claim.says,
    )


NULL_PAIRS: Final = _same_bits(NULL, is_null, lambda policy: "")
MAPPED_PAIRS: Final = _same_bits(MAPPED, is_mapped, out_of_range)
EPS_FREE_PAIRS: Final = _same_bits(EPS_FREE, is_eps_free, out_of_range)
FLOOR_PAIRS: Final = Prediction(
    id=FLOOR.id,
    quantity=DISTANCE_OVER_MOVED.quantity_name,
    predicted=0.0,
    tolerance=USELESS,
    applies=is_floor,
    unjudged=_no_floor,
    moved=True,
    why=FLOOR.says,
)
CONTROLS: Final = (NULL_PAIRS, MAPPED_PAIRS, EPS_FREE_PAIRS, FLOOR_PAIRS)
"""What a control grid predicts. The one-ulp pair predicts nothing."""
