"""Shares of a run, by processes that know nothing of each other: the bytes are those of one process."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lossscale import studies
from lossscale.__main__ import main
from lossscale.runs import records, writers
from lossscale.runs.planning import Choices, planned_manifest
from lossscale.runs.run import run_share, run_study
from lossscale.runs.share import Share
from lossscale.support.errors import InputError
from lossscale.support.files import create_text
from lossscale.support.output import Output
from lossscale.support.provenance import Provenance

ROOT = Path(__file__).resolve().parents[2]
STUDY = studies.get("loss-vs-lr")
TYPED = ("--optimizer", "sgd", "--scale", "4", "--inits", "11", "--steps", "3", "--device", "cpu")
CHOICES = Choices(optimizers=("sgd",), scales=("4",), inits=11, steps=3, device="cpu", workers=1)
SHARDS = 2 * (1 + 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    run_study(STUDY, CHOICES, run, Output())
    assert len(list((run / records.PAIRS).glob("*.parquet"))) == SHARDS
    return run


def contents(run: Path) -> dict[str, bytes]:
    """The files of a run but for its page; of the manifest, what is not about the machine."""
    files = {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    manifest = json.loads(files.pop(records.MANIFEST))
    files.pop("report.html", None)
    return {**files, records.MANIFEST: json.dumps({**manifest, "provenance": {}, "nodes": []}).encode()}


def share(run: Path, text: str, **changes: Any) -> dict[str, Any]:
    return run_share(STUDY, dataclasses.replace(CHOICES, share=Share.parse(text), **changes), run, Output())


def finish(run: Path) -> None:
    run_study(STUDY, dataclasses.replace(CHOICES, resume=True), run, Output())


def test_shares_have_no_cohort_in_common_and_together_all() -> None:
    spec = planned_manifest(STUDY, CHOICES).run_spec
    assert spec is not None
    names = [cohort.name for cohort in spec.cohorts()]
    for count in (1, 2, 3, SHARDS, SHARDS + 2):
        shares = [[cohort.name for cohort in Share(index + 1, count).of(spec.cohorts())] for index in range(count)]
        assert sorted(itertools.chain(*shares)) == sorted(names)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("order", [("1/2", "2/2"), ("2/3", "2/3", "1/3", "2/2")])
def test_shares_and_a_resume_are_the_run_of_one_process(whole: Path, tmp_path: Path, order: tuple[str, ...]) -> None:
    for text in order:
        row = share(tmp_path, text)
        assert row["cohorts"] == len(range(int(text[0]) - 1, SHARDS, int(text[2])))
    assert not records.read_manifest(tmp_path).finished and not (tmp_path / records.SUMMARY).exists()
    finish(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_what_is_there_is_not_done_again(tmp_path: Path) -> None:
    share(tmp_path, "1/2")
    places = {path: path.stat().st_ino for path in (tmp_path / records.PAIRS).iterdir()}
    share(tmp_path, "1/2")
    share(tmp_path, "2/2")
    assert {path: path.stat().st_ino for path in places} == places


def test_a_half_written_shard_and_a_half_written_line_count_for_nothing(whole: Path, tmp_path: Path) -> None:
    share(tmp_path, "1/1")
    (kept,) = (tmp_path / writers.WRITERS).iterdir()
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:-1]) + lines[-1][:-9])
    damaged, *_ = sorted((tmp_path / records.PAIRS).iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-7])
    (tmp_path / records.PAIRS / f".{damaged.name}.0123abcd.tmp").write_bytes(b"PAR1")
    spec = planned_manifest(STUDY, CHOICES).run_spec
    assert spec is not None
    assert len(records.whole_shards(tmp_path, spec.cohorts())) == SHARDS - 2
    finish(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_one_of_many_makes_a_file_and_it_is_whole(tmp_path: Path) -> None:
    texts = [str(index) * 100_000 for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda text: create_text(tmp_path / "file", text), texts))
    assert made.count(True) == 1 and (tmp_path / "file").read_text() == texts[made.index(True)]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_nodes_of_a_run_are_recorded(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share(tmp_path, "1/2")
    as_dict = Provenance.as_dict
    monkeypatch.setattr(Provenance, "as_dict", lambda self: {**as_dict(self), "processor": "another"})
    share(tmp_path, "2/2")
    monkeypatch.undo()
    finish(tmp_path)
    manifest = records.read_manifest(tmp_path)
    assert manifest.nodes == [{**manifest.provenance, "processor": "another"}]
    assert records.read_manifest(whole).nodes == []
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize("name", ["cpu_capability", "torch_build", "sources"])
def test_a_share_of_another_kind_of_machine_is_refused(tmp_path: Path, name: str) -> None:
    share(tmp_path, "1/2")
    document = json.loads((tmp_path / records.MANIFEST).read_text())
    document["resume_key"][name] = "another"
    (tmp_path / records.MANIFEST).write_text(json.dumps(document))
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"^--shard .* was begun with {name} another, here it is .*: the bits would"):
        share(tmp_path, "2/2")
    assert contents(tmp_path) == before


def test_lines_of_another_kind_of_machine_are_refused(tmp_path: Path) -> None:
    share(tmp_path, "1/2")
    (kept,) = (tmp_path / writers.WRITERS).iterdir()
    kept.write_text(kept.read_text().replace('"cpu_capability": "', '"cpu_capability": "X'))
    with pytest.raises(InputError, match=f"{kept.name}: tells of shards made on another kind of machine"):
        finish(tmp_path)


def test_a_share_of_another_run_is_refused(tmp_path: Path) -> None:
    share(tmp_path, "1/2")
    with pytest.raises(InputError, match="seed 0 instead of 1"):
        share(tmp_path, "2/2", seed=1)


def test_a_share_of_a_finished_run_changes_nothing(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(whole)
    assert main(["run", "loss-vs-lr", *TYPED, "--shard", "1/2", "--out", str(whole), "--json"]) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)["rows"]
    assert row == {"study": "loss-vs-lr", "shard": "1/2", "cohorts": 4, "pairs": (11 + 4 + 3 + 4) * 8}
    assert "the run is finished" in captured.err
    assert contents(whole) == before


def test_shards_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    share(tmp_path, "1/2")
    before = contents(tmp_path)
    (tmp_path / records.PAIRS).rename(tmp_path / "elsewhere")
    (tmp_path / records.PAIRS).write_text("in the way")
    assert main(["run", "loss-vs-lr", *TYPED, "--shard", "2/2", "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: --out {tmp_path / records.PAIRS}: cannot be written")
    (tmp_path / records.PAIRS).unlink()
    (tmp_path / "elsewhere").rename(tmp_path / records.PAIRS)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--resume",), "a share goes on by itself, and --resume finishes the whole run; leave one of the two out"),
        (("--strict",), "a share has no verdicts for --strict to judge; give that with the --resume that finishes"),
    ],
)
def test_a_share_takes_no_option_of_the_whole_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    assert main(["run", "loss-vs-lr", *TYPED, "--shard", "1/2", *options, "--out", str(tmp_path / "run")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: --shard 1/2: {words}") and captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_all_studies_in_shares_leave_scripts_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("lossscale.runs.run.run_share", lambda study, *rest, **more: asked.append(study.name) or {})
    assert main(["run", "all", "--quick", "--device", "cpu", "--shard", "1/2", "--out", str(tmp_path)]) == 0
    assert asked == [study.name for study in studies.every() if study.grid is not None]


def kubernetes_script(job: int) -> str:
    """What the container of the ``job``-th job of the file runs."""
    text = (ROOT / "examples" / "kubernetes_job.yaml").read_text().split("\n---\n")[job]
    block = text.partition("args:\n            - |\n")[2].partition("          env:")[0]
    return textwrap.dedent(block)


@pytest.mark.slow
def test_the_job_files_run_a_study_in_processes_at_once(whole: Path, tmp_path: Path) -> None:
    """Two Slurm tasks and the two pods of an indexed job at once in one directory: each share is done twice."""
    run = str(tmp_path / "run")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    paths = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    shared = {**os.environ, **paths, "OUT": run, "OMP_NUM_THREADS": "1"}
    slurm = ["bash", "examples/slurm_array.sh", "loss-vs-lr", *TYPED]
    pod = {**shared, "RUN": " ".join(["loss-vs-lr", *TYPED]), "SHARDS": "2"}
    started = [
        *(
            (slurm, {**shared, "PYTHON": sys.executable, "SLURM_ARRAY_TASK_ID": index, "SLURM_ARRAY_TASK_MAX": "2"})
            for index in ("1", "2")
        ),
        *((["bash", "-euc", kubernetes_script(0)], {**pod, "JOB_COMPLETION_INDEX": index}) for index in ("0", "1")),
    ]
    processes = [
        subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for words, env in started
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert not (tmp_path / "run" / records.SUMMARY).exists()
    assert kubernetes_script(1) == 'exec python -m lossscale run $RUN --resume --out "$OUT"\n'
    last = subprocess.run(
        slurm, cwd=ROOT, env={**shared, "PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )
    assert last.returncode == 0, last.stderr
    assert contents(tmp_path / "run") == contents(whole)


def test_what_another_user_left_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lossscale.runs import lock, writers

    def refused(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(lock.os, "open", refused)
    with pytest.raises(InputError, match="cannot be written"), lock.locked(tmp_path):
        pass
    monkeypatch.undo()
    writer = writers.Writer(tmp_path, ({"cpu": "x"}, {"key": "y"}))

    def full(text: str) -> int:
        raise OSError(28, "No space left on device")

    writer._file.close()
    monkeypatch.setattr(writer, "_file", type("Full", (), {"write": staticmethod(full), "close": lambda self: None})())
    with pytest.raises(InputError, match="No space left"):
        writer.wrote("cohort", "0" * 64)


def test_foreign_lines_count_for_nothing(tmp_path: Path) -> None:
    from lossscale.runs import writers

    with writers.Writer(tmp_path, ({"cpu": "x"}, {"key": "y"})) as writer:
        writer.wrote("cohort", "0" * 64)
    (tmp_path / writers.WRITERS / "zz.jsonl").write_text('[]\n"x"\n5\nnull\n{"other": 1}\n')
    found = list(writers.read_writers(tmp_path))
    assert found[0].checksums == {"cohort": "0" * 64} and found[1].origins == [] and found[1].checksums == {}
