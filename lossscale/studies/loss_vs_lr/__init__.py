"""The default study: is a loss multiplied by s the same as a learning rate multiplied by s?"""

from __future__ import annotations

from ...design.controls import EPS_FREE_PAIRS, EPS_FREE_SPEC, FLOOR_PAIRS, NULL_PAIRS, is_mapped, out_of_range
from ...design.grid import Grid, NetworkInits, OptimizerSpec
from ...design.measures import DISTANCE_OVER_MOVED
from ...design.policies import POLICIES
from ...design.scales import is_power_of_two
from ...design.study import Cell, Prediction, Presentation, Study

ADAPTIVE = ("adam", "adamw", "rmsprop", "adagrad")
"""Optimizers that divide by the root of a second moment."""

GRID = Grid(
    networks=(
        NetworkInits(network="mlp-6-6-1", inits=128, cohort_inits=128, quick_inits=32),
        NetworkInits(network="mlp-64-32-10", inits=8, cohort_inits=4, quick_inits=2),
    ),
    optimizers=(
        OptimizerSpec(algorithm="sgd"),
        OptimizerSpec(algorithm="sgd", options=(("momentum", 0.9),)),
        *(OptimizerSpec(algorithm=name, options=options) for name in ADAPTIVE for options in ((), (("eps", 1e-3),))),
        EPS_FREE_SPEC,
    ),
    arms=("base", "loss", "lr", "mapped", "null", "ulp", "lr-ulp", "floor"),
    against=(("loss", "lr"), ("lr-ulp", "lr")),
    measures=("size_ratio", DISTANCE_OVER_MOVED.name),
    scales=tuple(sorted({1.0, *(10.0**k for k in (-4, -2, -1, 1, 2, 4)), *(2.0**k for k in (-12, -4, -1, 1, 4, 12))})),
)


def _sgd_loss_is_lr(cell: Cell) -> bool:
    undecayed = "weight_decay" not in cell.options
    return (
        cell.optimizer == "sgd"
        and undecayed
        and (cell.arm, cell.against) == ("loss", "lr")
        and is_power_of_two(cell.scale)
    )


def _first_adaptive_step(cell: Cell) -> bool:
    return cell.optimizer in ADAPTIVE and (cell.arm, cell.against) == ("loss", "base") and cell.step == 1


def _unbounded(policy: str) -> str:
    if POLICIES[policy].steps_in_fp32:
        return ""
    return "the first update, for the bound of its closed form is that of a step in float32"


def _presentation(study: Study) -> Presentation:
    from .presentation import Answers

    return Answers(study)


STUDY = Study(
    name="loss-vs-lr",
    title="loss × s against learning rate × s",
    shows="whether multiplying the loss by s changes training, whether it equals multiplying the learning rate by s, "
    "and which hyperparameters undo it bit for bit",
    cost="17 s of processor time (9 s with --quick), 38 MB",
    grid=GRID,
    predictions=(
        Prediction(
            id="S2.map.1",
            quantity="identical_share",
            predicted=1.0,
            tolerance=0.0,
            applies=is_mapped,
            unjudged=out_of_range,
            moved=True,
            why="Scaling by a power of two moves exponents only: with all hyperparameters mapped, no bit differs.",
        ),
        NULL_PAIRS,
        EPS_FREE_PAIRS,
        FLOOR_PAIRS,
        Prediction(
            id="S1.sgd.1",
            quantity="identical_share",
            predicted=1.0,
            tolerance=0.0,
            applies=_sgd_loss_is_lr,
            unjudged=out_of_range,
            moved=True,
            why="SGD without decay is linear in the gradient: loss × s and lr × s are one update, exact for s = 2^k.",
        ),
        Prediction(
            id="S3.ratio.1",
            quantity="update_norm_ratio",
            predicted="predicted_update_norm_ratio",
            tolerance="update_norm_ratio_tolerance",
            relative=True,
            applies=_first_adaptive_step,
            unjudged=_unbounded,
            why="eps left alone changes each element's first update by (1 + d)/(1 + d/s), d = eps/r; the norm follows.",
            limits="The update-norm ratio is judged pair by pair: an update is measured as the change of float32 "
            "parameters, so each pair’s tolerance is the bound that their rounding leaves, plus 5e-7 for the "
            "arithmetic of the step. Pairs that resolve less than 10 % are not judged.",
        ),
    ),
    presentation=_presentation,
)
