"""Shards, checksums and manifests."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from lossscale import studies
from lossscale.design.spec import Cohort, RunSpec
from lossscale.engines.engine import run_cohort
from lossscale.runs import records
from lossscale.runs.planning import Choices, planned_manifest
from lossscale.runs.records import Manifest
from lossscale.support.errors import InputError

CHOICES = Choices(optimizers=("sgd",), scales=("4",), inits=2, steps=2, device="cpu")


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
