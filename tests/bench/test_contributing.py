"""What CONTRIBUTING.md calls one file or one entry is one file or one entry: each is done once."""

import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import kernels
from bench.__main__ import main
from bench.conformance import mutants, suite
from bench.conformance.mutants import Edit, Mutant
from bench.conformance.mutants import run as mutants_run
from bench.conformance.rows import Outcome
from bench.machine_code.variants import variants
from bench.optimizers import timed_options, titles
from bench.providers import Ours, Provider, registry
from bench.providers.foreign import Foreign
from bench.timing.clock import HostClock
from bench.timing.run import time_all, usual_providers
from bench.timing.workloads import cpu_steps, cuda_steps
from bench.workers import run_here

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lion() -> Iterator[kernels.Algorithm]:
    """The algorithm of tests/kernels/lion.py, registered by importing that one file, and gone afterwards."""
    spec = importlib.util.spec_from_file_location("lion_for_bench", ROOT / "tests" / "kernels" / "lion.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module.LION
    del kernels.ALGORITHMS["lion"]


def test_an_algorithm_gets_cases_timings_and_compiled_kernels(lion: kernels.Algorithm) -> None:
    assert "Lion" in titles() and timed_options("Lion") == {"lr": 1e-4}
    one = suite.entrant(Ours(recipe="native"), CPU, against=None, allowed=None, chosen=False)
    batches = suite.batches_of(one, suite.Selection(optimizers=["Lion"], quick=True), "cpu")
    done = run_here(batches, time.monotonic() + 60, lambda row: None)
    assert len(done.results) > 8 and done.not_run == 0
    # Pickle finds classes by name, and only those that `kernels` exports have one there.
    unlike = [row for row in done.results if row.outcome is not Outcome.IDENTICAL]
    assert all("cannot be pickled" in row.detail for row in unlike) and len(unlike) == 3
    sets = {"defaults", "lr=0.01", "lr=0.01 weight_decay=0.03", "lr=0.01 maximize=True"}
    assert {row.option_set for row in done.results} == sets
    assert {w.tensors.name for w in cuda_steps() if w.optimizer == "Lion"} >= {"2^26", "10000x64"}
    timed = [w for w in cpu_steps() if w.optimizer == "Lion"][:1]
    document = time_all(timed, lambda w: usual_providers(w, CPU), HostClock(), deadline=time.monotonic() + 60)
    rows = [(row["provider"], row["optimizer"], row["error"], row["differing_elements"]) for row in document["rows"]]
    assert rows == [("kernels-native", "Lion", "", 0)]
    assert len(variants(["sm_90"], ["lion"])) == 32


def test_a_provider_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    others: tuple[Provider, ...] = (
        *registry.OTHERS,
        Foreign(label="right", module="tests.bench.example_optimizers", classes={"SGD": "RightSGD"}),
    )
    monkeypatch.setattr(registry, "OTHERS", others)
    assert main(["list", "--device", "cpu", "--json"]) == 0
    listed = {row["provider"]: row["here"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert listed["right"] == "yes" and "right" in registry.default_names(CPU)
    chosen = ["--provider", "right", "--optimizer", "sgd"]
    against = ["--dtype", "fp32", "--against", "reference-foreach", "--quick", "--json"]
    assert main(["conform", *chosen, *against]) == 0
    claims = {cell["claim"] for cell in json.loads(capsys.readouterr().out)["claims"]}
    assert "identical to reference-foreach" in claims
    assert main(["time", "step", "--device", "cpu", *chosen, "--workload", "3x50", "--quick", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["provider"] == "right" and row["step_us"] > 0


def test_a_mutant_is_one_entry(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    entry = Mutant(
        name="lr-doubled",
        fault="the learning rate is doubled",
        optimizer="SGD",
        edits=(Edit(inside="sgd._eager_row", old="-hyper.lr", new="-2 * hyper.lr"),),
    )
    assert entry.name not in {mutant.name for mutant in mutants.MUTANTS}
    monkeypatch.setattr(mutants_run, "MUTANTS", (entry,))
    assert main(["conform", "--mutants", "--quick", "--optimizer", "sgd", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["mutant"], row["outcome"]) == ("lr-doubled", "killed")
