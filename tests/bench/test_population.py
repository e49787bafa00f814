"""Whole runs have the recorded bits with every kind of vector, and torch.optim repeats them from their gradients."""

import csv
import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.__main__ import main
from bench.timing.population import bits, chain, growth, run
from bench.timing.population.ours import ours
from bench.timing.population.peers import Peer, agree, time_peer
from bench.timing.population.problem import NETWORK, Problem, of_width, problem
from kernels import available_backends, interpreter
from lossscale.engines.given import GIVEN

ROOT = Path(__file__).resolve().parents[2]
HASWELL = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt,+sse4.2",
    "ATEN_CPU_CAPABILITY": "avx2",
}
CASES = [case for case in bits.cases() if case.algorithm == "adam" or case.policy == "fp32"]
needs_vectors = pytest.mark.skipif(
    bool(available_backends()["simd"]) or interpreter.ACTIVE, reason="1,024 models × 200 steps take vector code"
)


@needs_vectors
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_recorded_bits(case: bits.Case) -> None:
    row = bits.compare_case(case, "cpu", json.loads(bits.EXPECTED.read_text()))
    assert row["outcome"] == "equal", row


@pytest.mark.slow
@needs_vectors
def test_avx2_has_the_same_bits() -> None:
    script = (
        "import json; from bench.timing.population import bits; expected = json.loads(bits.EXPECTED.read_text())\n"
        "print([c.name for c in bits.cases() if bits.compare_case(c, 'cpu', expected)['outcome'] != 'equal'])"
    )
    environment = {**os.environ, **HASWELL, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert (found.returncode, found.stdout.strip()) == (0, "[]"), found.stderr


@needs_vectors
@pytest.mark.parametrize("link", list(chain.links("cpu")), ids=lambda link: link.name)
def test_torch_repeats_a_run_from_its_gradients(link: chain.Link) -> None:
    row = chain.replay(link, "cpu", models=512, steps=200)
    assert row["outcome"] == "equal", row
    assert row["mean_move"] > 0


def test_names_are_recorded_once() -> None:
    names = [case.name for case in bits.cases()]
    assert len(set(names)) == len(names)
    assert set(json.loads(bits.EXPECTED.read_text())) == set(names)


EVERYBODY = [peer for peer in run.everybody("cpu") if not peer.missing]


@pytest.mark.parametrize("peer", EVERYBODY, ids=lambda peer: peer.engine)
def test_everybody_computes_the_same(peer: Peer) -> None:
    """Who can with a learning rate and an eps of every model's own, the others with one for all."""
    row = agree(peer, problem(models=64, steps=20))
    assert row["outcome"] == "agrees", row
    assert row["relative_difference_of_99_percent"] < 1e-5


@pytest.mark.parametrize("engine", GIVEN)
def test_engines_train_wider_networks(engine: str) -> None:
    peer = next(peer for peer in EVERYBODY if peer.engine == f"{engine} engine")
    assert agree(peer, problem(models=16, steps=20, network=of_width(10)))["outcome"] == "agrees"


def wrong_peer(change: Callable[[Problem], Problem], **fields: Any) -> Peer:
    """One that trains another problem than it is given."""
    right = next(ours("reference"))
    return Peer(provider="planted", engine="wrong", make=lambda given: right.make(change(given)), **fields)


class Faster(Problem):
    """A learning rate that is a twentieth too high."""

    @property
    def lr(self) -> list[float]:
        return [1.05 * lr for lr in super().lr]


def faster(given: Problem) -> Problem:
    return Faster(**vars(given))


def one_model_wrong_in_ten(given: Problem) -> Problem:
    params = given.params.clone()
    params[::10] *= 0.9
    return dataclasses.replace(given, params=params)


WRONG = {
    "a learning rate too high": faster,
    "one learning rate for all": Problem.alike,
    "a step left out": lambda given: dataclasses.replace(given, data=given.data[:-1]),
    "other beginnings of some": one_model_wrong_in_ten,
    "not a number": lambda given: dataclasses.replace(given, params=given.params * torch.nan),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_who_computes_something_else_is_refused_and_not_timed(
    change: Callable[[Problem], Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = next(ours("reference"))
    monkeypatch.setattr(run, "everybody", lambda device: (wrong_peer(change), right))
    document = run.run_sizes("cpu", lambda document: None, [(64, 20)], network=NETWORK, minutes=1)
    assert [row["outcome"] for row in document["agreement"]] == ["refused", "agrees"], document
    assert [row["provider"] for row in document["rows"]] == ["ours"]


def test_every_size_that_was_asked_for_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    early, late = next(ours("reference")), dataclasses.replace(next(ours("reference")), engine="late", early=False)
    monkeypatch.setattr(run, "everybody", lambda device: (early, late))
    sizes = [(8, 2), (16, 2), (24, 2)]
    document = run.run_sizes("cpu", lambda document: None, sizes, network=NETWORK, minutes=1)
    found = [(row["engine"], row["models"]) for row in document["rows"]]
    assert found == [(engine, models) for engine in (early.engine, "late") for models, _ in sizes]


def test_who_is_not_installed_has_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = wrong_peer(faster, missing="no distribution of that name")
    monkeypatch.setattr(run, "everybody", lambda device: (absent,))
    document = run.run_sizes("cpu", lambda document: None, [(64, 20)], network=NETWORK, minutes=1)
    (row,) = document["rows"]
    assert (row["outcome"], row["reason"], row["us_per_model_step"]) == ("not installed", absent.missing, None)
    assert document["not_offered"] == ["planted: no distribution of that name"]


def test_a_row_has_its_columns_and_says_what_is_per_model() -> None:
    loop = next(peer for peer in EVERYBODY if peer.engine == "loop over models")
    row = time_peer(loop, problem(models=64, steps=2), repeats=1, first_s=7.0)
    wanted = ("provider", "engine", "device", "network", "optimizer", "policy", "models", "steps")
    assert {*wanted, "us_per_model_step", "final_loss", "per_model"} <= set(row)
    assert row["models"] == 8, "the loop trains one family, whatever it is given"
    assert row["first_s"] >= 7.0
    fused = next(peer for peer in EVERYBODY if peer.engine.endswith("fused"))
    assert fused.own == ("s",)
    assert set(fused.given(problem(models=64, steps=2)).lr) == {1e-3}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--models", "12"], "--models 12: must be a multiple of 8"),
        (["--models", "0"], "--models 0: must be a multiple of 8"),
        (["--models", "8", "--models", "80000000000"], "give at most"),
        (["--steps", "0"], "--steps 0: must be at least 1"),
        (["--network", "mlp-6-0-1"], "--network mlp-6-0-1: give mlp-6-H-1"),
        (["--network", "mlp-64-32-10"], "--network mlp-64-32-10: give mlp-6-H-1"),
        (["--growth", "--models", "8"], "--growth with --models: has sizes of its own"),
        (["--dry-run", "--steps", "5"], "--dry-run with --steps: has sizes of its own"),
        (["--growth", "--out", "/no/such/folder"], "--out /no/such/folder: give a folder that exists"),
        (["--models", "8", "--out", "/no/such/a.json"], "--out /no/such/a.json: its folder does not exist"),
    ],
)
def test_sizes_that_cannot_be_had_are_refused(arguments: list[str], says: str, capsys: Any) -> None:
    assert main(["time", "population", "--device", "cpu", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_growth_is_a_table_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = next(ours("reference"))
    absent = wrong_peer(faster, missing="nowhere")
    monkeypatch.setattr(growth, "everybody", lambda device: (right, absent))
    sweep = dataclasses.replace(growth.SWEEPS[0], points=((8, 2, 6), (16, 2, 3)))
    document = growth.measure("cpu", minutes=1, sweeps=[sweep])
    assert document["errors"] == []
    rows = list(csv.DictReader(io.StringIO(growth.csv_text(document["rows"], document))))
    assert [(row["provider"], row["models"], row["network"], row["outcome"]) for row in rows] == [
        ("ours", "8", "mlp-6-6-1", "timed"),
        ("planted", "8", "mlp-6-6-1", "not installed"),
        ("ours", "16", "mlp-6-3-1", "timed"),
        ("planted", "16", "mlp-6-3-1", "not installed"),
    ]
    assert rows[0]["machine"] and rows[0]["day"] and float(rows[0]["cpu_us_per_model_step"]) > 0
    growth.draw(document["rows"], tmp_path / "growth.png", document)
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_a_stage_goes_on_after_a_failure_and_stops_at_the_limit() -> None:
    written: list[int] = []

    def fail() -> None:
        raise RuntimeError("no such device")

    report = run.Report(lambda document: written.append(len(document["rows"])), 60.0)
    report.stage("rows", [("one", lambda: 1), ("two", fail), ("three", lambda: [2, 3])])
    assert report.document["rows"] == [1, 2, 3]
    assert report.document["errors"][0]["item"] == "two"
    assert written == [1, 1, 3]
    late = run.Report(lambda document: None, 0.0)
    late.stage("rows", [("one", lambda: 1)])
    assert late.document["not_run"] == ["rows: one"]


@pytest.mark.cuda
@pytest.mark.parametrize("case", list(bits.cases()), ids=lambda case: case.name)
def test_a_gpu_has_the_recorded_bits(case: bits.Case) -> None:
    assert torch.cuda.is_available()
    row = bits.compare_case(case, "cuda", json.loads(bits.EXPECTED.read_text()))
    assert row["outcome"] == "equal", row


@pytest.mark.cuda
@pytest.mark.parametrize("link", list(chain.links("cuda")), ids=lambda link: link.name)
def test_torch_on_a_gpu_repeats_a_run(link: chain.Link) -> None:
    row = chain.replay(link, "cuda")
    assert row["outcome"] == "equal", row
