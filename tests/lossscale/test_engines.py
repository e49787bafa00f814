"""Cohorts: arms, the identities that must be exact, padding, independence of what else runs."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import kernels
from lossscale import studies
from lossscale.design import arms, scales
from lossscale.design.arms import Member, get_arm
from lossscale.design.grid import NetworkInits, OptimizerSpec
from lossscale.design.policies import POLICIES
from lossscale.design.spec import Cohort, RunSpec
from lossscale.engines.engine import base_hyperparameters, choose_engine, run_cohort
from lossscale.engines.start import starting_points
from lossscale.support.errors import InputError

GRID = studies.get(studies.DEFAULT).grid
assert GRID is not None
optimizers = pytest.mark.parametrize("optimizer", GRID.optimizers, ids=lambda o: f"{o.algorithm}-{o.text}".strip("-"))


def spec_of(network: str, *optimizers: OptimizerSpec, inits: int = 2, size: int = 2, device: str = "cpu") -> RunSpec:
    plan = NetworkInits(network=network, inits=inits, cohort_inits=size, quick_inits=1)
    whole = RunSpec.of("loss-vs-lr", GRID, seed=0, device=device, backend="auto")
    return dataclasses.replace(whole, networks=(plan,), optimizers=optimizers, checkpoints=(1, 5, 30))


def run(spec: RunSpec, index: int = 0) -> pd.DataFrame:
    return pd.DataFrame(run_cohort(spec, list(spec.cohorts())[index]))


def check_identities(pairs: pd.DataFrame, *, sgd: bool) -> None:
    exact = pairs["scale"].map(scales.is_power_of_two)
    for arm, against, rows in (
        ("null", "base", exact),
        ("mapped", "base", exact),
        *([("loss", "lr", exact)] if sgd else []),
        *([("loss", "base", pairs["scale"] == 1)]),
    ):
        chosen = pairs[(pairs["arm"] == arm) & (pairs["against"] == against) & rows]
        assert len(chosen) and chosen["identical"].all(), (arm, against)
        assert chosen["state_identical"].all(), (arm, against)
        assert not chosen["differing_bits"].any() and not chosen["max_ulp"].any() and not chosen["rel_distance"].any()
        assert (chosen["moved"] > 0).all()
    assert not pairs[pairs["arm"] == "ulp"]["identical"].any()
    assert not pairs[(pairs["arm"] == "lr") & (pairs["scale"] != 1)]["identical"].any()


@pytest.mark.parametrize("network", ["mlp-6-6-1", "mlp-64-32-10"])
@optimizers
def test_exact_arms_are_exact(network: str, optimizer: OptimizerSpec) -> None:
    check_identities(run(spec_of(network, optimizer)), sgd=optimizer.algorithm == "sgd")


@pytest.mark.cuda
@pytest.mark.parametrize("network", ["mlp-6-6-1", "mlp-64-32-10"])
@optimizers
def test_exact_arms_are_exact_on_cuda(network: str, optimizer: OptimizerSpec) -> None:
    check_identities(run(spec_of(network, optimizer, device="cuda")), sgd=optimizer.algorithm == "sgd")


def test_the_loss_scale_shows_where_it_should() -> None:
    pairs = run(spec_of("mlp-6-6-1", OptimizerSpec(algorithm="adam", options=(("eps", 1e-3),))))
    last = pairs[pairs["step"] == 30].set_index(["arm", "against", "scale"])
    assert (last.loc[("loss", "base", 0.01)]["rel_distance"] > 0.01).all()
    assert (last.loc[("loss", "lr", 100.0)]["rel_distance"] > 0.1).all()
    first = pairs[(pairs["step"] == 1) & (pairs["arm"] == "loss") & (pairs["against"] == "base")]
    error = (first["update_norm_ratio"] / first["predicted_update_norm_ratio"] - 1).abs()
    assert (error <= first["update_norm_ratio_tolerance"]).all()
    assert pairs[pairs["step"] > 1]["predicted_update_norm_ratio"].isna().all()


def test_rows_and_columns_of_a_cohort() -> None:
    spec = spec_of("mlp-6-6-1", OptimizerSpec(algorithm="adagrad"))
    pairs = run(spec)
    scales = len(spec.scales)
    assert len(spec.family) == 1 + 3 + 4 * scales and len(spec.pairings) == 3 + 5 * scales
    assert len(pairs) == 3 * 2 * len(spec.pairings)
    assert not pairs.duplicated(["init", "arm", "against", "scale", "step"]).any()
    assert set(pairs["step"]) == {1, 5, 30} and set(pairs["init"]) == {0, 1}
    assert set(zip(pairs["arm"], pairs["against"], strict=True)) == {
        *((arm, "base") for arm in ("loss", "lr", "mapped", "null", "ulp", "floor")),
        ("loss", "lr"),
        ("lr-ulp", "lr"),
    }


def test_a_padded_cohort_gives_the_rows_of_a_full_one() -> None:
    optimizer = OptimizerSpec(algorithm="adam")
    full, padded = run(spec_of("mlp-6-6-1", optimizer, inits=4), 1), run(spec_of("mlp-6-6-1", optimizer, inits=3), 1)
    assert set(padded["init"]) == {2}
    pd.testing.assert_frame_equal(padded, full[full["init"] == 2].reset_index(drop=True), check_exact=True)


@pytest.mark.parametrize("network", ["mlp-6-6-1", "mlp-64-32-10"])
def test_a_family_does_not_depend_on_its_neighbours(network: str) -> None:
    spec = spec_of(network, OptimizerSpec(algorithm="rmsprop"), inits=3, size=3)
    cohort = next(spec.cohorts())
    one = pd.DataFrame(run_cohort(spec, cohort))
    other = pd.DataFrame(run_cohort(spec, dataclasses.replace(cohort, first=1)))
    shared = [frame[frame["init"] == 2].reset_index(drop=True) for frame in (one, other)]
    assert len(shared[0])
    pd.testing.assert_frame_equal(*shared, check_exact=True)


def test_steps_do_not_change_what_came_before() -> None:
    spec = spec_of("mlp-6-6-1", OptimizerSpec(algorithm="sgd"))
    short = run(dataclasses.replace(spec, checkpoints=(1, 5)))
    long = run(spec)
    pd.testing.assert_frame_equal(short, long[long["step"] <= 5].reset_index(drop=True), check_exact=True)


def test_overflow_is_recorded() -> None:
    spec = dataclasses.replace(spec_of("mlp-64-32-10", OptimizerSpec(algorithm="sgd")), scales=(2.0**100,))
    pairs = run(spec)
    burst = pairs[(pairs["arm"] == "loss") & (pairs["against"] == "base") & (pairs["step"] == 30)]
    assert (burst["nonfinite"] > 0).all() and not burst["identical"].any()
    assert not pairs[pairs["arm"] == "null"]["nonfinite"].any()


def test_arms_change_what_they_say() -> None:
    adam = kernels.get_algorithm("adam")
    base = base_hyperparameters(OptimizerSpec(algorithm="adam", options=(("eps", 1e-3),)), 0.01)
    assert (base.lr, base.eps) == (0.01, 1e-3)
    members = {name: Member(arm=get_arm(name), scale=4.0) for name in GRID.arms}
    assert members["lr"].hyperparameters(adam, base).lr == 0.04
    assert members["mapped"].hyperparameters(adam, base).eps == 4e-3
    assert members["loss"].hyperparameters(adam, base) == base
    factors = {name: member.loss_factor for name, member in members.items()}
    assert factors == {"base": 1, "loss": 4, "lr": 1, "mapped": 4, "null": 1, "ulp": 1, "lr-ulp": 1, "floor": 4}


def test_the_ulp_arm_moves_every_parameter_by_one_ulp() -> None:
    drawn = torch.tensor([[0.25, -1.0, 0.0] * 20])
    models = starting_points(drawn, [Member(arm=get_arm(name)) for name in ("base", "ulp", "null")], 0, range(1))
    assert torch.equal(models[0], drawn[0]) and torch.equal(models[2], drawn[0])
    moved = kernels.bits.ulp_distance(models[1], drawn[0])
    assert torch.equal(moved, torch.ones_like(moved))
    assert 10 < int((models[1] > drawn[0]).sum()) < 50


def test_a_large_enough_study() -> None:
    whole = RunSpec.of("loss-vs-lr", GRID, seed=0, device="cpu", backend="auto")
    assert whole.pairs > 50_000
    cohorts = list(whole.cohorts())
    assert len({cohort.name for cohort in cohorts}) == len(cohorts)
    assert sum(cohort.kept for cohort in cohorts) * len(whole.pairings) == whole.pairs
    assert all(cohort.size * len(whole.family) > 1 for cohort in cohorts)


def test_spec_survives_json() -> None:
    whole = RunSpec.of("loss-vs-lr", GRID, seed=5, device="cpu", backend="reference")
    again = RunSpec.from_dict(whole.as_dict())
    assert list(again.cohorts()) == list(whole.cohorts()) and again.as_dict() == whole.as_dict()
    assert again.family == whole.family and again.pairings == whole.pairings


@pytest.mark.parametrize("name", ["fp99", *(name for name in POLICIES if name != "fp32")])
def test_a_policy_that_the_engine_cannot_run_is_refused_by_the_engine(name: str) -> None:
    spec = spec_of("mlp-6-6-1", OptimizerSpec(algorithm="sgd"))
    spec = dataclasses.replace(spec, policies=(name,), engine="batched")
    for refuse in (lambda: choose_engine(spec, name, "mlp-6-6-1"), lambda: run(spec)):  # whoever let it through
        with pytest.raises(InputError, match=rf"^--policy {name}: .*fp32") as caught:
            refuse()
        assert "\n" not in str(caught.value)


def test_policies_speak_of_formats_that_kernels_know() -> None:
    assert list(POLICIES) == [
        "fp32",
        *(f"{kind}-{way}" for way in ("true", "mixed", "state") for kind in ("bf16", "fp16")),
    ]
    assert {name for policy in POLICIES.values() for name in vars(policy).values()} == set(kernels.DTYPES)
    assert {name: vars(policy) for name, policy in POLICIES.items()} == {
        name: vars(policy) for name, policy in kernels.POLICIES.items()
    }


def test_every_start_has_its_function() -> None:
    drawn = torch.ones(1, 60)
    for kind in arms.Start:
        member = Member(arm=arms.Arm(name="x", start=kind))
        assert torch.equal(starting_points(drawn, [member], 0, range(1)), drawn) == (kind is arms.Start.DRAWN)


def test_an_arm_with_a_policy_of_its_own_needs_an_engine_that_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    own = dataclasses.replace(get_arm("null"), name="narrow", policy="bf16-state")
    monkeypatch.setitem(arms.ARMS, "narrow", own)
    spec = dataclasses.replace(spec_of("mlp-6-6-1", OptimizerSpec(algorithm="sgd")), arms=("base", "narrow"))
    with pytest.raises(InputError, match=r"--policy bf16-state: .*state bf16"):
        run(spec)


def test_the_engine_looks_at_the_formats_of_a_policy_and_not_at_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, "mine", POLICIES["fp32"])
    monkeypatch.setitem(POLICIES, "masters", dataclasses.replace(POLICIES["fp32"], compute="bf16"))
    spec = spec_of("mlp-6-6-1", OptimizerSpec(algorithm="sgd"))
    assert len(run(dataclasses.replace(spec, policies=("mine",)))) == len(run(spec))
    with pytest.raises(InputError, match="compute bf16"):
        run(dataclasses.replace(spec, policies=("masters",), engine="batched"))


def test_engine_leaves_threads_alone() -> None:
    threads = torch.get_num_threads()
    spec = spec_of("mlp-6-6-1", OptimizerSpec(algorithm="sgd"))
    cohort = next(spec.cohorts())
    assert isinstance(cohort, Cohort)
    columns = run_cohort(dataclasses.replace(spec, checkpoints=(1,)), cohort)
    assert torch.get_num_threads() == threads
    assert {len(column) for column in columns.values()} == {len(columns["step"])}
    assert columns["init"].dtype == np.int32


def test_the_bound_covers_a_gradient_that_cancels() -> None:
    """In initialisation 24 one gradient is 2.8e-9, a tenth of the one under ten times the loss 3.2e-9."""
    spec = dataclasses.replace(
        spec_of("mlp-64-32-10", OptimizerSpec(algorithm="adam"), inits=26, size=2),
        scales=(10.0, 16.0, 100.0),
        arms=("base", "loss"),
        against=(),
        checkpoints=(1,),
    )
    pairs = run(spec, 12)
    pairs = pairs[pairs["init"] == 24].set_index("scale")
    error = (pairs["update_norm_ratio"] / pairs["predicted_update_norm_ratio"] - 1).abs()
    tolerance = pairs["update_norm_ratio_tolerance"]
    assert (error <= tolerance).all(), (error, tolerance)
    assert error[10.0] > 1e-5 and tolerance[10.0] < 1e-3
    assert tolerance[16.0] < 5e-6  # a power of two rounds nothing: the bound stays tight
