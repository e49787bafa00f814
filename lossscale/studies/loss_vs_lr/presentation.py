"""How the default study shows itself: its three answers as a table, in sentences and in pictures."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from ...report.figures import to_html
from ...report.labels import raised_powers
from ...report.neutral import Neutral, unjudged
from ...report.parts import titled
from ...runs.records import CHECKSUMS, PAIRS, SUMMARY
from ...runs.summary import read_summary
from ...support.errors import input_errors
from ...support.html import figure, paragraph, table
from . import figures
from .answers import LEGEND, Answer, answers, rows_of
from .pairs import from_pairs
from .picture import draw
from .sentences import sentences

TITLES: Final = {
    "changes_training": "does loss × s change training?",
    "distance_s>1": "distance, s > 1",
    "distance_s<1": "distance, s < 1",
    "same_as_lr": "same as lr × s?",
    "distance_to_lr": "distance of the two",
    "one_ulp_at_lr": "one ulp at lr × s",
    "mapped_identical": "mapped run identical?",
    "one_ulp_control": "one-ulp control",
    "nonfinite": "non-finite pairs",
    "hold": "predictions that hold",
    "fail": "that fail",
}


class Answers(Neutral):
    """The presentation of ``loss-vs-lr``."""

    question = "Is a loss multiplied by s a learning rate multiplied by s?"
    limits = (
        "Two networks: the article’s (49 parameters, 128 initialisations) and a classifier of digits (2,410 "
        "parameters, 8 initialisations, so its medians have wide intervals), 200 steps at lr 0.01. The learning "
        "rate is tuned to no optimizer and to no s.",
        "How far apart two runs end grows with their length and their learning rate; the distances are no measure "
        "of how much worse a network is.",
    )

    def table(self, run: Path) -> list[dict[str, Any]]:
        """Words and numbers, one row per network, optimizer and, if there are several, policy."""
        return rows_of(_read(run).answers)

    def sentences(self, run: Path) -> list[str]:
        """One for each of the three questions, policy by policy."""
        found = _read(run).answers
        policies = list(dict.fromkeys(answer.policy for answer in found))
        return [
            f"{policy}: {line}" if len(policies) > 1 else line
            for policy in policies
            for line in sentences([answer for answer in found if answer.policy == policy])
        ]

    def legend(self, run: Path) -> Sequence[str]:
        """What the words of the table mean."""
        return [LEGEND, *unjudged(self.study, _read(run).summary)]

    def sections(self, run: Path) -> Iterable[tuple[str, str, str]]:
        """The table network by network, and the pictures."""
        read = _read(run)
        yield "Optimizer by optimizer", "table", paragraph(raised_powers(LEGEND)) + titled(_tables(read.answers))
        yield "Pictures", "pictures", titled(self._pictures(read.summary))

    def picture(self, run: Path, out: Path) -> None:
        """Distance against s under SGD and Adam."""
        with input_errors("RUN", run):
            draw(read_summary(run), out)

    def _pictures(self, summary: pd.DataFrame) -> Iterator[tuple[str, str]]:
        for policy, lines in _by_policy(summary):
            yield from self._pictures_of(lines, policy)

    def _pictures_of(self, summary: pd.DataFrame, policy: str) -> Iterator[tuple[str, str]]:
        for number, network in enumerate(summary["network"].unique()):
            place = f"{policy.partition(':')[0]}-{number}" if policy else str(number)
            drawn = to_html(figures.distance_figure(summary, network), f"{self.study.name}-distance-{place}")
            yield f"{policy}Distance against s: {network}", figure(drawn, figures.distance_caption(summary, network))
            if figures.has_ratios(summary, network):
                drawn = to_html(figures.ratio_figure(summary, network), f"{self.study.name}-ratio-{place}")
                yield f"{policy}The first update against s: {network}", figure(drawn, figures.ratio_caption(network))


def _by_policy(summary: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Each policy's lines with its name and a colon in front; without a name where there is only one."""
    policies = summary["policy"].unique().tolist()
    return [(f"{policy}: " if len(policies) > 1 else "", summary[summary["policy"] == policy]) for policy in policies]


@dataclass(frozen=True)
class _Read:
    """A run's summary and what it answers."""

    summary: pd.DataFrame
    answers: Sequence[Answer]


def _read(run: Path) -> _Read:
    """Terminal and page speak about one run after the other: the last one is kept as long as its files are the same."""
    files = (run / SUMMARY, run / CHECKSUMS, run / PAIRS)
    return _kept(
        run, tuple((file.stat().st_mtime_ns, file.stat().st_size) if file.exists() else None for file in files)
    )


@functools.lru_cache(maxsize=1)
def _kept(run: Path, files: tuple[tuple[int, int] | None, ...]) -> _Read:
    del files
    summary = read_summary(run)
    return _Read(summary, answers(summary, from_pairs(run)))


def _tables(found: Sequence[Answer]) -> Iterator[tuple[str, str]]:
    """Each network's rows."""
    rows = rows_of(found)
    for network in dict.fromkeys(row["network"] for row in rows):
        columns = [name for name in rows[0] if name != "network"]
        yield network, table([row for row in rows if row["network"] == network], columns, titles=TITLES)
