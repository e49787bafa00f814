"""Shards, checksums and manifests."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from lossscale import studies
from lossscale.design.spec import Cohort, RunSpec
from lossscale.design.study import Study
from lossscale.engines.engine import run_cohort
from lossscale.runs import records
from lossscale.runs.planning import Choices, planned_manifest
from lossscale.runs.records import Manifest
from lossscale.runs.run import is_large
from lossscale.runs.summary import write_summary
from lossscale.support.errors import InputError

CHOICES = Choices(optimizers=("sgd",), scales=("4",), inits=2, steps=2, device="cpu")
CHECKPOINTS = (1, 2)


@pytest.fixture
def manifest() -> Manifest:
    return planned_manifest(studies.get("loss-vs-lr"), CHOICES)


@pytest.fixture
def spec(manifest: Manifest) -> RunSpec:
    spec = manifest.run_spec
    assert spec is not None
    return spec


@pytest.fixture
def run(tmp_path: Path, manifest: Manifest, spec: RunSpec) -> Path:
    records.write_manifest(tmp_path, manifest)
    checksums = {cohort.name: records.place_shard(tmp_path, cohort, shard(spec, cohort)) for cohort in spec.cohorts()}
    records.write_checksums(tmp_path, checksums)
    return tmp_path


def shard(spec: RunSpec, cohort: Cohort) -> bytes:
    return records.shard_bytes(spec.study, cohort, run_cohort(spec, cohort))


def first(spec: RunSpec) -> Cohort:
    return next(spec.cohorts())


def test_equal_pairs_are_equal_bytes(run: Path, spec: RunSpec, tmp_path: Path) -> None:
    cohort = first(spec)
    before = records.shard_path(run, cohort).read_bytes()
    digest = records.place_shard(tmp_path / "again", cohort, shard(spec, cohort))
    assert records.shard_path(tmp_path / "again", cohort).read_bytes() == before
    assert records.read_checksums(run)[cohort.name] == {digest}


def test_cells_come_back_as_they_were_written(run: Path, spec: RunSpec) -> None:
    cells = list(records.iter_cells(run))
    assert [key for key, _ in cells] == list(dict.fromkeys(cohort.key for cohort in spec.cohorts()))
    for key, frame in cells:
        assert tuple(frame.columns) == (*records.COLUMNS, "size_ratio", "distance_over_moved")
        assert set(frame["optimizer"]) == {key.optimizer} and set(frame["study"]) == {"loss-vs-lr"}
        cohorts = [cohort for cohort in spec.cohorts() if cohort.key == key]
        columns = run_cohort(spec, cohorts[0])
        own = frame[frame["init"].isin(set(columns["init"]))]
        for name, column in columns.items():
            np.testing.assert_array_equal(own[name].to_numpy(), column)
        assert {str(frame[name].dtype) for name in ("arm", "study", "options")} == {"category"}
        assert frame["init"].dtype == np.int32 and frame["max_ulp"].dtype == np.int64
        assert frame["identical"].dtype == np.bool_ and frame["scale"].dtype == np.float64


def test_a_cell_in_parts_has_the_same_pairs_and_the_same_summary(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = studies.get("loss-vs-lr")
    whole, at_once = list(records.iter_parts(run)), summary_of(run, study)
    monkeypatch.setattr(records, "_AT_ONCE", 1)
    parts: dict[Any, list[pd.DataFrame]] = {}
    for key, frame in records.iter_parts(run):
        assert frame["step"].nunique() == 1
        parts.setdefault(key, []).append(frame)
    for key, frame in whole:
        assert len(parts[key]) == len(CHECKPOINTS)
        together = pd.concat(parts[key]).sort_values(["step", "init"], kind="stable")
        pd.testing.assert_frame_equal(
            together.reset_index(drop=True), frame.sort_values(["step", "init"], kind="stable").reset_index(drop=True)
        )
    assert summary_of(run, study) == at_once


def summary_of(run: Path, study: Study) -> str:
    write_summary(run, study)
    return (run / records.SUMMARY).read_text()


def test_checkpoints_of_a_large_shard_are_row_groups(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_ROW_GROUP", 1)
    file = pq.ParquetFile(io.BytesIO(shard(spec, first(spec))))
    steps = [file.read_row_group(k, ["step"])["step"].unique().to_pylist() for k in range(file.num_row_groups)]
    assert steps == [[step] for step in CHECKPOINTS]


def test_cells_of_some_columns(run: Path) -> None:
    (frame, *_) = (frame for _, frame in records.iter_cells(run, columns=("step", "identical", "no_such")))
    assert list(frame.columns) == ["step", "identical"]


def test_many_initialisations_make_large_cohorts_where_bits_do_not_depend_on_them() -> None:
    def sizes(inits: int, engine: str) -> dict[str, int]:
        choices = dataclasses.replace(CHOICES, inits=inits, engine=engine, networks=("mlp-6-6-1",))
        planned = planned_manifest(studies.get("loss-vs-lr"), choices).run_spec
        assert planned is not None
        return {network.network: network.cohort_inits for network in planned.networks}

    members = len(planned_manifest(studies.get("loss-vs-lr"), CHOICES).run_spec.family)  # type: ignore[union-attr]
    assert sizes(2048, "trainer") == sizes(1_000_000, "batched") == sizes(3, "batched") == {"mlp-6-6-1": 128}
    assert sizes(3, "trainer") == {"mlp-6-6-1": 3}, "none fills up the last"
    assert sizes(100_000, "trainer") == {"mlp-6-6-1": 100_000 // 64 + 1}
    assert sizes(1_000_000, "trainer") == {"mlp-6-6-1": 16_384 // members}


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing", "other"])
def test_a_damaged_shard_is_found(run: Path, spec: RunSpec, damage: str) -> None:
    cohort = first(spec)
    path = records.shard_path(run, cohort)
    whole = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "other":
        path.write_bytes(b"".join(records.shard_path(run, other).read_bytes() for other in list(spec.cohorts())[1:2]))
    else:
        whole[len(whole) // 2] ^= 1
        path.write_bytes({"flip": bytes(whole), "cut": bytes(whole[:-9]), "empty": b""}[damage])
    assert cohort.name not in records.whole_shards(run, spec.cohorts())
    with pytest.raises(InputError, match="--resume") as caught:
        list(records.iter_cells(run))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_shard_without_checksum_counts_as_missing(run: Path, spec: RunSpec) -> None:
    (run / records.CHECKSUMS).write_text("{")
    assert records.read_checksums(run) == {}
    assert records.whole_shards(run, spec.cohorts()) == {}


def test_manifest_round_trip(run: Path, manifest: Manifest) -> None:
    assert records.read_manifest(run) == manifest
    document = json.loads((run / records.MANIFEST).read_text())
    assert document["seed"] == 0 and document["spec"]["checkpoints"] == [1, 2]
    assert {"cpu_capability", "git_revision", "packages", "python"} <= set(document["provenance"])
    assert "time" not in json.dumps(document)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 99}', '{"study": "x"}'])
def test_a_manifest_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / records.MANIFEST).write_text(text)
    with pytest.raises(InputError) as caught:
        records.read_manifest(tmp_path)
    assert caught.value.argument == "RUN"


def test_a_directory_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        records.read_manifest(tmp_path)
    with pytest.raises(InputError, match="holds no run"):
        list(records.iter_cells(tmp_path / "nowhere"))


def test_a_script_has_no_cells(tmp_path: Path, manifest: Manifest) -> None:
    records.write_manifest(tmp_path, dataclasses.replace(manifest, spec=None))
    assert list(records.iter_cells(tmp_path)) == []


def test_a_large_run_is_told_by_its_pairs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_large(run)
    monkeypatch.setattr("lossscale.runs.run.LARGE_RUN", 1)
    assert is_large(run)
