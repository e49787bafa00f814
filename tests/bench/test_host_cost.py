"""`bench time host`: what a step would send, without a GPU."""

import json

import pytest

from bench.__main__ import main


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
