"""The trainer's kernels hold their models in registers: compiled for sm_80 and sm_90, nothing is spilled."""

import os

import pytest

from bench.machine_code.trainer import Trained, examine, trained

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"), reason="kernels are compiled here"
)


@pytest.mark.parametrize("arch", [pytest.param("sm_80", marks=pytest.mark.slow), "sm_90"])
@pytest.mark.parametrize("own", [False, True], ids=["scalars per block", "scalars per model"])
@pytest.mark.parametrize("optimistic", [False, True], ids=["plain", "optimistic"])
def test_nothing_is_spilled_and_everything_is_rounded_to_nearest(arch: str, own: bool, optimistic: bool) -> None:
    row = examine(Trained(arch=arch, own=own, optimistic=optimistic))
    assert row["verdict"] == "holds"
    assert 200 < row["registers"] <= 255, "49 parameters and 98 moments are in registers"


def test_two_states_of_16_bits_share_a_register() -> None:
    row = examine(Trained(arch="sm_90", policy="bf16-state"))
    assert row["verdict"] == "holds"


def test_every_policy_and_algorithm_is_examined() -> None:
    listed = list(trained(["sm_90"]))
    assert len({chosen.policy for chosen in listed}) == 7
    assert {chosen.algorithm for chosen in listed} == {"adam", "adamw", "sgd", "rmsprop", "adagrad"}
