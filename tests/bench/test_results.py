"""Timing results: reading, comparing, and refusing what cannot be compared."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

import kernels
from bench.__main__ import main
from bench.store.compare import NO_DIFFERENCE, median_interval
from bench.store.freshness import stale, unlike
from bench.store.kept import RESULTS
from bench.store.load import read_result
from bench.timing.cost_model import predictions


def result(*, slower: float = 1.0, machine: str = "H100", samples: int = 30, **extra: Any) -> dict[str, Any]:
    """A result of two providers; `slower` multiplies the second's times."""
    rows = []
    for provider, factor in (("torch-fused", 1.0), ("kernels-fused", slower)):
        times = [round(factor * (100_000 + 100 * (k * 7 % 30))) for k in range(samples)]
        row = {"provider": provider, "optimizer": "AdamW", "dtype": "fp32", "workload": "2^20", "device": "cuda"}
        rows.append({**row, "tensors": 1, "elements": 1 << 20, "samples_kernel_ns": times, "samples_step_ns": times})
    provenance = {"device": "cuda", "device_name": machine, "packages": {"torch": "2.11.0", "triton": "3.6.0"}}
    return {"schema": 1, "provenance": provenance, "fingerprints": {}, "rows": rows, **extra}


def compare(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, first: Any, second: Any, *options: str
) -> tuple[int, str, str]:
    for name, document in (("a", first), ("b", second)):
        (tmp_path / name).write_text(document if isinstance(document, str) else json.dumps(document))
    code = main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), *options])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_planted_slowdown_is_found_and_nothing_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = compare(capsys, tmp_path, result(), result(slower=1.2), "--fail-above", "1.1", "--json")
    document = json.loads(out)
    assert code == 1 and document["above"] == 2
    verdicts = {(row["provider"], row["measure"]): row["verdict"] for row in document["rows"]}
    assert verdicts == {
        ("torch-fused", "kernel"): NO_DIFFERENCE,
        ("torch-fused", "step"): NO_DIFFERENCE,
        ("kernels-fused", "kernel"): "slower",
        ("kernels-fused", "step"): "slower",
    }
    slow = document["rows"][-1]
    assert slow["lo"] < slow["ratio"] < slow["hi"] and slow["ratio"] == pytest.approx(1.2, rel=1e-3)
    assert compare(capsys, tmp_path, result(slower=1.2), result(), "--fail-above", "1.1")[0] == 0
    assert compare(capsys, tmp_path, result(), result(slower=1.2), "--fail-above", "1.5")[0] == 0


def test_few_samples_show_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    six = result(slower=9.0, samples=6)
    code, out, _ = compare(capsys, tmp_path, result(samples=6), six, "--fail-above", "1.1", "--json")
    assert code == 0 and {row["verdict"] for row in json.loads(out)["rows"]} == {"too few samples"}
    assert json.loads(out)["too_few_samples"] == 4
    _, out, _ = compare(capsys, tmp_path, result(samples=6), six, "--fail-above", "1.1")
    assert "4 ratios of too few samples cannot fail" in out


def test_wrong_bits_have_no_time_in_an_older_result_either(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = result()
    wrong["rows"][1]["differing_elements"] = 3
    _, out, _ = compare(capsys, tmp_path, wrong, result(slower=1.2), "--json")
    assert {row["provider"] for row in json.loads(out)["rows"]} == {"torch-fused"}


def test_rows_of_one_side_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    less = result()
    less["steps"] = {"rows": [less["rows"].pop()]}
    _, out, _ = compare(capsys, tmp_path, result(), less, "--json")
    document = json.loads(out)
    assert [row["provider"] for row in document["only_in_a"]] == ["kernels-fused"]
    assert [(row["provider"], row["table"]) for row in document["only_in_b"]] == [("kernels-fused", "steps")]


@pytest.mark.parametrize("other", [{"options": {"lr": 1e-3, "amsgrad": True}}, {"elements": 1 << 21}, {"tensors": 2}])
def test_other_work_under_one_name_has_no_ratio(
    other: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second = result(), result(slower=2.0)
    for row in (*first["rows"], *second["rows"]):
        row["options"] = {"lr": 1e-3}
    second["rows"][1].update(other)
    code, out, _ = compare(capsys, tmp_path, first, second, "--fail-above", "1.1", "--json")
    document = json.loads(out)
    assert code == 0 and {row["provider"] for row in document["rows"]} == {"torch-fused"}
    assert [row["provider"] for row in document["other_work"]] == ["kernels-fused"]
    out = compare(capsys, tmp_path, first, second)[1]
    assert f"no ratio, the work is not the same: kernels-fused AdamW fp32 2^20: {next(iter(other))}" in out
    second["rows"][0].update(other)
    code, out, error = compare(capsys, tmp_path, first, second)
    assert (code, out) == (2, "") and f"no time in common with A ({next(iter(other))}" in error
    # A result of an older version names no options.
    del second["rows"][0]["options"], second["rows"][1]["options"]
    assert compare(capsys, tmp_path, first, second)[0] == (0 if "options" in other else 2)


@pytest.mark.parametrize("side", ["A", "B", "A and B"])
def test_times_of_a_device_that_was_held_back_cannot_fail(
    side: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second = result(), result(slower=2.0)
    for name, document in (("A", first), ("B", second)):
        document["rows"][1]["throttled"] = name in side
    code, out, _ = compare(capsys, tmp_path, first, second, "--fail-above", "1.1", "--json")
    document = json.loads(out)
    verdicts = {(row["provider"], row["throttled"], row["verdict"]) for row in document["rows"]}
    assert verdicts == {("torch-fused", "", NO_DIFFERENCE), ("kernels-fused", side, "device held back")}
    assert (code, document["above"], document["held_back"]) == (0, 0, 2)
    assert (
        "2 ratios are of times that a device took while it was held back" in compare(capsys, tmp_path, first, second)[1]
    )


def test_unlike_machines_are_compared_only_when_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = result(machine="H200")
    code, out, error = compare(capsys, tmp_path, result(), other)
    assert (code, out) == (2, "") and "device_name: H100 and H200" in error and "--unlike" in error
    code, out, _ = compare(capsys, tmp_path, result(), other, "--unlike")
    assert code == 0 and "unlike: device_name" in out
    assert unlike(result(), result()) == []


@pytest.mark.parametrize(
    ("second", "options", "complaint"),
    [
        ("", (), "empty"),
        ('{"rows": [', (), "damaged"),
        ("[]", (), "no rows"),
        ({"schema": 7, "rows": []}, (), "schema 7, not 1"),
        ({"schema": 1, "rows": [{"provider": "x"}]}, (), "damaged: not a row"),
        ({"schema": 1, "rows": []}, (), "no step times"),
        ({"schema": 1, "rows": [5]}, (), "damaged"),
        ({"schema": 1, "rows": 5}, (), "no rows"),
        (result(rows=[{**result()["rows"][0], "samples_step_ns": "fast"}]), (), "samples_step_ns is no list"),
        (result(rows=[{**result()["rows"][0], "kernel_time_ns": "fast"}]), (), "kernel_time_ns is 'fast'"),
        (result(rows=[{**result()["rows"][0], "provider": 7}]), (), "provider is 7"),
        *(
            (result(rows=[{**result()["rows"][0], **wrong}]), (), complaint)
            for wrong, complaint in (
                ({"samples_step_ns": [5, -1]}, "samples_step_ns is no list of times"),
                ({"samples_kernel_ns": [0] * 30}, "samples_kernel_ns is no list of times"),
                ({"samples_queued_ns": [float("nan")] * 30}, "samples_queued_ns is no list of times"),
                ({"step_time_ns": float("nan")}, "step_time_ns is nan"),
                ({"step_time_quantiles": {"q10": "low"}}, "step_time_quantiles is"),
                ({"throttled_ns": {"step": 5}}, "throttled_ns is"),
                ({"options": []}, "options is []"),
                ({"options": {"lr": [1, {}]}}, "options is"),
                ({"kernel_time_ns": -5.0}, "kernel_time_ns is -5.0"),
                ({"step_time_ns": 0}, "step_time_ns is 0"),
                ({"state_bytes": -1}, "state_bytes is -1"),
                ({"elements": 10**400}, "elements is 1000"),
                ({"elements": 0, "tensors": 0}, "0 elements in 0 tensors"),
                ({"samples_kernel_ns": [10**400] * 9}, "samples_kernel_ns is no list of times"),
                ({"provider": "\ud800"}, "damaged: 'utf-8' codec"),
            )
        ),
        ("[" * 100_000 + "]" * 100_000, (), "damaged: maximum recursion depth"),
        ({"schema": 1, "rows": [None]}, (), "rows are no list of records"),
        (result(steps=[1]), (), "steps are no record"),
        (result(steps={"rows": 5}), (), "rows are no list of records"),
        (result(copy_gb_per_s=5), (), "copy_gb_per_s is 5"),
        (result(copy_gb_per_s={"1": "fast"}), (), "copy_gb_per_s is {'1': 'fast'}"),
        (result(rows=[result()["rows"][0]] * 2), (), "damaged: two rows of torch-fused AdamW fp32 2^20"),
        (result(ceilings=7), (), "ceilings are 7"),
        (result(ceilings=[{"copy_gb_per_s": 0}]), (), "a ceiling's copy_gb_per_s is 0"),
        (result(ceilings=[{"copy_gb_per_s": 1e-320}]), (), "a ceiling's copy_gb_per_s is 1e-320"),
        (result(launch_ns="short"), (), "launch_ns is 'short'"),
        (result(provenance=7), (), "provenance is 7"),
        (result(), (), "is A again"),
        *((result(slower=2.0), ("--fail-above", value), "--fail-above") for value in ("0", "nan", "inf")),
        (result(rows=[{**result()["rows"][0], "workload": "2^21"}]), (), "no time in common"),
    ],
)
def test_bad_input_is_one_line(
    second: Any, options: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, error = compare(capsys, tmp_path, result(), second, *options)
    assert (code, out) == (2, "") and len(error.splitlines()) == 1
    assert complaint in error


@pytest.mark.parametrize("options", [{"bogus": 1}, {"lr": -1}, {"lr": 0.1, "betas": [0.9, 0.99]}])
def test_what_this_version_does_not_know_has_no_prediction(
    options: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Rows of another version's optimizers, options and dtypes are on the page, and the model is silent about them."""
    rows = [{**row, "options": options, "kernel_time_ns": 1e5} for row in result()["rows"]]
    rows += [{**rows[0], "optimizer": "Nope"}, {**rows[1], "optimizer": "Nope"}, {**rows[1], "dtype": "fp64"}]
    ceilings = [{"bytes": 1 << 30, "copy_gb_per_s": 3000.0}]
    path = tmp_path / "timing.json"
    path.write_text(json.dumps(result(rows=rows, ceilings=ceilings)))
    assert main(["report", str(path), "--out", str(tmp_path / "page.html")]) == 0
    found = read_result(path, "RESULT")
    _, told = predictions(found.document, found.rows.values())
    assert len(told) == (2 if "betas" in options else 0)


def test_results_come_through_pipes_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """As a shell hands them over, `<(...)`: what was read once is not there a second time."""
    paths = []
    for number, document in enumerate((result(), result(slower=1.5))):
        paths.append(tmp_path / str(number))
        os.mkfifo(paths[-1])
        threading.Thread(target=paths[-1].write_text, args=(json.dumps(document),), daemon=True).start()
    assert main(["compare", *map(str, paths)]) == 0
    assert "1.5" in capsys.readouterr().out


def test_whole_steps_alone_are_a_result(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = compare(capsys, tmp_path, {"steps": result()}, {"steps": result(slower=1.2)}, "--json")
    assert code == 0 and {row["table"] for row in json.loads(out)["rows"]} == {"steps"}


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "a")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "cannot be read" in error


@pytest.mark.parametrize("count", [7, 8, 15, 30, 101])
def test_the_interval_of_a_median_is_that_of_scipy(count: int) -> None:
    samples = [k * k % 997 for k in range(count)]
    found = stats.quantile_test(samples, p=0.5).confidence_interval(0.975)
    assert median_interval(samples) == (found.low, found.high)
    assert median_interval(samples[:6]) is None


def test_the_kept_results_are_read() -> None:
    kept = sorted(RESULTS.glob("*/timing.json"))
    assert kept
    for path in kept:
        found = read_result(path, "A")
        assert len(found.rows) >= 64 and all(key[3] for key in found.rows)


def test_other_kernels_make_a_result_stale() -> None:
    fresh = {"fingerprints": {name: kernels.fingerprint(name) for name in kernels.ALGORITHMS}}
    assert stale(fresh) == []
    assert stale({"fingerprints": {**fresh["fingerprints"], "sgd": "0"}}) == ["sgd"]
    assert stale({}) == [*kernels.ALGORITHMS]
