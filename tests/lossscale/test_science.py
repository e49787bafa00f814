"""docs/science.md against the studies: every prediction is derived there, and none is named that no study judges."""

import re
from pathlib import Path

from lossscale import studies

SCIENCE = (Path(__file__).resolve().parents[2] / "docs" / "science.md").read_text(encoding="utf-8")
ID = re.compile(r"\bS\d[a-e]?(?:\.[a-z][\w-]*)*\.\d+\b")


def test_every_prediction_stands_in_the_page_and_every_id_there_is_judged() -> None:
    judged = {name for study in studies.every() for name in study.statements}
    named = set(ID.findall(SCIENCE))
    assert sorted(judged - named) == [], "not in docs/science.md"
    assert sorted(named - judged) == [], "judged by no study"
