"""docs/science.md against the studies: every prediction is derived there, and none is named that no study judges."""

import json
import re
from pathlib import Path

import pytest

from lossscale import studies
from lossscale.__main__ import main

SCIENCE = (Path(__file__).resolve().parents[2] / "docs" / "science.md").read_text(encoding="utf-8")
ID = re.compile(r"\bS\d[a-e]?\.[a-z][\w-]*(?:\.[\w-]+)*\.\d+\b")


def test_every_prediction_stands_in_the_page_and_every_id_there_is_judged() -> None:
    judged = {name for study in studies.every() for name in study.statements}
    named = set(ID.findall(SCIENCE))
    assert sorted(judged - named) == [], "not in docs/science.md"
    assert sorted(named - judged) == [], "judged by no study"


def test_the_list_of_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--predictions", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["prediction"] for row in rows} == {name for study in studies.every() for name in study.statements}
    assert all(row["says"].endswith((".", "?")) for row in rows)
