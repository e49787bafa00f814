"""A run on one side against the same run on another: every cell, as bits."""

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.campaign import study


def table(**columns: object) -> pa.Table:
    names = pa.array(["adam", "sgd", "sgd"]).dictionary_encode()
    base = {
        "optimizer": names,
        "distance": [0.0, float("nan"), 1.5],
        "identical": [True, False, False],
        "step": [1, 2, 3],
    }
    return pa.table({**base, **columns})


def test_cells_are_compared_as_bits() -> None:
    assert study.differing_cells(table(), table()) == {}
    # -0 is another number than 0, and NaN the same as itself.
    assert study.differing_cells(table(), table(distance=[-0.0, float("nan"), 1.5])) == {"distance": 1}
    assert study.differing_cells(table(), table(step=[1, 2, 4], identical=[True, True, True])) == {
        "identical": 2,
        "step": 1,
    }
    assert study.differing_cells(table(), table(optimizer=["adam", "sgd", "sgd"])) == dict.fromkeys(
        table().column_names, 3
    )


def write(run: Path, **shards: pa.Table) -> Path:
    (run / "pairs").mkdir(parents=True)
    for name, rows in shards.items():
        pq.write_table(rows, run / "pairs" / f"{name}.parquet")
    return run


def test_runs_are_compared_shard_by_shard(tmp_path: Path) -> None:
    first = write(tmp_path / "a", x=table(), y=table())
    second = write(tmp_path / "b", x=table(step=[1, 2, 9]), z=table())
    found = study.compare_runs(first, second)
    assert found == {
        "shards": 2,
        "pairs": 3,
        "missing": ["y.parquet", "z.parquet"],
        "differing_cells": 1,
        "differing": {"step": 1},
    }
    study.write_pairs(first, tmp_path / "all.parquet")
    joined = pq.read_table(tmp_path / "all.parquet")
    assert joined.num_rows == 6 and joined["optimizer"].to_pylist() == ["adam", "sgd", "sgd"] * 2


def test_a_side_that_fails_says_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"side device ended with 2: error: --device tpu"):
        study.run_pairs(tmp_path, {"device": ("--device", "tpu")}, dry_run=True, deadline=time.monotonic() + 60)
