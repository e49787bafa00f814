"""A run on disk: manifest, shards of pairs, and the checksums that tell a whole shard from a damaged one.

``manifest.json`` holds the spec, so the cohorts of a run (and the names of its shards) follow from it. A shard is
written to a temporary file and renamed; its SHA-256 then goes into the writer's own file (`writers`), and from there,
when the run is finished, into ``checksums.json``. A shard without a matching checksum, because a kill came between the
two writes or because its bytes changed, counts as missing. No file holds a time, so equal runs are equal bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..design.measures import STANDARD, get_measure
from ..design.spec import CellKey, Cohort, RunSpec
from ..support.errors import InputError
from ..support.files import create_text, write_bytes, write_json
from ..support.output import to_json
from .writers import read_writers

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from ..engines.observer import Columns

SCHEMA_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
CHECKSUMS: Final = "checksums.json"
SUMMARY: Final = "summary.csv"
PAIRS: Final = "pairs"

_ROW_GROUP: Final = 1 << 13
"""Rows of a checkpoint from which on it is a row group of its own, so that it can be read without the others."""

_AT_ONCE: Final = 1 << 19
"""Rows of a cell that are read together; of more, one checkpoint at a time: about 0.5 KB a row while it is counted."""

_COORDINATES: Final = {
    **dict.fromkeys(("study", "network", "optimizer", "options", "recipe", "policy"), "string"),
    **{"init": "int32", "arm": "string", "against": "string", "scale": "float64", "step": "int32", "params": "int32"},
}
"""Which pair a row is about: columns and their types. Its measures follow."""

COLUMNS: Final = (*_COORDINATES, *STANDARD)
"""The columns of the pairs files of a grid that names no measures of its own."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``manifest.json`` says.

    Attributes:
        study: name of the study.
        seed: random seed.
        spec: the grid that was run; None for a study with a script of its own.
        options: what else the user chose, of such a study.
        provenance: versions, machine, CPU capability, git revision, of the process that began the run.
        resume_key: what must agree for a resume.
        finished: whether everything was written.
        nodes: the other provenances under which shards were written; filled when the run is finished.
        schema_version: of the files beside it.
    """

    study: str
    seed: int
    spec: dict[str, Any] | None
    options: dict[str, Any]
    provenance: dict[str, Any]
    resume_key: dict[str, str]
    finished: bool = False
    nodes: list[dict[str, Any]] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION

    @property
    def run_spec(self) -> RunSpec | None:
        """The spec as a record."""
        return None if self.spec is None else RunSpec.from_dict(self.spec)

    def finish(self, provenances: Iterable[Mapping[str, Any]]) -> Manifest:
        """The manifest of the finished run, with each further provenance among those of its writers."""
        further = {to_json(dict(item)): dict(item) for item in (*self.nodes, *provenances) if item != self.provenance}
        return dataclasses.replace(self, finished=True, nodes=[further[text] for text in sorted(further)])


def write_manifest(run: Path, manifest: Manifest) -> None:
    """Writes the manifest whole."""
    write_json(run / MANIFEST, manifest)


def create_manifest(run: Path, manifest: Manifest) -> bool:
    """Writes the manifest whole if there is none, and returns whether there was none: one of several processes does."""
    return create_text(run / MANIFEST, to_json(manifest) + "\n")


def read_manifest(run: Path, argument: str = "RUN") -> Manifest:
    """Reads the manifest of a run.

    Raises:
        InputError: if there is none, or if it is not one that this version writes.
    """
    path = run / MANIFEST
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        remedy = f"holds no run (there is no readable {MANIFEST}); give the directory that `run` wrote"
        raise InputError(argument, run, remedy) from error
    except ValueError as error:
        raise InputError(argument, path, "is damaged; remove the directory and run the study again") from error
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise InputError(argument, path, f"is not of schema version {SCHEMA_VERSION}; run the study again")
    try:
        manifest = Manifest(**document)
        spec = manifest.run_spec
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(argument, path, "is damaged; remove the directory and run the study again") from error
    del spec
    return manifest


def shard_path(run: Path, cohort: Cohort) -> Path:
    """Where a cohort's pairs lie."""
    return run / PAIRS / f"{cohort.name}.parquet"


def shard_bytes(study: str, cohort: Cohort, columns: Columns) -> bytes:
    """A cohort's shard, a parquet file; the same pairs give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    # Checkpoints are outermost.
    group = int((columns["step"] == columns["step"][0]).sum()) if len(columns["step"]) else 0
    sized = {"row_group_size": group} if group >= _ROW_GROUP else {}
    pq.write_table(_table(study, cohort.key, columns), sink, compression="zstd", version="2.6", **sized)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def place_shard(run: Path, cohort: Cohort, data: bytes) -> str:
    """Writes a cohort's shard whole and returns its SHA-256."""
    write_bytes(shard_path(run, cohort), data)
    return digest_of(data)


def digest_of(data: bytes) -> str:
    """The SHA-256 by which a shard is known."""
    return hashlib.sha256(data).hexdigest()


def _table(study: str, key: CellKey, columns: Columns) -> pa.Table:
    import pyarrow as pa

    rows = len(columns["step"])
    constant: dict[str, str] = {"study": study, **vars(key)}
    kinds = {**_COORDINATES, **{name: get_measure(name).kind.value for name in columns if name not in _COORDINATES}}
    arrays: list[Any] = []
    for name, kind in kinds.items():
        if name in constant:
            arrays.append(pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([constant[name]])))
        elif kind == "string":
            arrays.append(pa.array(columns[name].tolist(), pa.string()).dictionary_encode())
        else:
            arrays.append(pa.array(columns[name], pa.type_for_alias(kind)))
    return pa.table(dict(zip(kinds, arrays, strict=True)))


def read_checksums(run: Path) -> dict[str, set[str]]:
    """SHA-256 of every shard that was written, by cohort name; empty when the files are missing or damaged.

    Processes with other versions of pyarrow write the same pairs as other bytes, so a shard may have several.
    """
    try:
        document = json.loads((run / CHECKSUMS).read_text())
    except (OSError, ValueError):
        document = None
    known = [document] if isinstance(document, dict) else []
    checksums: dict[str, set[str]] = {}
    for each in (*known, *(written.checksums for written in read_writers(run))):
        for name, value in each.items():
            checksums.setdefault(str(name), set()).add(str(value))
    return checksums


def write_checksums(run: Path, checksums: Mapping[str, str]) -> None:
    """Writes the checksums of a run whole, in the order of their names."""
    write_json(run / CHECKSUMS, dict(sorted(checksums.items())))


def whole_shards(run: Path, cohorts: Iterable[Cohort]) -> dict[str, str]:
    """SHA-256 of those cohorts' shards that are there and are what was written, by cohort name."""
    checksums = read_checksums(run)
    whole = {}
    for cohort in cohorts:
        if cohort.name in checksums:
            with contextlib.suppress(OSError):
                digest = _digest(shard_path(run, cohort))
                if digest in checksums[cohort.name]:
                    whole[cohort.name] = digest
    return whole


def check_shards(run: Path, cohorts: Sequence[Cohort], argument: str = "RUN") -> dict[str, str]:
    """Compares every cohort's shard with its checksum, and returns the checksums by cohort name.

    Raises:
        InputError: for the first shard that is missing or damaged.
    """
    whole = whole_shards(run, cohorts)
    for cohort in cohorts:
        if cohort.name not in whole:
            path = shard_path(run, cohort)
            state = "is damaged" if path.exists() else "is missing"
            raise InputError(argument, path, f"{state}; run the study again with --resume to redo this shard")
    return whole


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def iter_cells(
    run: Path, argument: str = "RUN", columns: Sequence[str] | None = None
) -> Iterator[tuple[CellKey, pd.DataFrame]]:
    """The pairs of a run, one (network, optimizer, options, recipe, policy) at a time.

    Args:
        run: its directory.
        argument: where its name came from.
        columns: which of the pairs' columns; None for all, and those that a run lacks are left out.

    Yields:
        The key, and its pairs, text columns as categories.

    Raises:
        InputError: for a missing or damaged shard, or a run without a grid.
    """
    for key, cohorts, _ in _cells(run, argument):
        yield key, read_cohorts(run, cohorts, argument, columns)


def iter_parts(run: Path, argument: str = "RUN") -> Iterator[tuple[CellKey, pd.DataFrame]]:
    """As `iter_cells`, but a cell of many pairs comes checkpoint by checkpoint, so that memory stays bounded."""
    for key, cohorts, spec in _cells(run, argument):
        rows = sum(cohort.kept for cohort in cohorts) * len(spec.pairings) * len(spec.checkpoints)
        if rows <= _AT_ONCE:
            yield key, read_cohorts(run, cohorts, argument)
            continue
        check_shards(run, cohorts, argument)
        for step in sorted(spec.checkpoints):
            yield key, _read(run, cohorts, step=step)


def _cells(run: Path, argument: str) -> Iterator[tuple[CellKey, list[Cohort], RunSpec]]:
    """Each key with its cohorts and what its network is run by."""
    spec = read_manifest(run, argument).run_spec
    if spec is None:
        return
    cells: dict[CellKey, list[Cohort]] = {}
    for cohort in spec.cohorts():
        cells.setdefault(cohort.key, []).append(cohort)
    for key, cohorts in cells.items():
        yield key, cohorts, spec.of_network(key.network)


def read_cohorts(
    run: Path, cohorts: Sequence[Cohort], argument: str = "RUN", columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """The pairs of these cohorts, text columns as categories.

    Raises:
        InputError: for a missing or damaged shard.
    """
    check_shards(run, cohorts, argument)
    return _read(run, cohorts, columns)


def _read(
    run: Path, cohorts: Sequence[Cohort], columns: Sequence[str] | None = None, step: int | None = None
) -> pd.DataFrame:
    """The pairs of whole shards, of one checkpoint or of all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    chosen = None if step is None else [("step", "=", step)]
    if columns is not None:
        there = set(pq.read_schema(shard_path(run, cohorts[0])).names)
        columns = [name for name in columns if name in there]
    paths = (shard_path(run, cohort) for cohort in cohorts)
    tables = [pq.read_table(path, columns=columns, filters=chosen) for path in paths]
    frame: pd.DataFrame = pa.concat_tables(tables).unify_dictionaries().to_pandas()
    return frame
