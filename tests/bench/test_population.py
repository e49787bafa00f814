"""Whole runs have the recorded bits with every kind of vector, and torch.optim repeats them from their gradients."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.timing.population import bits, chain, peers, run
from bench.timing.population.problem import problem
from kernels import available_backends, interpreter

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


@pytest.mark.parametrize("peer", list(peers.torch_func()), ids=lambda peer: peer.engine)
def test_torch_func_computes_the_same(peer: peers.Peer) -> None:
    given = problem(models=64, steps=20)
    theirs = peers.time_peer(peer, given, repeats=1)
    ours = peers.time_peer(next(peers.ours("reference")), given, repeats=1)
    assert theirs["final_loss"] == pytest.approx(ours["final_loss"], rel=1e-5)


def test_who_computes_something_else_is_refused() -> None:
    def row(provider: str, loss: float) -> dict[str, Any]:
        return {"provider": provider, "engine": "e", "final_loss": loss}

    rows = [row("ours", -1.5), row("jax", -1.5004), row("torch", -1.6)]
    assert run.refused(rows) == {"torch, e"}
    assert [r["outcome"] for r in rows] == ["agrees", "agrees", "refused"]


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
