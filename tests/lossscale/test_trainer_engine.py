"""The trainer engine: the same snapshots and pairs however it is run, on any backend, in any parts."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import kernels
from lossscale import studies
from lossscale.__main__ import main
from lossscale.design.grid import NetworkInits, OptimizerSpec
from lossscale.design.policies import POLICIES, get_policy
from lossscale.design.spec import RunSpec
from lossscale.engines.arithmetic import ORDERED, TORCH
from lossscale.engines.batched import Batched
from lossscale.engines.engine import base_hyperparameters, engine_of, is_portable, run_cohort
from lossscale.engines.observer import Snapshot
from lossscale.engines.trainer import Trainer
from lossscale.runs import records
from lossscale.runs.sources import SOURCES
from lossscale.runs.summary import read_summary

GRID = studies.get(studies.DEFAULT).grid
assert GRID is not None
ADAM = OptimizerSpec(algorithm="adam", options=(("eps", 1e-3),))
SMALL = ("--optimizer", "adam:eps=1e-3", "--scale", "4", "--inits", "3", "--steps", "6", "--device", "cpu")
RUN = ("run", "loss-vs-lr", "--network", "mlp-6-6-1", *SMALL)
AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt,+sse4.2",
    "ATEN_CPU_CAPABILITY": "avx2",
}
needs_vectors = pytest.mark.skipif(
    bool(kernels.available_backends()["simd"]) or kernels.interpreter.ACTIVE, reason="needs vector code"
)


def spec_of(policy: str, *, size: int = 3, inits: int = 3, backend: str = "auto", engine: str = "trainer") -> RunSpec:
    plan = NetworkInits(network="mlp-6-6-1", inits=inits, cohort_inits=size, quick_inits=1)
    whole = RunSpec.of("loss-vs-lr", GRID, seed=0, device="cpu", backend=backend, engine=engine)
    return dataclasses.replace(
        whole, networks=(plan,), optimizers=(ADAM,), checkpoints=(1, 2, 9), scales=(0.25, 10.0), policies=(policy,)
    )


def snapshots(engine: Batched | Trainer, spec: RunSpec) -> Iterator[Snapshot]:
    (cohort,) = spec.cohorts()
    algorithm, base = kernels.get_algorithm("adam"), base_hyperparameters(ADAM, spec.lr)
    hyper = [member.hyperparameters(algorithm, base) for member in spec.family]
    return engine.advance(spec, cohort, get_policy(cohort.key.policy), hyper)


def tensors(now: Snapshot) -> dict[str, torch.Tensor]:
    values = {name: value for name, value in vars(now).items() if name != "step" and value is not None}
    return {**values.pop("state"), **values}


def pairs(spec: RunSpec) -> pd.DataFrame:
    cohorts = [pd.DataFrame(run_cohort(spec, cohort)) for cohort in spec.cohorts()]
    columns = ["init", "arm", "against", "scale", "step"]
    return pd.concat(cohorts).sort_values(columns).reset_index(drop=True)


def shards(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / records.PAIRS).glob("*.parquet")}


@needs_vectors
@pytest.mark.parametrize("policy", ["bf16-true", "fp16-mixed"])
def test_snapshots_have_the_same_bits_on_two_backends_and_in_any_parts(policy: str) -> None:
    there = [
        snapshots(Trainer(), spec_of(policy, backend="simd")),
        snapshots(Trainer(chunk=50), spec_of(policy, backend="simd")),
        snapshots(Trainer(), spec_of(policy, backend="reference")),
    ]
    steps = []
    for first, *others in zip(*there, strict=True):
        steps.append(first.step)
        for other in others:
            for name, tensor in tensors(first).items():
                assert kernels.bits.mismatches(tensor, tensors(other)[name]) == 0, (name, first.step)
    assert steps == [1, 2, 9]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_snapshot_is_what_the_batched_engine_would_show(policy: str) -> None:
    """In fp32 up to rounding; in every policy in the formats that it says."""
    formats, spec = get_policy(policy), spec_of(policy)
    for ours, theirs in zip(snapshots(Trainer(), spec), snapshots(Batched(), spec_of("fp32")), strict=True):
        mine, other = tensors(ours), tensors(theirs)
        assert ours.step == theirs.step and mine.keys() == other.keys()
        dtypes = {name: kernels.DTYPES[getattr(formats, role)].torch for name, role in
                  {"initial": "params", "before": "params", "params": "params", "grads": "grads"}.items()}  # fmt: skip
        assert all(mine[name].dtype == dtype for name, dtype in dtypes.items())
        assert all(tensor.dtype == kernels.DTYPES[formats.state].torch for tensor in ours.state.values())
        assert all(mine[name].shape == other[name].shape for name in mine)
        if policy == "fp32":
            for name in mine:
                torch.testing.assert_close(mine[name], other[name], rtol=1e-4, atol=1e-6)
        if ours.step == 1:
            assert torch.equal(ours.before, ours.initial) and not torch.equal(ours.params, ours.before)


def test_the_ulp_arm_moves_one_unit_of_the_parameters_format() -> None:
    spec = spec_of("bf16-true")
    first = next(snapshots(Trainer(), spec))
    members = [member.name for member in spec.family]
    families = first.initial.view(3, len(members), -1)
    moved = kernels.bits.ulp_distance(families[:, 0], families[:, members.index("ulp")])
    assert torch.equal(moved, torch.ones_like(moved))


@pytest.mark.parametrize("policy", ["fp32", "bf16-true"])
def test_pairs_do_not_depend_on_the_cohorts_size(policy: str) -> None:
    whole = pairs(spec_of(policy, inits=5, size=5))
    for size in (1, 2, 7):
        pd.testing.assert_frame_equal(pairs(spec_of(policy, inits=5, size=size)), whole, check_exact=True)


@pytest.mark.cuda
@pytest.mark.parametrize("policy", POLICIES)
def test_pairs_on_cuda_are_those_of_a_cpu(policy: str) -> None:
    spec = spec_of(policy)
    pd.testing.assert_frame_equal(pairs(dataclasses.replace(spec, device="cuda")), pairs(spec), check_exact=True)


@pytest.mark.parametrize("policy", POLICIES)
def test_null_pairs_are_identical_in_every_policy(policy: str) -> None:
    found = pairs(spec_of(policy))
    assert found[found["arm"] == "null"]["identical"].all()
    mapped = found[(found["arm"] == "mapped") & (found["scale"] == 0.25)]
    assert mapped["identical"].all() or not get_policy(policy).shifts_exactly
    assert mapped["state_identical"].all() or not get_policy(policy).shifts_exactly


def test_auto_takes_the_first_engine_that_runs_a_policy() -> None:
    spec = spec_of("fp32", engine="auto")
    assert {engine_of(spec, name, "mlp-6-6-1").name for name in POLICIES} == {"trainer"}
    assert engine_of(spec, "fp32", "mlp-64-32-10").name == "batched"
    assert is_portable(spec) and is_portable(spec_of("bf16-true", engine="auto"))
    assert not is_portable(dataclasses.replace(spec, networks=GRID.networks))
    assert RunSpec.from_dict(spec_of("fp32").as_dict()).engine == "trainer"
    before = {name: value for name, value in spec.as_dict().items() if name != "engine"}
    assert RunSpec.from_dict(before).engine == "batched"


def test_sums_in_order_are_sums() -> None:
    rows = torch.randn(7, 5, 49, dtype=torch.float64)
    torch.testing.assert_close(ORDERED.norm(rows), TORCH.norm(rows), rtol=1e-14, atol=0)
    assert torch.equal(ORDERED.norm(rows[:, :, :1]), rows[:, :, 0].abs())
    rows[rows.abs() < 0.3] = torch.nan
    rows[0, 0] = torch.nan
    levels = (0.0, 0.05, 0.5, 0.95, 1.0)
    torch.testing.assert_close(
        ORDERED.quantiles(rows, levels), TORCH.quantiles(rows, levels), rtol=1e-13, atol=1e-15, equal_nan=True
    )


def test_a_run_is_resumed_on_another_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A shard is lost and the manifest is one of another CPU and backend: the same bytes all the same."""
    run = tmp_path / "run"
    command = [*RUN, "--policy", "bf16-true", "--policy", "bf16-mixed", "--out", str(run)]
    assert main(command) == 0
    assert "bf16-mixed" in capsys.readouterr().out
    whole, summary = shards(run), (run / records.SUMMARY).read_bytes()
    assert len(whole) == 2
    next((run / records.PAIRS).glob("*.parquet")).unlink()
    manifest = json.loads((run / records.MANIFEST).read_text())
    assert manifest["spec"]["engine"] == "trainer" and set(manifest["resume_key"]) == {"torch_build", "sources"}
    manifest["spec"].update(device="cuda", backend="triton")
    (run / records.MANIFEST).write_text(json.dumps({**manifest, "finished": False}))
    assert main([*command, "--resume", "--backend", "reference"]) == 0
    assert shards(run) == whole and (run / records.SUMMARY).read_bytes() == summary
    assert main([*RUN, "--policy", "bf16-true", "--out", str(run)]) == 2
    assert main([*RUN, "--engine", "trainer", "--out", str(run)]) == 2


def test_a_batched_run_says_so_and_an_older_one_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Manifests of before there was a choice name no engine: they are batched ones."""
    run = tmp_path / "run"
    batched = [*RUN, "--engine", "batched"]
    assert main([*batched, "--out", str(run)]) == 0
    whole = shards(run)
    manifest = json.loads((run / records.MANIFEST).read_text())
    assert manifest["spec"].pop("engine") == "batched" and "cpu_capability" in manifest["resume_key"]
    (run / records.MANIFEST).write_text(json.dumps({**manifest, "finished": False}))
    next((run / records.PAIRS).glob("*.parquet")).unlink()
    assert main([*batched, "--resume", "--out", str(run)]) == 0
    assert shards(run) == whole
    capsys.readouterr()
    assert main([*RUN, "--resume", "--out", str(run)]) == 2
    assert "engine batched instead of trainer" in capsys.readouterr().err


def test_a_run_by_several_engines_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What auto takes for each policy and network is recorded; nothing joins a run that others began."""
    run, manifest = tmp_path / "run", tmp_path / "run" / records.MANIFEST
    both = ["run", "loss-vs-lr", *SMALL, "--inits", "1", "--out", str(run)]
    assert main(both) == 0
    found = records.read_manifest(run)
    assert found.spec is not None and found.run_spec is not None
    took = (("fp32", "mlp-6-6-1", "trainer"), ("fp32", "mlp-64-32-10", "batched"))
    assert found.run_spec.engines == took and found.spec["engine"] == "auto"
    assert [engine_of(found.run_spec, policy, network).name for policy, network, _ in took] == ["trainer", "batched"]
    swapped = [[policy, network, "batched"] for policy, network, _ in took]
    asked = records.Manifest(**{**vars(found), "spec": {**found.spec, "engines": swapped}}).run_spec
    assert asked is not None and engine_of(asked, "fp32", "mlp-6-6-1").name == "batched" and not is_portable(asked)
    for spec in ({**found.spec, "engines": swapped}, {**found.spec, "engine": "batched", "engines": []}):
        records.write_manifest(run, dataclasses.replace(found, spec=spec, finished=False))
        capsys.readouterr()
        assert main([*both, "--resume"]) == 2 and main(both) == 2
        assert "holds another run (engine" in capsys.readouterr().err
    # A finished run of before this was recorded is shown; a part of one is of other code.
    older = {name: value for name, value in found.spec.items() if name != "engines"}
    key = {**found.resume_key, SOURCES: "0123456789abcdef"}
    records.write_manifest(run, dataclasses.replace(found, spec=older, resume_key=key))
    assert main([*both, "--resume"]) == 0 and "made by an earlier version" in capsys.readouterr().out
    document = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**document, "finished": False}))
    assert main([*both, "--resume"]) == 2


def test_the_number_of_workers_and_the_cpu_do_not_show(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from lossscale import studies\n"
        "from lossscale.runs.planning import Choices; from lossscale.runs.run import run_study\n"
        "from lossscale.support.output import Output\n"
        "choices = Choices(policies=('bf16-state', 'fp32'), networks=('mlp-6-6-1',), engine='trainer', scales=('10',),"
        " optimizers=('adam',), inits=33, steps=20, device='cpu', workers=int(sys.argv[2]))\n"
        "if __name__ == '__main__':\n"
        "    run_study(studies.get('loss-vs-lr'), choices, Path(sys.argv[1]), Output())\n"
    )
    (tmp_path / "script.py").write_text(script)
    found = []
    for workers, capability in ((1, {}), (2, AVX2)):
        environment = {**os.environ, **capability}
        out = tmp_path / str(workers)
        command = [sys.executable, str(tmp_path / "script.py"), str(out), str(workers)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        found.append(out)
    assert shards(found[0]) == shards(found[1])
    assert pq.read_table(next((found[0] / records.PAIRS).glob("*.parquet"))).num_rows


def test_what_is_not_predicted_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    names = ("bf16-true", "bf16-mixed", "fp16-state")
    assert main([*RUN, *(word for name in names for word in ("--policy", name)), "--out", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "No prediction in fp16-state of equal bits at s = 2^k" in printed
    assert "No prediction in bf16-true, fp16-state of the first update" in printed
    lines = read_summary(run)
    judged = lines[lines["verdict"].isin(("holds", "fails"))].groupby(["policy", "quantity"])["arm"].agg(set).to_dict()
    exact, first = {"mapped", "null"}, {"loss"}
    assert judged == {
        **{(policy, "q99_distance_over_moved"): {"floor"} for policy in ("bf16-true", "bf16-mixed")},
        ("bf16-true", "identical_share"): exact,
        ("bf16-mixed", "identical_share"): exact,
        ("bf16-mixed", "update_norm_ratio"): first,
        ("fp16-state", "identical_share"): {"null"},
    }
    assert not (lines["verdict"] == "fails").any()
    not_judged = lines[lines["verdict"] == "not judged"]
    assert (
        set(not_judged["prediction"]) == {"S2.map.1", "S3.ratio.1", "S5.controls.4"}
        and (not_judged["reason"] != "").all()
    )
