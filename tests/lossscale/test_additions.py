"""CONTRIBUTING's table, done once each: an arm, a measure, a study with and without a presentation."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from lossscale import studies
from lossscale.__main__ import main
from lossscale.design import arms, measures
from lossscale.design.arms import ARMS, Arm
from lossscale.design.measures import MEASURES, STANDARD, Kind, Measure, Statistic
from lossscale.runs import records
from lossscale.runs.summary import read_summary

STUDY = """
from ..design.grid import Grid, NetworkInits, OptimizerSpec
from ..design.study import Prediction, Study

GRID = Grid(
    networks=(NetworkInits(network="mlp-6-6-1", inits=8, cohort_inits=4, quick_inits=4),),
    optimizers=(OptimizerSpec(algorithm="adam", options=(("eps", 1e-3),)),),
    scales=(0.5, 4.0),
    {grid}
    against=(),
    checkpoints=(1, 3),
)
STUDY = Study(
    name="toy-study",
    title="a toy",
    shows="that a study is one file",
    cost="nothing",
    grid=GRID,
    predictions=(
        Prediction(id="T.1", quantity="identical_share", predicted=1.0, tolerance=0.0, moved=True,
                   why="They undo each other.", applies=lambda cell: cell.arm not in ("loss", "lr", "ulp")),
        Prediction(id="T.2", quantity="identical_share", predicted=1.0, tolerance=0.0, why="A wrong one.",
                   applies=lambda cell: cell.arm == "loss"),
    ),
    {presentation}
)
"""

PRESENTATION = """
from pathlib import Path

from ..report.neutral import Neutral
from ..runs.summary import read_summary

class Toy(Neutral):
    def table(self, run: Path):
        return [{"cells": len(read_summary(run)), "said_by": "the toy"}]

    def picture(self, run: Path, out: Path):
        out.write_text("drawn")
"""


@pytest.fixture
def study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file of a study goes; the folder counts as one more of `lossscale.studies`."""
    folder = tmp_path / "studies"
    folder.mkdir()
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, "lossscale.studies.toy_study", raising=False)
    monkeypatch.delitem(sys.modules, "lossscale.studies.toy_parts", raising=False)
    return folder / "toy_study.py"


def run(out: Path, *more: str) -> int:
    return main(["run", "toy-study", "--device", "cpu", "--out", str(out), *more])


def test_a_study_is_one_file_and_prints_its_own_verdicts(
    study_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_file.write_text(STUDY.format(grid='arms=("base", "loss", "mapped"),', presentation=""))
    assert main(["list"]) == 0 and "toy-study: a toy" in capsys.readouterr().out
    out = tmp_path / "run"
    assert run(out) == 0
    printed = capsys.readouterr().out
    assert "Do the predictions hold? 4 of 8 judged cells do, 4 fail." in printed
    assert "T.1: They undo each other." in printed and "learning rate" not in printed
    assert run(out, "--json") == 0
    first, second = json.loads(capsys.readouterr().out)["rows"]
    assert (first["quantity"], first["hold"], first["verdict"]) == ("identical_share", 4, "holds")
    assert (second["fail"], second["verdict"]) == (4, "fails")
    page = (out / "report.html").read_text()
    assert "Where it ended" in page and "A wrong one." in page and "mapped, s = 2ᵏ" in page
    assert "changes_training" not in page and "one ulp" not in page and "update-norm" not in page
    assert main(["picture", str(out)]) == 2
    assert "has no picture" in capsys.readouterr().err


def test_a_presentation_is_one_class(study_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study_file.parent / "toy_parts.py").write_text(PRESENTATION)
    chosen = "presentation=lambda study: __import__('lossscale.studies.toy_parts', fromlist=['Toy']).Toy(study),"
    study_file.write_text(STUDY.format(grid='arms=("base", "loss"),', presentation=chosen))
    assert run(tmp_path / "run", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["said_by"] == "the toy" and row["cells"] == len(read_summary(tmp_path / "run"))
    assert main(["picture", str(tmp_path / "run"), "--out", str(tmp_path / "toy.svg")]) == 0
    assert (tmp_path / "toy.svg").read_text() == "drawn"


def test_an_arm_is_one_entry(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Arm(
        name="eps",
        scaled=True,
        loss_power=1,
        hyperparameters=lambda algorithm, base, scale: dataclasses.replace(base, eps=base.eps * scale),
    )
    monkeypatch.setitem(ARMS, own.name, own)
    study_file.write_text(STUDY.format(grid='arms=("base", "loss", "eps"),', presentation=""))
    out = tmp_path / "run"
    assert run(out) == 0
    summary = read_summary(out)
    shares = summary[(summary["arm"] == "eps") & (summary["quantity"] == "identical_share")]
    assert sorted(shares["scale"].unique()) == [0.5, 4.0] and (shares["measured"] == 1.0).all()
    assert set(shares["verdict"]) == {"holds"}
    assert main(["show", str(out), "--pair", "mlp-6-6-1/Adam:eps=0.001/fp32/eps:base/4/2"]) == 0
    assert "rel_distance" in capsys.readouterr().out
    assert ">eps<" in (out / "report.html").read_text()


def test_a_measure_is_one_entry(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    largest = Measure(
        name="largest_grad",
        observe=lambda now: now.of_arm(now.snapshot.grads.abs().amax(1)),
        statistic=Statistic.LARGEST,
        shown=True,
    )
    gone = Measure(
        name="zero_grads",
        observe=lambda now: now.of_against((now.snapshot.grads == 0).sum(1)),
        kind=Kind.COUNT,
        statistic=Statistic.MEDIAN,
        quantity="median_zero_grads",
    )
    for measure in (largest, gone):
        monkeypatch.setitem(MEASURES, measure.name, measure)
    grid = 'arms=("base", "loss"), measures=("largest_grad", "zero_grads"),'
    study_file.write_text(STUDY.format(grid=grid, presentation=""))
    out = tmp_path / "run"
    assert run(out) == 0
    ((_, frame),) = records.iter_cells(out)
    assert tuple(frame.columns) == (*records.COLUMNS, "largest_grad", "zero_grads")
    assert frame["largest_grad"].dtype == np.float64 and frame["zero_grads"].dtype == np.int64
    summary = read_summary(out)
    lines = summary[(summary["quantity"] == "largest_grad") & (summary["step"] == 1)].set_index("scale")["measured"]
    assert lines[4.0] == pytest.approx(8 * lines[0.5]) and lines[0.5] > 0
    assert "median_zero_grads" in set(summary["quantity"])
    assert main(["show", str(out), "--pair", "mlp-6-6-1/adam:eps=0.001/fp32/loss:base/4/2"]) == 0
    shown = capsys.readouterr().out
    assert "largest_grad" in shown and "zero_grads" not in shown
    spec = json.loads((out / records.MANIFEST).read_text())["spec"]
    assert spec["measures"] == ["largest_grad", "zero_grads"]
    assert records.read_manifest(out).run_spec is not None and "largest_grad" not in STANDARD


def test_what_contributing_shows_works(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (study,) = (block for block in blocks if "STUDY = Study(" in block)
    (arm,) = (block for block in blocks if block.startswith("Arm("))
    (measure,) = (block for block in blocks if block.startswith("Measure("))
    own = eval(arm, dict(vars(arms)))
    largest = eval(measure, dict(vars(measures)))
    monkeypatch.setitem(ARMS, own.name, own)
    monkeypatch.setitem(MEASURES, largest.name, largest)
    study_file.with_name("eps_only.py").write_text(study)
    monkeypatch.delitem(sys.modules, "lossscale.studies.eps_only", raising=False)
    assert main(["run", "eps-only", "--quick", "--device", "cpu", "--out", str(tmp_path / "run")]) == 0
    assert "Do the predictions hold? 4 of 4 judged cells do." in capsys.readouterr().out
    assert {own.name} < set(read_summary(tmp_path / "run")["arm"])
    assert largest.name in set(read_summary(tmp_path / "run")["quantity"])


def test_another_measure_is_another_run(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study_file.write_text(STUDY.format(grid='arms=("base", "loss"),', presentation=""))
    assert run(tmp_path / "run") == 0
    monkeypatch.setitem(MEASURES, "again", dataclasses.replace(MEASURES["moved"], name="again"))
    study_file.write_text(STUDY.format(grid='arms=("base", "loss"), measures=("again",),', presentation=""))
    monkeypatch.delitem(sys.modules, "lossscale.studies.toy_study")
    capsys.readouterr()
    assert run(tmp_path / "run", "--resume") == 2
    assert "measures None instead of ['again']" in capsys.readouterr().err


def test_a_changed_study_does_not_join_the_pairs_of_the_old(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An arm may mean something else now: shards of both would be one run."""
    text = STUDY.format(grid='arms=("base", "loss"),', presentation="")
    study_file.write_text(text)
    out = tmp_path / "run"
    assert run(out) == 0
    # A comment changes nothing.
    for change, code, said in (("# a word\n", 0, ""), ("HALF = 0.5\n", 0, "made by an earlier version of this code")):
        study_file.write_text(text + change)
        monkeypatch.delitem(sys.modules, "lossscale.studies.toy_study")
        capsys.readouterr()
        assert run(out, "--resume") == code
        told = capsys.readouterr()
        assert said in told.out + told.err and bool(said) == ("earlier version" in told.out + told.err)
    next((out / "pairs").glob("*.parquet")).unlink()
    monkeypatch.delitem(sys.modules, "lossscale.studies.toy_study")
    assert run(out, "--resume") == 2
    assert "the pairs would mix; give another --out" in capsys.readouterr().err


def test_an_unknown_arm_names_the_known(study_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study_file.write_text(STUDY.format(grid='arms=("base", "lose"),', presentation=""))
    assert run(tmp_path / "run") == 2
    assert "arm lose: unknown; did you mean loss? choose from base, " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
