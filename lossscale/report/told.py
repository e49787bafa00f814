"""The form of a study that tells one story: a question, its answer in a few sentences, pictures, and its table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..runs.summary import read_summary
from .neutral import Neutral, verdict_sentence

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Told(Neutral, ABC):
    """A presentation whose words and pictures come from the run's summary.

    A subclass has a `question` and `answers`, and mostly `figures`; `table` is that of the predictions unless it has
    its own.
    """

    @abstractmethod
    def answers(self, summary: pd.DataFrame) -> Sequence[str]:
        """At most three sentences, every one with its numbers; computed, never assumed."""

    def figures(self, summary: pd.DataFrame, run: Path) -> Iterable[tuple[str, go.Figure, str]]:
        """Title, picture and caption, the one that shows the answer first."""
        del summary, run
        return ()

    def numbers(self, summary: pd.DataFrame) -> tuple[Sequence[dict[str, Any]], str]:
        """Rows of the study's table on the page, and its caption; none without rows."""
        del summary
        return (), ""

    def sentences(self, run: Path) -> Sequence[str]:
        """The question with the first sentence of its answer, the others, and how the predictions fared."""
        summary = read_summary(run)
        first, *others = self.answers(summary)
        return [f"{self.question} {first}", *others, verdict_sentence(summary)]

    def sections(self, run: Path) -> Iterator[tuple[str, str, str]]:
        """The pictures, and the table beside them."""
        from ..support.html import figure, table
        from .figures import to_html
        from .parts import titled

        summary = read_summary(run)
        drawn = [
            (title, figure(to_html(picture, f"{self.study.name}-{place}"), caption))
            for place, (title, picture, caption) in enumerate(self.figures(summary, run))
        ]
        if drawn:
            yield "Pictures", "pictures", titled(drawn)
        rows, caption = self.numbers(summary)
        if rows:
            yield "Numbers", "numbers", table(rows, caption=caption)
