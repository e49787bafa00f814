"""`bench time host`: what a step would send, without a GPU."""

import json

import pytest

from bench.__main__ import main
from bench.timing import trainer_cost


def test_time_host_counts_what_a_step_sends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", "host", "--quick", "--optimizer", "adamw", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {(row["recipe"], row["tensors"], row["gradients"]) for row in rows} == {
        (recipe, count, gradients)
        for recipe in ("foreach", "fused")
        for count in (1, 150)
        for gradients in ("stay", "new")
    }
    for row in rows:
        scalars, addresses = row["recipe"] == "foreach", row["gradients"] == "new"
        assert (row["launches"], row["scalars"], row["copies"]) == (1.0, 7 * scalars, addresses)
        assert row["bytes_copied"] == 8 * row["tensors"] * addresses
        assert min(row["host_us"], row["cpu_us"]) > 0 and row["torch_cpu_fused_us"] > 0


def test_an_optimizer_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", "host", "--optimizer", "adamv"]) == 2
    assert "--optimizer" in capsys.readouterr().err


def test_time_host_of_the_trainer_counts_what_a_run_asks_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Once more over the same steps nothing is sent, computed or waited for before the launch; nor afterwards."""
    assert main(["time", "host", "--trainer", "--quick", "--json"]) == 0
    rows = {(row["run"], row["scalars"]): row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert set(rows) == {(run, scalars) for run in trainer_cost.RUNS for scalars in ("per block", "per model")}
    for (run, scalars), row in rows.items():
        assert row["launches"] == 2 and row["waits"] == 0 and 0 < row["before_us"] < row["host_us"]
        sent = {"first": {"per block": 1, "per model": 5}, "again": {}, "on": {"per block": 1, "per model": 2}}
        assert row["copies"] == row["before"]["copies"] == sent[run].get(scalars, 0)
        # Marks; where scalars depend on steps and models, a quotient and its negative.
        calls = {"first": {"per block": 1, "per model": 3}, "again": {}, "on": {"per model": 2}}
        assert row["torch_calls"] == row["before"]["torch_calls"] == calls[run].get(scalars, 0)


def test_the_trainer_takes_no_optimizer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", "host", "--trainer", "--optimizer", "adamw"]) == 2
    assert "--optimizer adamw: --trainer" in capsys.readouterr().err
