"""The examples of the probe run, and show what they say."""

import csv
import logging
from pathlib import Path

import pytest

from tests.example_files import load


def test_the_csv_file_has_every_look(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lossscale.probe"):
        warned = load("probe_csv").main(["--steps", "250", "--every", "50", "--out", str(tmp_path / "probe.csv")])
    with (tmp_path / "probe.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted({int(row["step"]) for row in rows}) == [1, 50, 100, 150, 200, 250]
    assert {"group0/rho", "layer/0.weight/v_unchanged"} <= {row["name"] for row in rows}
    assert [word for word in ("lr · weight_decay", "did not change", "are lost") if word in " ".join(warned)] == [
        "lr · weight_decay",
        "did not change",
        "are lost",
    ]
    assert len(caplog.messages) == len(warned) == 3


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    load("probe_tensorboard").main(["--steps", "60", "--logdir", str(tmp_path)])
    assert list(tmp_path.iterdir())


def test_the_cost_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    load("probe_cost").main(["--width", "32", "--every", "20", "--turns", "2"])
    assert "the probe adds" in capsys.readouterr().out
