import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lossscale.support import html
from lossscale.support.output import Output, format_table, format_time, to_json

ROWS = [{"name": "adam", "share": 0.123456, "pairs": 12}, {"name": "sgd", "share": None, "pairs": 1200}]


def test_columns_are_aligned() -> None:
    assert format_table(ROWS).splitlines() == [
        "name   share  pairs",
        "----  ------  -----",
        "adam  0.1235     12",
        "sgd             1200".replace("    1200", "   1200"),
    ]


def test_chosen_columns_and_no_rows() -> None:
    assert format_table(ROWS, ["pairs", "name"]).splitlines()[2] == "   12  adam"
    assert format_table([], ["pairs"]).splitlines() == ["pairs", "-----"]


def test_values_that_json_lacks() -> None:
    @dataclass
    class Record:
        path: Path
        values: tuple[float, ...]

    document = {"r": Record(Path("a"), (1.5, float("nan"), float("inf"))), "n": np.float32(0.5), "a": np.arange(2)}
    assert json.loads(to_json(document)) == {"r": {"path": "a", "values": [1.5, None, None]}, "n": 0.5, "a": [0, 1]}
    assert json.loads(to_json({"x": np.float64("nan"), 3: None})) == {"x": None, "3": None}


def test_a_value_without_a_place_in_json_is_refused() -> None:
    with pytest.raises(TypeError, match="a set has no place"):
        to_json({"x": {1}})


def test_people_read_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    with Output() as out:
        out.note("done")
        out.table(ROWS, title="Shares", seed=20)
    captured = capsys.readouterr()
    assert captured.out.startswith("done\nShares\nname   share  pairs\n")
    assert captured.err == ""


SCRIPT = """
import os, subprocess, sys
from lossscale.support.output import Output
with Output(as_json=True) as out:
    print("a stray print")
    os.write(1, b"a library written in C\\n")
    subprocess.run(["echo", "a worker"], check=True)
    out.note("a note")
    out.table([{"share": float("nan")}], seed=20)
    if "fail" in sys.argv:
        raise KeyError("a bug")
"""


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_json_is_all_there_is_on_standard_output() -> None:
    done = run_script()
    assert json.loads(done.stdout) == {"rows": [{"share": None}], "seed": 20}
    assert done.stderr.split("\n")[:4] == ["a stray print", "a library written in C", "a worker", "a note"]


def test_after_a_bug_there_is_no_document() -> None:
    done = run_script("fail")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "KeyError: 'a bug'" in done.stderr


def test_a_second_document_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match=r"called Output\.table twice"), Output(as_json=True) as out:
        out.table([])
        out.table([])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ns"),
        (2.5e-9, "2.5 ns"),
        (999.4e-9, "999 ns"),
        (999.6e-9, "1 µs"),
        (25.28e-6, "25.3 µs"),
        (0.1963, "196 ms"),
        (0.9996, "1 s"),
        (61.04, "61 s"),
        (4321.0, "4321 s"),
        (-3e-3, "-3 ms"),
    ],
)
def test_times_read_well(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


def test_columns_of_times_have_units_in_their_cells() -> None:
    rows = [{"name": "a", "step_us": 1.963e5, "gb_per_s": 0.5}, {"name": "b", "step_us": None, "gb_per_s": 2.0}]
    assert format_table(rows).splitlines()[0] == "name    step  gb_per_s"
    assert format_table(rows).splitlines()[2:] == ["a     196 ms       0.5", "b                    2"]
    assert "196 ms" in html.table(rows) and ">step<" in html.table(rows) and "step_us" not in html.table(rows)
