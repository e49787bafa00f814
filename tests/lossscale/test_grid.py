"""Slips in a study's grid are errors, not smaller grids."""

import dataclasses
from typing import Any

import pytest

from lossscale.design.grid import Grid, NetworkInits, OptimizerSpec
from lossscale.support.errors import InputError

GRID = Grid(
    networks=(NetworkInits(network="mlp-6-6-1", inits=8, cohort_inits=8, quick_inits=8),),
    optimizers=(OptimizerSpec(algorithm="adam"),),
    scales=(0.5, 2.0),
)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"scales": ()}, "scales .*: is empty"),
        ({"scales": (-1.0,)}, "scales -1.0: is no scale"),
        ({"scales": (2.0, 2.0)}, "scales 2.0: is given twice"),
        ({"arms": ("loss", "loss")}, "arms loss: is given twice"),
        ({"arms": ("loss", "lsos")}, "did you mean loss"),
        ({"against": (("loss", "nope"),)}, "arm nope: unknown"),
        ({"against": (("loss", "null"),)}, "pairs arms at equal scales"),
        ({"arms": ("base", "loss"), "against": (("loss", "lr"),)}, "loss:lr: names an arm that does not run"),
        ({"checkpoints": ()}, "checkpoints .*: is empty"),
        ({"checkpoints": (0, 1)}, "must be steps from 1 on"),
        ({"checkpoints": (10, 1)}, "must be steps from 1 on, ascending"),
    ],
)
def test_a_slip_is_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        dataclasses.replace(GRID, **change)
