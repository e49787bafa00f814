"""GradScalers per model: torch's own, model by model, and runs of the module engine with them."""

import dataclasses

import pandas as pd
import pytest
import torch
from torch import Tensor

import kernels
from kernels import bits
from lossscale import studies
from lossscale.design.grid import NetworkInits, OptimizerSpec
from lossscale.design.policies import POLICIES, get_policy
from lossscale.design.spec import RunSpec
from lossscale.engines.engine import choose_engine, engine_of, run_cohort
from lossscale.engines.scaler import GROWTHS, INITIAL, Growth, Scalers
from lossscale.support.errors import InputError

GRID = studies.get(studies.DEFAULT).grid
assert GRID is not None
SGD = {"lr": 0.1, "momentum": 0.9}


def by_torch(start: Tensor, gradients: list[Tensor], growth: Growth, initial: float) -> tuple[Tensor, list[float]]:
    """One model under torch's GradScaler and SGD; ``gradients`` are those of the loss, not scaled."""
    model = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([model], **SGD)
    scaler = torch.amp.GradScaler(
        "cpu",
        init_scale=initial,
        growth_factor=growth.factor,
        backoff_factor=growth.backoff,
        growth_interval=growth.interval,
    )
    scales = []
    for gradient in gradients:
        optimizer.zero_grad()
        scaler.scale((model * gradient).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return model.detach(), scales


@pytest.mark.parametrize("initial", [INITIAL, 3.0, 2.0**127])
def test_each_model_has_torchs_scaler(initial: float) -> None:
    torch.manual_seed(0)
    growth, models, steps = Growth(interval=3), 5, 40
    gradients = torch.randn(steps, models, 17) * 0.1
    bad = torch.rand(steps, models) < torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0])
    gradients[:, :, 3] = torch.where(bad, torch.tensor([torch.inf, torch.nan]).repeat(steps // 2).unsqueeze(1), 0.5)
    start = torch.randn(models, 17)
    params = start.clone()
    population = kernels.Population("sgd", [kernels.get_algorithm("sgd").hyperparameters(**SGD)], params)
    scalers, scales = Scalers(models, growth, initial=initial), []
    for gradient in gradients:
        scaled = scalers.scale.unsqueeze(1) * gradient
        found = scalers.found_inf(scaled)
        population.step(scaled, grad_scale=scalers.scale, found_inf=found)
        scalers.update(found)
        scales.append(scalers.scale)
    for model in range(models):
        expected, theirs = by_torch(start[model], [*gradients[:, model]], growth, initial)
        assert bits.mismatches(params[model], expected) == 0
        assert [float(scale[model]) for scale in scales] == theirs
    assert len(set(population.steps.tolist())) >= 3 and int(population.steps[4]) == 0
    assert torch.equal(params[4], start[4])


def test_a_static_scale_stays() -> None:
    scalers = Scalers(2, GROWTHS["static"])
    for _ in range(3000):
        scalers.update(torch.tensor([1.0, 0.0]))
    assert scalers.scale.tolist() == [INITIAL, INITIAL]


def spec_of(scaler: str, *, policy: str = "fp16-mixed", engine: str = "auto", steps: int = 12) -> RunSpec:
    plan = NetworkInits(network="mlp-64-32-10", inits=2, cohort_inits=2, quick_inits=1)
    grid = dataclasses.replace(GRID, scaler=scaler, measures=("skipped",))
    whole = RunSpec.of("loss-vs-lr", grid, seed=0, device="cpu", backend="auto", engine=engine)
    adam = OptimizerSpec(algorithm="adam", options=(("eps", 1e-3),))
    return dataclasses.replace(
        whole, networks=(plan,), optimizers=(adam,), checkpoints=(1, steps), scales=(0.25, 2.0**8), policies=(policy,)
    )


def pairs(spec: RunSpec) -> pd.DataFrame:
    (cohort,) = spec.cohorts()
    found = pd.DataFrame(run_cohort(spec, cohort))
    return found[found["step"] == spec.steps].set_index(["arm", "against", "scale"]).sort_index()


def test_a_model_that_overflows_skips_alone_and_its_scale_falls() -> None:
    """Loss × 2^8 × 2^16 is beyond float16 until the scale has fallen; the others step from the first on."""
    found = pairs(spec_of("dynamic"))
    assert (found.loc[("loss", "base", 256.0), "skipped"] > 2).all()
    assert not found.loc[[("loss", "base", 0.25), ("null", "base", 1.0)], "skipped"].any()
    assert not found["nonfinite"].any() and found.loc[("null", "base"), "identical"].all()
    assert (found.loc[("loss", "base", 256.0), "moved"] > 0).all()
    assert found["eps_over_r_q50"].notna().all()
    static = pairs(spec_of("static"))
    assert (static.loc[("loss", "base", 256.0), "skipped"] == 12).all()
    assert (static.loc[("loss", "base", 256.0), "moved"] == 0).all()
    assert static.loc[("loss", "base", 0.25), "identical"].sum() < 2


def test_a_scaler_takes_underflow_away() -> None:
    """Gradients of loss × 2^-20 are 0 in float16 without it."""
    small = ("loss", "base", 2.0**-20)
    with_one, without = (
        pairs(dataclasses.replace(spec_of(scaler), scales=(2.0**-20,))).loc[small] for scaler in ("dynamic", "")
    )
    assert (with_one["moved"] > 0).all() and not without["moved"].any()
    assert not without["skipped"].any() and not with_one["skipped"].any()


def test_a_scaler_chooses_its_engine() -> None:
    for policy in POLICIES:
        spec = spec_of("dynamic", policy=policy)
        wanted = get_policy(policy).takes_scaler
        assert wanted == (policy == "fp16-mixed")
        name = engine_of(spec, policy, "mlp-6-6-1").name
        assert name == ("module" if wanted else "trainer")
    spec = dataclasses.replace(spec_of("dynamic", engine="trainer"), networks=())
    with pytest.raises(InputError, match=r"trainer: has no GradScaler, .* dynamic one in fp16-mixed; give --engine "):
        choose_engine(spec, "fp16-mixed", "mlp-6-6-1")
    with pytest.raises(InputError, match="grid: scaler dinamic: unknown; did you mean dynamic"):
        dataclasses.replace(GRID, scaler="dinamic")
    assert RunSpec.from_dict(spec.as_dict()) == spec
    document = spec_of("").as_dict()
    assert "scaler" not in document and RunSpec.from_dict(document).scaler == ""
