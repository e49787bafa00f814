"""The measured tables of README and docs are those of the kept results, and a hand cannot change them unseen."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.store import cause_table, tables, window_table
from bench.tracebacks import kept_traceback, without_places


def test_tables_are_those_of_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--check"]) == 0
    assert "differ from the results: none" in capsys.readouterr().out


def test_a_number_typed_by_hand_is_seen_and_filled_in_again() -> None:
    text = (tables.ROOT / "README.md").read_text()
    assert text.count("<!-- table: ") == text.count("<!-- end -->") == 3
    typed = text.replace("| AdamW fp32 | 2.50 ms |", "| AdamW fp32 | 2.40 ms |")
    assert typed != text and tables.filled(typed) == text
    with pytest.raises(KeyError, match="no-such-table"):
        tables.filled("<!-- table: no-such-table -->\n<!-- end -->")


def test_a_mark_without_a_table_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("<!-- table: no-such -->\n<!-- end -->\n")
    monkeypatch.setattr(tables, "documents", lambda: [tmp_path / "README.md"])
    assert main(["tables"]) == 2
    said = capsys.readouterr().err
    assert "README.md" in said and "no-such" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("how", ["missing", "failed", "wrong bits", "a whole workload failed"])
def test_steps_without_times_are_dashes(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign cut short or a provider that broke leaves gaps, and the other numbers stand as they did."""
    names = {"h100-one-tensor": "SGD fp32", "h100-whole-steps": "2^16", "cpu-steps-1": "SGD fp32 | 2^16"}
    whole = {name: tables.TABLES[name]().splitlines() for name in names}
    for folder in ("nvidia-h100-80gb-hbm3", "amd-epyc-1-thread"):
        document = json.loads((tables.RESULTS / folder / "timing.json").read_text())
        for workload, part in (("2^28" if "steps" in document else "2^16", document), ("2^16", document.get("steps"))):
            if part is not None:
                part["rows"] = [row for found in part["rows"] for row in without_time(found, workload, how)]
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "timing.json").write_text(json.dumps(document))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "H100", tmp_path / "nvidia-h100-80gb-hbm3")
    for name, begin in names.items():
        pairs = list(zip(whole[name], tables.TABLES[name]().splitlines(), strict=True))
        (changed,) = [now for was, now in pairs if was != now]
        assert changed.startswith(f"| {begin}") and "—" in changed and changed.count("|") == pairs[0][0].count("|")


def without_time(row: dict[str, Any], workload: str, how: str) -> list[dict[str, Any]]:
    """A row, or what is left of it if it is that of our SGD over the workload."""
    if (row["optimizer"], row["dtype"], row["workload"]) != ("SGD", "fp32", workload):
        return [row]
    if not row["provider"].startswith("kernels-foreach"):
        return [row]
    labels = {name: row[name] for name in ("optimizer", "dtype", "workload", "tensors", "elements")}
    return {
        "missing": [],
        "failed": [{**row, "error": "broke", "step_time_ns": None, "queued_time_ns": None, "kernel_time_ns": None}],
        "wrong bits": [{**row, "differing_elements": 3}],
        "a whole workload failed": [{**labels, "error": "broke"}],
    }[how]


@pytest.mark.parametrize("left", ["", "{", None])
def test_a_kept_result_that_is_damaged_or_gone_is_one_line(
    left: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "H100", tmp_path)
    if left is not None:
        (tmp_path / "timing.json").write_text(left)
    assert main(["tables", "--check"]) == 2
    said = capsys.readouterr().err
    assert "bench/results" in said and "timing.json" in said and len(said.splitlines()) == 1


def test_the_answers_are_those_of_the_thresholds() -> None:
    lines = list(window_table.answers(tables.WINDOW))
    weights = {line[0].partition("(")[2].rstrip(")"): line[2:] for line in lines if line[0]}
    assert weights["bf16-true"][0] == "≤ 2^-17 (2^-6)" and lines[0][:3] == ["all float32", "weights", "any s (2^-22)"]
    assert weights["fp16-mixed"][0] == "≤ 2^-9 [2^-10, 2^-9] (2^-14), ≥ 2^15"
    assert [line[1] for line in lines] == ["weights", "loss"] * 6 + [""]
    assert lines[-1][2:] == ["no finite run", "no finite run", "only 4 finite runs"]
    readme = (tables.ROOT / "README.md").read_text()
    # What the sentence on the question itself, s = 1/10, rests on.
    noticed = [
        (*line[:2], title)
        for line in lines
        for title, cell in zip(("Adam", "RMSprop", "Adagrad"), line[2:], strict=True)
        if cell.startswith("any s") or any(int(power) <= 3 for power in re.findall(r"^≤ 2\^-(\d+)", cell))
    ]
    assert noticed == [
        ("all float32", "weights", "Adam"),
        ("all float32", "weights", "RMSprop"),
        ("all float32", "weights", "Adagrad"),
        ("moments in float16 (fp16-state)", "weights", "Adam"),
        ("moments in float16 (fp16-state)", "weights", "RMSprop"),
    ]
    assert "notice it where all is float32 and, under Adam and RMSprop, where the moments are float16" in readme
    hidden = sorted(
        int(match)
        for name, line in weights.items()
        if "bf16" in name
        for match in re.findall(r"^≤ 2\^-(\d+)", "\n".join(line), re.M)
    )
    assert len(hidden) == 9
    least, most = (str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")) for power in (hidden[0], hidden[-1]))
    assert f"until s has fallen to 2⁻{least} (RMSprop, moments) … 2⁻{most} (Adagrad, all of it)" in readme


def test_the_ranges_beside_the_cpu_tables_are_those_of_the_results() -> None:
    text = " ".join((tables.WINDOW.parent / "performance.md").read_text(encoding="utf-8").split())
    one, two = (
        json.loads((tables.RESULTS / f"amd-epyc-{n}" / "timing.json").read_text()) for n in ("1-thread", "2-threads")
    )
    rates, turns = [], []
    for row in one["rows"]:
        if row["provider"].startswith("kernels-") and row["step_us"]:  # cpu-fused has no 16-bit SGD and Adagrad
            if (row["workload"], row["dtype"]) == ("2^24", "fp32") and row["optimizer"] in ("AdamW", "SGD"):
                rates += [row["bytes_moved"] / row[name] / 1e3 for name in ("step_us", "queued_us")]
            if row["workload"] == "1000x64":
                turns.append(row["step_us"] / row["queued_us"])
    copy = max(ceiling["copy_gb_per_s"] for ceiling in one["ceilings"])
    assert f"{min(rates):.0f} to {max(rates):.0f} GB/s for AdamW and SGD with one thread" in text
    assert f"`Tensor.copy_` of 256 MiB moves {copy:.0f} (" in text
    assert f"a thousand tensors take {min(turns):.1f} to {max(turns):.1f} times as long as in a row" in text
    shares: dict[str, list[float]] = {"2^20": [], "2^24": []}
    for document in (one, two):
        steps = {
            (row["workload"], row["provider"]): row
            for row in document["rows"]
            if (row["optimizer"], row["dtype"]) == ("SGD", "fp32")
        }
        for workload, found in shares.items():
            ours, torchs = (steps[workload, name] for name in ("kernels-foreach", "torch-foreach"))
            found += [ours[name] / torchs[name] for name in ("step_us", "queued_us")]
    told = " and ".join(f"{min(found):.2f} to {max(found):.2f} at {workload}" for workload, found in shares.items())
    assert f"Measured are {told}" in text
    assert {row["dtype"] for row in two["rows"]} == {"fp32"} and "once more with two threads, in float32" in text


def test_what_is_stalled_or_left_open_says_so() -> None:
    lines = {tuple(line[:3]): line[3:] for line in window_table.rows(tables.WINDOW)}
    stalled = lines["adam", "foreach", "bf16-true, lr 0.0001"]
    assert stalled[1] == "stalled: 7.5% of the elements move" and set(stalled[2:]) == {"—"}
    # Equal down to 2^-21 and different from 2^-23 on: 2^-22 is not decided.
    assert "2^-23 [2^-23, 2^-22]" in lines["rmsprop", "foreach", "fp32"]
    assert "2^-22" in lines["adam", "foreach", "fp32"]


def test_kept_shares_of_causes_add_up_and_every_border_has_them() -> None:
    with tables.CAUSES.open(encoding="utf-8", newline="") as file:
        kept = list(csv.DictReader(file))
    arms = ("f_none", "f_E", "f_V", "f_G", "f_EV", "f_EG", "f_VG", "f_EVG")
    deviating = [row for row in kept if int(row["deviating"])]
    assert len(deviating) > 1000 and {row["at"] for row in deviating} == {"step", "run"}
    for row in deviating:
        split = [float(row[name]) for name in ("share_E", "share_V", "share_G", "unexplained")]
        f = {name: float(row[name]) for name in arms}
        assert sum(split) == pytest.approx(1.0, abs=1e-4) and f["f_none"] > 0
        # The share of one cause is its Shapley value over all eight arms.
        alone, pairs = f["f_none"] - f["f_E"], (f["f_V"] - f["f_EV"], f["f_G"] - f["f_EG"])
        value = alone / 3 + sum(pairs) / 6 + (f["f_VG"] - f["f_EVG"]) / 3
        assert split[0] == pytest.approx(value / f["f_none"], abs=1e-4)
        assert split[3] == pytest.approx(f["f_EVG"] / f["f_none"], abs=1e-4)
    shown = list(cause_table.rows(tables.CAUSES, tables.WINDOW))
    with tables.WINDOW.open(encoding="utf-8", newline="") as file:
        borders = [
            row for row in csv.DictReader(file) if row["kind"] == "floor" and row["q50"] not in ("", "inf", "-inf")
        ]
    assert len(shown) == len(borders) > 50


def test_what_documents_keep_of_the_window_is_small_and_linked() -> None:
    text = (tables.WINDOW.parent / "window.md").read_text(encoding="utf-8")
    kept = [tables.WINDOW, tables.CAUSES, *tables.WINDOW.parent.glob("window*.png")]
    assert len(kept) == 7 and sum(path.stat().st_size for path in kept) < 1_500_000
    assert [path.name for path in kept if f"({path.name})" not in text] == []
    # The sentence on repairing one cause at a time.
    with tables.CAUSES.open(encoding="utf-8", newline="") as file:
        cell = {"optimizer": "adam", "options": "", "policy": "fp16-state", "at": "run", "power": "-16"}
        (row,) = [row for row in csv.DictReader(file) if cell.items() <= row.items()]
    farther = float(row["f_E"]) - float(row["f_none"])
    assert f"takes the pair {farther:.0f} binades *farther* away" in " ".join(text.split())


KEPT = sorted(path for path in tables.RESULTS.rglob("*") if path.suffix in (".json", ".md"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_kept_results_name_no_place_of_a_machine(path: Path) -> None:
    # Tracebacks of what a peer refused are kept; where it lay on the machine is nobody's concern.
    assert re.findall(r"/(?:work|root|home|tmp|usr|opt)/[\w./-]+", path.read_text(encoding="utf-8")) == []


def test_tracebacks_are_written_in_one_place() -> None:
    sources = (tables.ROOT / "bench").rglob("*.py")
    writing = [path.name for path in sources if re.search(r"\bimport traceback\b", path.read_text(encoding="utf-8"))]
    assert writing == ["tracebacks.py"]


def test_a_kept_traceback_has_the_lines_without_the_places() -> None:
    try:
        main(("tables", 3))  # type: ignore[arg-type]
    except Exception:
        text = kept_traceback()
    assert without_places(f"before\n{text}") == f"before\n{text}"
    assert 'File "bench/__main__.py"' in text and str(tables.ROOT) not in text and "site-packages" not in text
