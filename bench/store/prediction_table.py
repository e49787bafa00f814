"""The table of every prediction: from docs/predictions.csv, which `lossscale verdicts` keeps of full runs."""

from __future__ import annotations

import csv
from pathlib import Path

_SECTIONS = ["S1", "S2", "S3", "S4a", "S4b", "S4c", "S4d", "S4e", "S5", "S6", "S8"]


def rows(kept: Path) -> list[list[str]]:
    """[id, sentence, study, predicted, measured, verdict] by section and topic; one line per prediction and study."""
    with kept.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    return [
        [
            row["prediction"],
            row["says"].replace("|", "\\|"),
            row["study"],
            row["predicted"] or "—",
            row["measured"] or "—",
            _verdict(row),
        ]
        for row in sorted(found, key=_place)
    ]


def _place(row: dict[str, str]) -> tuple[int, str, int, str]:
    section, topic, number = (
        row["prediction"].split(".")
        if row["prediction"].count(".") == 2
        else (
            *row["prediction"].split(".")[:1],
            "",
            row["prediction"].rpartition(".")[2],
        )
    )
    return _SECTIONS.index(section), topic, int(number), row["study"]


def _verdict(row: dict[str, str]) -> str:
    """The verdict, with its lines where they do not all agree."""
    counts = {
        word: int(row[column]) for word, column in (("hold", "hold"), ("fail", "fail"), ("unresolved", "unresolved"))
    }
    several = [f"{count} {word}" for word, count in counts.items() if count]
    return f"{row['verdict']} ({', '.join(several)})" if len(several) > 1 else row["verdict"]
