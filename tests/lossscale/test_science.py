"""docs/science.md and docs/statements.csv against the studies: every statement is judged, every verdict is of one.

docs/statements.csv goes through the theory statement by statement, in its order: section, id, study, the statement in
few words, and, where none can judge it, why. A statement may come twice, where the theory has it twice.
"""

import csv
import re
from pathlib import Path

import pytest

from lossscale import studies
from lossscale.design.claims import EPS_FREE, FLOOR, MAPPED, NULL

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCIENCE = (DOCS / "science.md").read_text(encoding="utf-8")
ID = re.compile(r"\bS\d[a-e]?(?:\.[a-z][\w-]*)*\.\d+\b")
with (DOCS / "statements.csv").open(encoding="utf-8", newline="") as file:
    STATEMENTS = list(csv.DictReader(file))
JUDGED = {
    name: {study.name for study in studies.every() if name in study.statements}
    for name in sorted({name for study in studies.every() for name in study.statements})
}
"""By its id: the studies that judge a statement."""

MAPPED_IN = {
    "loss-vs-lr": "S2.map.1",
    "exactness": "S5.exactness.1",
    "mid-run": "S5.mid-run.6",
    "multi-task": "S5.multi-task.2",
    "clip": "S5.clip.4",
    "real-gradients": "S5.real-gradients.1",
}
"""By what a study judges its mapped pairs where that is no control but its subject."""


def test_every_prediction_stands_in_the_page_and_every_id_there_is_judged() -> None:
    judged, named = set(JUDGED), set(ID.findall(SCIENCE))
    assert sorted(judged - named) == [], "not in docs/science.md"
    assert sorted(named - judged) == [], "judged by no study"


def test_every_statement_is_judged_and_every_verdict_is_of_a_statement() -> None:
    listed = {row["id"] for row in STATEMENTS if row["id"]}
    assert sorted(listed - set(JUDGED)) == [], "in docs/statements.csv, judged by no study"
    assert sorted(set(JUDGED) - listed) == [], "judged, not in docs/statements.csv"
    assert [row["statement"] for row in STATEMENTS if not row["id"] and not row["remark"]] == [], "without a reason"
    assert all(row["section"] and row["statement"] for row in STATEMENTS)


def judges(text: str) -> set[str]:
    """The studies that a row names: "clip, window", "every study", "every study but window"."""
    if not text.startswith("every study"):
        return set(text.split(", "))
    return set(studies.names()) - set(text.removeprefix("every study").removeprefix(" but ").split(", "))


@pytest.mark.parametrize("name", sorted(JUDGED))
def test_statements_name_the_studies_that_judge_them(name: str) -> None:
    named = [judges(row["study"]) for row in STATEMENTS if row["id"] == name]
    assert set.union(*named) == JUDGED[name]


def test_sections_come_in_their_order() -> None:
    order = [row["section"] for row in STATEMENTS]
    assert sorted(order, key=lambda name: name[0]) == order


@pytest.mark.parametrize("study", studies.every(), ids=lambda study: study.name)
def test_every_study_carries_the_controls(study: studies.Study) -> None:
    wanted = {NULL.id, EPS_FREE.id, MAPPED_IN.get(study.name, MAPPED.id)}
    if study.name != "window":  # which has the floor of every cell in its tables
        wanted.add(FLOOR.id)
    assert sorted(wanted - set(study.statements)) == []
    if study.grid is not None:
        assert {"null", "mapped", "ulp", "floor"} <= set(study.grid.arms)
