import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import kernels
from bench.__main__ import main
from bench.campaign import campaign, summary


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main(["campaign", "--out", out, "--minutes", "0", "--dry-run"]) == 2
    assert main(["campaign", "--out", out, "--dry-run", "--part", "timings"]) == 2
    assert main(["campaign", "--out", "", "--dry-run"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 3
    assert "--minutes" in error[0] and "did you mean timing?" in error[1] and "--out '': is empty" in error[2]


def test_a_part_that_fails_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = campaign.Part(name="conform", target="bench.campaign.parts:no_such_part", share=1.0)
    monkeypatch.setattr(campaign, "_run_part", lambda *args: "exit code 3; planted")
    monkeypatch.setattr(campaign, "PARTS", (part,))
    assert main(["campaign", "--out", str(tmp_path), "--dry-run"]) == 1
    assert "conform: exit code 3; planted" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(("minutes", "run"), [(0.05, 0), (0.4, 1), (5, 3)])
def test_parts_without_time_are_in_the_summary(
    minutes: float, run: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits: list[float] = []

    def run_part(part: campaign.Part, out: Path, budget_s: float, ends: float, dry_run: bool) -> str:
        limits.append(budget_s)
        return ""

    parts = [campaign.Part(name=name, target="", share=share) for name, share in (("a", 0.3), ("b", 0.2), ("c", 0.1))]
    monkeypatch.setattr(campaign, "PARTS", parts)
    monkeypatch.setattr(campaign, "_run_part", run_part)
    monkeypatch.setattr(campaign.cli, "resolve_device", lambda *arguments: "cuda")
    (tmp_path / "summary.md").write_text("of an earlier campaign")
    # None had time: that is no success.
    assert main(["campaign", "--out", str(tmp_path), "--minutes", str(minutes)]) == int(run == 0)
    text = (tmp_path / "summary.md").read_text()
    assert [f"- {name}: not run, no time left" in text for name in "abc"] == [k >= run for k in range(3)]
    assert text in capsys.readouterr().out and len(limits) == run and all(limit >= 5 for limit in limits)


def test_a_dry_run_that_is_late_says_how_long_its_parts_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "_run_part", lambda *args: "")
    assert main(["campaign", "--out", str(tmp_path), "--minutes", "0.01", "--dry-run"]) == 0
    assert (tmp_path / "summary.md").read_text().count("(limit 5 s)") == len(campaign.PARTS)


@pytest.mark.parametrize("text", ['{"rows": [', "[]", ""])
@pytest.mark.parametrize("name", ["conform.json", "timing.json"])
def test_a_directory_whose_results_are_damaged_is_refused_before_anything_runs(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    assert main(["campaign", "--out", str(tmp_path), "--dry-run"]) == 2
    out, error = capsys.readouterr()
    assert out == "" and len(error.splitlines()) == 1 and f"{name}: is there and" in error and "move it away" in error
    assert (tmp_path / name).read_text() == text


def test_a_damaged_result_does_not_stop_the_summary(tmp_path: Path) -> None:
    (tmp_path / "conform.json").write_text('{"conformance": {}}')
    campaign._summarise(tmp_path, ["- conform: done"], 8.0, False)
    assert "The summary could not be made" in (tmp_path / "summary.md").read_text()


@pytest.mark.slow
def test_dry_run_walks_every_part(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["campaign", "--out", str(out), "--minutes", "5", "--dry-run"]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == ["conform.json", "golden.npz", "population.json", "studies.parquet", "summary.md", "timing.json"]
    assert len(names) <= 6
    assert all(path.stat().st_size < 16 << 20 for path in out.iterdir())
    assert len((out / "summary.md").read_text().splitlines()) <= 100
    found = json.loads((out / "conform.json").read_text())
    assert found["conformance"]["finished"] and found["conformance"]["not_run"] == 0
    assert not found["conformance"]["failures"]
    assert {"replay", "powf", "recording"} <= set(found["golden"])
    assert not any("error" in str(found["golden"][name])[:12] for name in found["golden"])
    study = found["study"]
    assert study["pairs"] > 100 and study["shards"] >= 2 and not study["missing"]
    assert study["differing_cells"] == 0 and pq.read_table(out / "studies.parquet").num_rows == study["pairs"]
    timing = json.loads((out / "timing.json").read_text())
    assert timing["rows"] and all(not row.get("error") for row in timing["rows"])
    tuned = timing["tune"]
    assert tuned["chosen"]["block"] and not tuned["not_run"]
    assert {row["optimizer"] for row in tuned["rows"]} == set(kernels.CLASSES)
    whole = timing["steps"]["rows"]
    assert {row["provider"] for row in whole} == {
        "torch-fused",
        "torch-foreach",
        "kernels-cpu-fused",
        "kernels-foreach",
    }
    assert all(row["step_us"] and row["queued_us"] and not row["error"] for row in whole)
    said = "\n".join(summary.lines(out))
    assert f"{study['pairs']} rows" in said and "0 differing cells" in said and "Launch shapes" in said
