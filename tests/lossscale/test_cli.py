"""The commands: what they print, and every bad input as one line and exit code 2 with nothing written."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

import kernels
from lossscale import studies
from lossscale.__main__ import main
from lossscale.design.measures import MEASURES
from lossscale.runs import records
from lossscale.runs.lock import locked
from lossscale.runs.planning import Choices, parse_optimizer
from lossscale.runs.run import run_study
from lossscale.runs.trajectories import LEGEND
from lossscale.support import memory
from lossscale.support.output import Output

COST = r"\d+ (s|min) of processor time \(\d+ s with --quick\)(, \d+ MB)?"
SMALL = ("--optimizer", "adam", "--scale", "4", "--scale", "0.1", "--inits", "2", "--steps", "3", "--device", "cpu")
PAIR = "mlp-6-6-1/adam:eps=0.001/fp32/loss:base/4/1"

Failing = Callable[..., str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `SMALL`; tests that change it take a copy."""
    run = tmp_path_factory.mktemp("runs") / "small"
    assert main(["run", "loss-vs-lr", *SMALL, "--out", str(run)]) == 0
    return run


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Failing:
    """Runs a command that must exit 2 with one line on standard error, and returns the line."""

    def run(*argv: str) -> str:
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        assert code == 2 and captured.out == ""
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
        return captured.err

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), ("STUDY nothing", "loss-vs-lr", "all")),
        (
            ("real-gradients", "--network", "char-transformer", "--optimizer", "adam_atan2"),
            ("--optimizer adam_atan2", "trains mlp-64-32-10 only", "leave --network out"),
        ),
        (("loss-vs-lr", "--optimizer", "adm"), ("--optimizer adm", "did you mean adam?")),
        (("loss-vs-lr", "--optimizer", "ADM"), ("--optimizer ADM", "did you mean adam?")),
        (("loss-vs-lr", "--optimizer", "Adam-Atan3"), ("did you mean adam_atan2?",)),
        (("loss-vs-lr", "--optimizer", "adam:epsilon=1"), ("adam:epsilon=1", "eps")),
        (("loss-vs-lr", "--optimizer", "adam:eps=-1"), ("adam:eps=-1",)),
        (("loss-vs-lr", "--optimizer", "adam:eps=small"), ("'small'",)),
        (("loss-vs-lr", "--optimizer", "adam:eps=-1"), ("-1; give a number from 0 on",)),
        (("loss-vs-lr", "--optimizer", "sgd:nesterov=true"), ("give momentum above 0",)),
        *(
            (("loss-vs-lr", "--optimizer", f"adam:{option}"), (f"adam:{option}", "no finite float32 number; give"))
            for option in ("eps=inf", "lr=inf", "lr=nan", "weight_decay=-inf", "lr=1e39")
        ),
        (("loss-vs-lr", "--optimizer", "adam:lr=1e37"), ("--scale 100", "makes lr 1e+39")),
        (("loss-vs-lr", "--optimizer", "adam:eps=1,eps=2"), ("eps is given twice",)),
        (("loss-vs-lr", "--optimizer", "sgd:momentum=true"), ("'true' is no number",)),
        (("loss-vs-lr", "--optimizer", "adam:amsgrad=2"), ("give true or false",)),
        (("loss-vs-lr", "--optimizer", "adam:betas=0.9"), ("adam:betas=0.9", "more than one number")),
        (("loss-vs-lr", "--policy", "fp99"), ("--policy fp99", "fp32")),
        (
            ("loss-vs-lr", "--policy", "bf16-true", "--engine", "batched"),
            ("--policy bf16-true: the batched engine", "give fp32 or --engine trainer or --engine module"),
        ),
        (
            ("loss-vs-lr", "--engine", "trainer"),
            ("--engine trainer", "mlp-64-32-10; give --network mlp-6-6-1 or --engine batched or --engine module"),
        ),
        (("loss-vs-lr", "--engine", "trainor"), ("--engine trainor", "did you mean trainer?")),
        (("loss-vs-lr", "--network", "mlp-6-6"), ("--network mlp-6-6", "did you mean mlp-6-6-1?")),
        (("origin", "--network", "mlp-6-6-1"), ("--network mlp-6-6-1", "script")),
        (("origin", "--engine", "trainer"), ("--engine trainer", "script")),
        (("origin", "--shard", "1/2"), ("--shard 1/2", "script")),
        *(
            (("loss-vs-lr", "--shard", shard), (f"--shard {shard or repr('')}: is no share", "such as 1/4"))
            for shard in ("5/4", "0/4", "0/0", "1/0", "-1/4", "1", "1/4/2", "a/b", "1.5/4", "")
        ),
        *(
            (("loss-vs-lr", "--scale", scale), (f"--scale {scale}",))
            for scale in ("0", "-1", "inf", "nan", "1e999", "x")
        ),
        (("loss-vs-lr", "--scale", "2^200"), ("--scale 2^200", "2^127")),
        (("loss-vs-lr", "--scale", "1e-60"), ("--scale 1e-60", "2^-126")),
        (("loss-vs-lr", "--inits", "0"), ("--inits 0", "at least 1")),
        (("loss-vs-lr", "--steps", "0"), ("--steps 0", "at least 1")),
        (("loss-vs-lr", "--inits", "many"), ("--inits many: is no whole number",)),
        (("loss-vs-lr", "--inits", "999999999999"), ("--inits 999999999999", "at most 1,000,000")),
        (("loss-vs-lr", "--steps", "100000000000000000000"), ("--steps 100000000000000000000", "at most 16,777,216")),
        (("loss-vs-lr", "--seed", "-1"), ("--seed -1",)),
        (("loss-vs-lr", "--device", "tpu"), ("--device tpu", "cuda")),
        (("loss-vs-lr", "--backend", "numpy"), ("--backend numpy", "reference")),
        (("loss-vs-lr", "--backend", "triton", "--device", "cpu"), ("--backend triton",)),
        (("origin", "--optimizer", "adam"), ("--optimizer adam", "script")),
        (("all", "--inits", "0"), ("--inits 0",)),
        ((), ("STUDY",)),
    ],
    ids=lambda value: " ".join(value) if value and value[0] in ("loss-vs-lr", "origin", "all") else "",
)
def test_bad_choices(fails: Failing, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    message = fails("run", *arguments, "--out", out)
    assert all(word in message for word in words), message
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_device(fails: Failing, tmp_path: Path) -> None:
    assert "--device cuda" in fails("run", "loss-vs-lr", "--device", "cuda", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_places_that_cannot_be_written(fails: Failing, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        assert f"--out {out}" in fails("run", "loss-vs-lr", *SMALL, "--out", out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    assert "other files" in fails("run", "loss-vs-lr", *SMALL, "--out", tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(fails: Failing, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert "--out" in fails("run", "loss-vs-lr", *SMALL, "--out", closed / "run")


@pytest.mark.parametrize("resume", [(), ("--resume",)])
@pytest.mark.parametrize(
    ("study", "change", "words"),
    [
        ("loss-vs-lr", ("--seed", "1"), "seed 0 instead of 1"),
        ("loss-vs-lr", ("--scale", "8"), "scales"),
        ("loss-vs-lr", ("--steps", "2"), "checkpoints"),
        ("origin", None, "study loss-vs-lr instead of origin"),
    ],
)
def test_a_directory_with_another_run(
    fails: Failing, finished: Path, study: str, change: tuple[str, ...] | None, words: str, resume: tuple[str, ...]
) -> None:
    before = contents(finished)
    arguments = () if change is None else (*SMALL, *change)
    assert words in fails("run", study, *arguments, *resume, "--out", finished)
    assert contents(finished) == before


@pytest.mark.parametrize("name", ["cpu_capability", "device", "torch_build", "products"])
def test_a_resume_on_another_machine(fails: Failing, copy: Path, name: str) -> None:
    document = json.loads((copy / records.MANIFEST).read_text())
    document["resume_key"][name] = "another"
    document["finished"] = False
    (copy / records.MANIFEST).write_text(json.dumps(document))
    message = fails("run", "loss-vs-lr", *SMALL, "--out", copy, "--resume")
    assert "--resume" in message and f"{name} another" in message


def test_an_unfinished_run_is_not_taken_for_a_new_one(fails: Failing, copy: Path) -> None:
    document = json.loads((copy / records.MANIFEST).read_text())
    (copy / records.MANIFEST).write_text(json.dumps({**document, "finished": False}))
    assert "continue it with --resume" in fails("run", "loss-vs-lr", *SMALL, "--out", copy)


def test_two_processes_do_not_share_a_run(fails: Failing, finished: Path) -> None:
    with locked(finished):
        for more in ((), ("--shard", "1/2")):
            assert "another process" in fails("run", "loss-vs-lr", *SMALL, *more, "--out", finished)
    with locked(finished, shared=True):
        assert "another process" in fails("run", "loss-vs-lr", *SMALL, "--out", finished)


def test_a_finished_run_prints_its_table_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(finished)
    assert main(["run", "loss-vs-lr", *SMALL, "--out", str(finished)]) == 0
    captured = capsys.readouterr()
    assert "Adam eps=0.001" in captured.out and "pairs of" not in captured.out
    assert contents(finished) == before


def test_json_is_the_only_thing_on_standard_output(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "loss-vs-lr", *SMALL, "--out", str(finished), "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert {row["study"] for row in document["rows"]} == {"loss-vs-lr"} and len(document["rows"]) == 4
    assert document["runs"] == [str(finished)] and document["failed_predictions"] == 0


def test_strict_fails_with_a_prediction(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "loss-vs-lr", *SMALL, "--out", str(copy), "--strict"]
    assert main(command) == 0
    summary = (copy / records.SUMMARY).read_text()
    (copy / records.SUMMARY).write_text(summary.replace(",holds,", ",fails,", 1))
    assert main(command[:-1]) == 0
    assert main(command) == 1
    assert re.search(r"1 prediction fails: S[\d.a-z-]+ \(", capsys.readouterr().out)


@pytest.mark.parametrize("damage", ["flip", "missing", "checksums"])
def test_damage_is_reported_and_mended(copy: Path, fails: Failing, damage: str) -> None:
    before = contents(copy / records.PAIRS)
    shard = copy / records.PAIRS / "mlp-6-6-1.adam.eps=0.001.foreach.fp32.000000.parquet"
    data = bytearray(shard.read_bytes())
    data[100] ^= 64
    if damage == "flip":
        shard.write_bytes(data)
    elif damage == "missing":
        shard.unlink()
    else:
        (copy / records.CHECKSUMS).unlink()
    assert "--resume" in fails("show", copy, "--pair", PAIR)
    assert main(["run", "loss-vs-lr", *SMALL, "--out", str(copy), "--resume"]) == 0
    assert contents(copy / records.PAIRS) == before
    assert main(["show", str(copy), "--pair", PAIR]) == 0


@pytest.mark.parametrize("damage", ["flip", "checksums"])
def test_a_finished_run_with_a_damaged_shard_is_not_printed(copy: Path, fails: Failing, damage: str) -> None:
    shard = sorted((copy / records.PAIRS).glob("*.parquet"))[0]
    if damage == "flip":
        data = bytearray(shard.read_bytes())
        data[-100] ^= 1
        shard.write_bytes(data)
    else:
        (copy / records.CHECKSUMS).unlink()
    message = fails("run", "loss-vs-lr", *SMALL, "--out", copy)
    assert "parquet: is damaged; run the study again with --resume" in message
    assert damage == "checksums" or str(shard) in message


@pytest.mark.parametrize(
    ("damage", "resume"), [("missing", ()), ("empty", ("--resume",)), ("column", ("--resume",)), ("value", ())]
)
def test_a_lost_summary_is_made_again(copy: Path, damage: str, resume: tuple[str, ...]) -> None:
    before = contents(copy)
    summary = copy / records.SUMMARY
    text = summary.read_text()
    damages = {"empty": "", "column": text.replace("scale", "scales", 1), "value": text.replace(",holds", ",x", 1)}
    if damage == "missing":
        summary.unlink()
    else:
        summary.write_text(damages[damage])
    command = ["report", str(copy)] if not resume else ["run", "loss-vs-lr", *SMALL, "--out", str(copy), *resume]
    assert main(command) == 0
    assert contents(copy)[records.SUMMARY] == before[records.SUMMARY]
    summary.unlink()
    assert main(["run", "loss-vs-lr", *SMALL, "--out", str(copy)]) == 0
    assert contents(copy) == before


def test_the_first_difference_of_two_runs_is_shown(fails: Failing, finished: Path) -> None:
    message = fails("run", "loss-vs-lr", *SMALL, "--optimizer", "adam:eps=0.5,amsgrad=true", "--out", finished)
    theirs, ours = message.partition("optimizers ")[2].partition("; give")[0].split(" instead of ")
    assert theirs == "…s', 0.001]]}]" and ours.startswith("…s', 0.001]]}, {'algorithm'")


def test_out_may_not_be_empty(fails: Failing) -> None:
    assert "--out '': is empty" in fails("run", "loss-vs-lr", "--out", "")


def test_an_optimizer_without_the_recipe_of_the_grid_has_its_own(tmp_path: Path) -> None:
    command = ["--optimizer", "adam_atan2", "--scale", "4", "--inits", "1", "--steps", "2", "--device", "cpu"]
    for _ in range(2):
        assert main(["run", "loss-vs-lr", *command, "--out", str(tmp_path)]) == 0
    assert {key.recipe for key, _ in records.iter_cells(tmp_path)} == {"native"}
    assert main(["show", str(tmp_path), "--pair", "mlp-6-6-1/adam_atan2/fp32/loss:base/4/0"]) == 0


def test_show(finished: Path, capsys: pytest.CaptureFixture[str], fails: Failing) -> None:
    assert main(["show", str(finished), "--pair", PAIR, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pair"] == PAIR and [row["step"] for row in document["rows"]] == [1, 3]
    assert {(row["arm"], row["scale"], row["init"], row["options"]) for row in document["rows"]} == {
        ("loss", 4.0, 1, "eps=0.001")
    }
    assert main(["show", str(finished), "--pair", PAIR]) == 0
    out = capsys.readouterr().out
    assert "rel_distance" in out and "rel_distance: |arm − against| / |against|" in out
    for unknown in (
        "x",
        PAIR.replace("/1", "/2"),
        PAIR.replace("/4/", "/5/"),
        PAIR.replace("loss", "lose"),
        "a/b/c/d/e/f",
    ):
        assert "mlp-6-6-1/adam:eps=0.001/fp32/lr-ulp:lr/4.0/0" in fails("show", finished, "--pair", unknown)
    assert "holds no run" in fails("show", finished / "pairs", "--pair", PAIR)


def test_show_without_a_pair_lists_them(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(finished), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert main(["show", str(finished), "--pair", document["example"]]) == 0
    listed = [
        f"{row['pairs']}/{scale}/{init}"
        for row in document["rows"]
        for scale in row["scales"]
        for init in range(row["inits"])
    ]
    spec = records.read_manifest(finished).run_spec
    assert spec is not None and len(listed) == len(set(listed)) == spec.pairs and PAIR in listed
    capsys.readouterr()
    assert main(["show", str(finished)]) == 0
    out = capsys.readouterr().out
    assert PAIR.rsplit("/", 2)[0] in out and f"--pair {document['example']}" in out


def test_every_shown_column_is_explained() -> None:
    assert {name for name, measure in MEASURES.items() if measure.shown} == set(LEGEND)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["study"] for row in rows] == list(studies.names()) and rows[0]["study"] == "loss-vs-lr"
    assert main(["list"]) == 0
    assert "cost" in capsys.readouterr().out
    odd = [study.cost for study in studies.every() if not re.fullmatch(COST, study.cost)]
    assert odd == []


def test_no_torch_for_help_or_list() -> None:
    code = (
        "import sys; from lossscale.__main__ import main\n"
        "for words in ('--help', 'run --help', 'show --help', 'report --help', 'list'): main(words.split())\n"
        "assert not {'torch', 'pandas', 'pyarrow', 'plotly'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--optimizer" in done.stdout


@pytest.mark.parametrize(
    ("text", "name"), [("Adam", "adam"), ("ADAMW", "adamw"), ("RMSprop", "rmsprop"), ("AdamAtan2", "adam_atan2")]
)
def test_optimizers_are_named_in_any_case(text: str, name: str) -> None:
    assert parse_optimizer(f"{text}:lr=0.5").typed == f"{name}:lr=0.5"
    assert main(["rescale", text, "--scale", "8", "--json"]) == 0


def test_scales_may_be_powers_and_optimizers_may_have_options(tmp_path: Path) -> None:
    choices = Choices(
        optimizers=("adagrad:eps=1e-6,lr_decay=0.5", "sgd:nesterov=true,momentum=.9"),
        scales=("2^-3", "10**2", "1e2"),
        inits=1,
        steps=1,
        device="cpu",
        workers=1,
    )
    run_study(studies.get("loss-vs-lr"), choices, tmp_path, Output())
    keys = [key for key, _ in records.iter_cells(tmp_path)]
    assert {key.options for key in keys} == {"eps=1e-06,lr_decay=0.5", "nesterov=True,momentum=0.9"}
    assert {scale for _, frame in records.iter_cells(tmp_path) for scale in frame["scale"]} == {0.125, 1.0, 3.0, 100.0}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def test_the_list_of_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--predictions", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {"S2.map.1", "S5.mid-run.1", "S5.controls.1"} <= {row["prediction"] for row in rows}
    assert all(row["says"].endswith((".", "…")) for row in rows if row["study"] != "window")


def test_verdicts_of_runs_are_kept(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verdicts", str(finished), "--out", str(tmp_path / "kept.csv"), "--json"]) == 0
    rows = {row["prediction"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["S2.map.1"]["verdict"] == "holds" and rows["S2.map.1"]["fail"] == 0
    kept = pd.read_csv(tmp_path / "kept.csv")
    assert list(kept["prediction"]) == list(rows) and set(kept["study"]) == {"loss-vs-lr"}


@pytest.mark.parametrize("engine", ["batched", "trainer", "module"])
def test_cohorts_too_large_for_memory_are_refused_with_what_fits(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 500_000)
    command = ["run", "loss-vs-lr", "--network", "mlp-6-6-1", "--optimizer", "sgd", "--scale", "4", "--engine", engine]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(r"128 initialisations in a cohort are [\d,]+ models of 49 numbers", said)
    assert ("give the study cohort_inits=" in said) or ("not even one fits" in said)
    assert not (tmp_path / "run").exists()


def test_simd_without_numba_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "llvmlite is missing; pip install numba, which brings it"
    monkeypatch.setattr(kernels.backends.dispatch.simd, "unavailable", lambda: reason)
    command = ["run", "loss-vs-lr", "--quick", "--backend", "simd", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said == f"error: --backend simd: backend 'simd': {reason}; or choose 'reference'\n"
    assert not (tmp_path / "run").exists()
