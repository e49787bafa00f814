"""Slips in a study's grid are errors, not smaller grids."""

import dataclasses
from typing import Any

import pytest

from lossscale.design.grid import Grid, NetworkInits, OptimizerSpec
from lossscale.design.spec import RunSpec
from lossscale.support.errors import InputError

GRID = Grid(
    networks=(NetworkInits(network="mlp-6-6-1", inits=8, cohort_inits=8, quick_inits=8),),
    optimizers=(OptimizerSpec(algorithm="adam"),),
    scales=(0.5, 2.0),
)


def test_an_optimizer_may_train_some_networks_only() -> None:
    other = NetworkInits(network="mlp-64-32-10", inits=4, cohort_inits=4, quick_inits=4)
    only = OptimizerSpec(algorithm="sgd", networks=("mlp-64-32-10",))
    grid = dataclasses.replace(GRID, networks=(*GRID.networks, other), optimizers=(*GRID.optimizers, only))
    spec = RunSpec.of("toy", grid, seed=0, device="cpu", backend="auto")
    trained = [(cohort.key.network, cohort.key.optimizer) for cohort in spec.cohorts()]
    assert trained == [("mlp-6-6-1", "adam"), ("mlp-64-32-10", "adam"), ("mlp-64-32-10", "sgd")]
    assert spec.pairs == (8 + 4 + 4) * len(spec.pairings)
    assert RunSpec.from_dict(spec.as_dict()).optimizers == spec.optimizers
    assert "networks" not in spec.as_dict()["optimizers"][0]
    with pytest.raises(InputError, match="optimizers sgd: trains mlp-64-32-10 only"):
        dataclasses.replace(grid, networks=GRID.networks)


def test_an_arm_may_have_a_scale_of_its_own() -> None:
    grid = dataclasses.replace(GRID, arms=("floor", "mapped"), against=())
    family = RunSpec.of("toy", grid, seed=0, device="cpu", backend="auto").family
    assert [(member.name, member.scale) for member in family[1:]] == [("floor", 3.0), ("mapped", 0.5), ("mapped", 2.0)]
    assert family[1].loss_factor == 3.0


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
