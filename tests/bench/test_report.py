"""The page of timing results, whether results are fresh, and what others read."""

import csv
import io
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import kernels
from bench.__main__ import main
from bench.report.chart import Series, chart, linear, powers_of_ten, powers_of_two
from bench.report.history import headlines, versions
from bench.store.kept import RESULTS, kept_timings
from bench.store.load import read_result

KEPT = RESULTS / "nvidia-h100-80gb-hbm3" / "timing.json"


class Reader(HTMLParser):
    """Open elements, ids, headings, and whatever would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_page(path: Path) -> tuple[str, Reader]:
    text, reader = path.read_text(), Reader()
    reader.feed(text)
    assert reader.open == []
    assert not re.search(r"https?://|@import|url\(|<script", text)
    assert [at for at in reader.loaded if not at.startswith("#")] == ["data:,"]
    assert len(set(reader.ids)) == len(reader.ids)
    assert {at[1:] for at in reader.loaded if at.startswith("#")} <= set(reader.ids)
    assert "nan" not in re.sub(r"<[^>]*>", "", text)
    return text, reader


def result(path: Path, *, stale: tuple[str, ...] = (), device: str = "cuda", provider: str = "kernels-foreach") -> Path:
    """A small result of a made-up machine."""
    prints = {name: "0" if name in stale else kernels.fingerprint(name) for name in kernels.ALGORITHMS}
    machine = {
        "device": device,
        "device_name": "Machine <1>",
        "packages": {"torch": "2.11.0"},
        "git_revision": "a" * 40,
    }
    rows: list[dict[str, Any]] = []
    for power in (10, 20, 26):
        base = {"provider": provider, "optimizer": "AdamW", "dtype": "fp32", "workload": f"2^{power}", "device": device}
        ns = 2_000 + 28 * 2**power // 1000
        times = {
            "kernel_time_ns": ns,
            "step_time_ns": 2 * ns,
            "samples_step_ns": [2 * ns] * 7,
            "samples_kernel_ns": [ns],
        }
        shape = {"tensors": 1, "elements": 1 << power, "options": {"lr": 1e-3}, "share_of_copy": 0.9, "gb_per_s": 900.0}
        rows.append({**base, **shape, **times})
    rows.append({**rows[0], "provider": "torch-fused", "differing_elements": 3})
    path.write_text(
        json.dumps(
            {
                "schema": 1,
                "provenance": machine,
                "fingerprints": prints,
                "ceilings": [{"bytes": 1 << 30, "copy_gb_per_s": 1000.0}],
                "launch_ns": 2000.0,
                "rows": rows,
            }
        )
    )
    return path


def test_the_page_of_the_kept_results(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert main(["report", "--out", str(out)]) == 0
    text, reader = read_page(out)
    assert {"staleness", "roofline", "ceiling", "launches", "model", "history"} <= set(reader.ids)
    assert text.count("<svg") >= 5 and "NVIDIA H100" in text
    for family in ("ours", "torch fused", "torch foreach", "torch for-loop"):
        assert f">{family}</text>" in text


def test_a_made_up_result(tmp_path: Path) -> None:
    out, made = tmp_path / "page.html", result(tmp_path / "a.json", stale=("sgd",), provider="my_package:MyAdam<W>")
    cpu = result(tmp_path / "b.json", device="cpu")
    assert main(["report", str(cpu), str(made), "--out", str(out)]) == 0
    text, reader = read_page(out)
    assert "is stale for sgd" in text and "Machine &lt;1&gt;" in text and "MyAdam&lt;W&gt;</text>" in text
    # Two results: sections of their own, and the GPU's first.
    assert text.index("a.json)") < text.index("b.json)") and "roofline-1" in reader.ids
    # 28 bytes an element at 1000 GB/s and one launch are what the made-up kernels take; its steps take twice as long.
    assert text.count("has no history") == 2 and "MyAdam" in text


def test_fresh_and_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh, old = result(tmp_path / "a.json"), result(tmp_path / "b.json", stale=("adam", "sgd"))
    cpu = result(tmp_path / "c.json", device="cpu")
    assert main(["report", str(fresh), str(old), "--check-fresh"]) == 0
    assert "1 of 2 results" in capsys.readouterr().out
    assert main(["report", str(old), "--check-fresh"]) == 1
    assert "bench campaign" in capsys.readouterr().out
    assert main(["report", str(cpu), "--check-fresh"]) == 1
    capsys.readouterr()
    assert main(["report", str(old), str(fresh), "--check-fresh", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(row["fresh"], row["stale"]) for row in document["rows"]] == [(False, ["adam", "sgd"]), (True, [])]
    assert document["page"] is None and document["fresh_gpu_results"] == 1
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".html"] == []


def test_no_result_at_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("bench.store.kept.kept_timings", lambda: [])
    assert main(["report", "--check-fresh"]) == 1
    capsys.readouterr()
    assert main(["report"]) == 2
    assert "no result is kept" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["report"], ["export"]])
@pytest.mark.parametrize(
    ("text", "complaint"), [("", "empty"), ("{", "damaged"), ('{"schema": 2, "rows": []}', "schema 2")]
)
def test_bad_results_are_one_line(
    command: list[str], text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.json").write_text(text)
    assert main([*command, str(tmp_path / "bad.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1 and complaint in captured.err


def test_history_follows_the_commits_of_a_file(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    git("init")
    path = tmp_path / "timing.json"
    for text, subject in (("{", "broken"), ("adam", "first <sound>"), ("sgd", "second")):
        path.write_text(text) if text == "{" else result(path, stale=(text,))
        git("add", ".")
        git("commit", "-m", subject)
    found = versions(path)
    assert [(one.subject, one.result is not None) for one in found] == [
        ("second", True),
        ("first <sound>", True),
        ("broken", False),
    ]
    share = next(line for line in headlines() if line.title.startswith("AdamW 2^26"))
    assert found[0].result is not None and share.of(found[0].result) == 0.9
    page = tmp_path / "page.html"
    assert main(["report", str(path), "--out", str(page)]) == 0
    text = read_page(page)[0]
    assert "first &lt;sound&gt;" in text and "not readable by today&#39;s code" in text


def test_kept_results_have_a_history_or_say_why_not() -> None:
    for version in [version for path in kept_timings() for version in versions(path)]:
        assert re.fullmatch(r"[0-9a-f]{7,}", version.revision) and re.fullmatch(r"\d{4}-\d\d-\d\d", version.date)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 100.3, ["0", "20", "40", "60", "80", "100"]),
        (0.0, 0.0, ["0", "1"]),
        (-95.0, 13.0, ["-100", "-50", "0", "50"]),
        (0.0, 26.4, ["0", "10", "20", "30"]),
    ],
)
def test_round_numbers_stand_beside_an_axis(low: float, high: float, ticks: list[str]) -> None:
    assert [text for _, text in linear("t", low, high).ticks] == ticks


def test_points_stand_where_their_values_are() -> None:
    x, y = powers_of_two("n", [1024, 4096]), powers_of_ten("µs", [1.0, 100.0])
    assert (x.place(2048), y.place(10.0)) == (0.5, 0.5)
    drawn = chart([Series(name="<a>", points=[(2048, 10.0, "<p>")])], x, y, label='"l"')
    # Between 62 and 654, and between 314 and 40.
    assert '<circle cx="358.0" cy="177.0"' in drawn and "&lt;a&gt;" in drawn and "<title>&lt;p&gt;</title>" in drawn


def test_one_metric_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(result(tmp_path / "a.json"))]) == 0
    records = json.loads(capsys.readouterr().out)
    # Four metrics of three rows; the one with wrong bits has none.
    assert [record["metric"]["name"] for record in records] == 3 * [
        "kernel_time",
        "step_time",
        "throughput",
        "share_of_copy",
    ]
    first = records[1]
    assert first["metric"] == {"name": "step_time", "benchmark_values": [4.056] * 7, "extra_info": {"unit": "us"}}
    assert first["benchmark"]["name"] == "AdamW step" and first["benchmark"]["dtype"] == "float32"
    assert first["model"]["name"] == "2^10" and first["model"]["backend"] == "kernels-foreach"
    assert first["runners"][0]["gpu_info"] == "Machine <1>" and first["dependencies"] == {
        "torch": {"version": "2.11.0"}
    }


def test_one_line_a_sample(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    assert main(["export", str(KEPT), "--format", "csv", "--out", str(out)]) == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    kept = read_result(KEPT, "A").rows
    samples = sum(len(row.samples_step_ns) for row in kept.values() if not row.error)
    steps = [row for row in rows if row["measure"] == "step_time"]
    assert len(steps) == samples
    (key, row), first = next(iter(kept.items())), steps[0]
    assert (first["provider"], first["workload"]) == (key[0], key[3])
    assert float(first["value"]) == row.samples_step_ns[0] / 1e3 and first["unit"] == "us"


def test_an_unknown_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(KEPT), "--format", "xml"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "--format xml" in error and "csv" in error
