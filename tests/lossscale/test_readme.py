"""What README says of the default study, against the study's run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "runs" / "loss-vs-lr"
README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


@pytest.fixture(scope="module")
def printed() -> dict[str, Any]:
    """The table and sentences of the run that `make study` makes."""
    # The whole study takes longer than a test may: .ci/run makes it first, so that there these tests always run.
    if not (RUN / "summary.csv").exists():
        pytest.skip("needs runs/loss-vs-lr, which make study makes")
    command = [sys.executable, "-m", "lossscale", "run", "loss-vs-lr", "--out", str(RUN), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:  # somebody's own run with other choices: README speaks of the study's
        pytest.skip(f"runs/loss-vs-lr is another run: {done.stderr.strip()}")
    document: dict[str, Any] = json.loads(done.stdout)
    document["said"] = done.stderr
    return document


def test_the_table_is_what_the_study_prints(printed: dict[str, Any]) -> None:
    lines = README.split("```\nnetwork", 1)[1].split("```", 1)[0].splitlines()
    columns = re.split(r"\s{2,}", ("network" + lines[0]).strip())
    shown = [re.split(r"\s{2,}", line.strip()) for line in lines[1:] if line.startswith("mlp-")]
    rows = {(row["network"], row["optimizer"]): row for row in printed["rows"]}
    assert len(shown) >= 6
    for cells in shown:
        row = rows[cells[0], cells[1]]
        for column, cell in zip(columns, cells, strict=True):
            value = row[column]
            # Words and counts are those of every machine; distances are a batched product's, whose bits are a CPU's.
            same = cell == value if isinstance(value, str) else abs(float(cell) / value - 1) < 0.1
            assert same, (cells[:2], column, cell, value)


def test_the_sentences_are_what_the_study_says(printed: dict[str, Any]) -> None:
    said = " ".join(printed["said"].split())
    block = " ".join(README.split("```\nnetwork", 1)[1].split("```", 1)[0].split())
    for begin in ("Is it the same as multiplying the learning rate by s?", "Do hyperparameters mapped to"):
        ours, theirs = (text[text.index(begin) :] for text in (block, said))
        theirs = theirs[: len(ours)]
        assert NUMBER.sub("#", ours).split("#")[0] == NUMBER.sub("#", theirs).split("#")[0]
        for one, other in zip(NUMBER.findall(ours), NUMBER.findall(theirs), strict=False):
            a, b = (float(text.replace(",", "")) for text in (one, other))
            assert a == b or abs(a / b - 1) < 0.1, (begin, one, other)


def test_the_number_of_pairs_is_that_of_the_study() -> None:
    from lossscale.design.spec import RunSpec
    from lossscale.studies.loss_vs_lr import GRID

    pairs = RunSpec.of("loss-vs-lr", GRID, seed=0, device="cpu", backend="auto").pairs
    assert f"runs {pairs:,} pairs" in README
