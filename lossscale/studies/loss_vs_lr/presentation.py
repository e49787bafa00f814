"""How the default study shows itself: its three answers as a table, in sentences and in pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from ...report.figures import to_html
from ...report.labels import raised_powers
from ...report.neutral import Neutral
from ...runs.summary import read_summary
from ...support.html import figure, paragraph, table
from . import figures
from .answers import LEGEND, answers, wide_rows
from .sentences import sentences

TITLES: Final = {
    "changes_training": "does loss × s change training?",
    "distance_s>1": "distance, s > 1",
    "distance_s<1": "distance, s < 1",
    "same_as_lr": "same as lr × s?",
    "distance_to_lr": "distance of the two",
    "mapped_identical": "mapped run identical?",
    "one_ulp_control": "one-ulp control",
    "nonfinite": "non-finite pairs",
    "hold": "predictions that hold",
    "fail": "that fail",
}


class Answers(Neutral):
    """The presentation of ``loss-vs-lr``."""

    def table(self, run: Path) -> list[dict[str, Any]]:
        """Words and numbers, one row per network and optimizer."""
        return wide_rows(read_summary(run))

    def sentences(self, run: Path) -> list[str]:
        """One for each of the three questions."""
        return sentences(answers(read_summary(run)))

    def legend(self, run: Path) -> Sequence[str]:
        """What the words of the table mean."""
        del run
        return [LEGEND]

    def sections(self, run: Path) -> Iterable[tuple[str, str, str]]:
        """The table network by network, and the pictures."""
        summary = read_summary(run)
        rows = wide_rows(summary)
        parts = [paragraph(raised_powers(LEGEND))]
        for network in dict.fromkeys(row["network"] for row in rows):
            columns = [name for name in rows[0] if name != "network"]
            own = [row for row in rows if row["network"] == network]
            parts.append(f"<h3>{escape(network)}</h3>{table(own, columns, titles=TITLES)}")
        yield "Optimizer by optimizer", "table", "".join(parts)
        parts = []
        for place, network in enumerate(dict.fromkeys(summary["network"])):
            drawn = to_html(figures.distance_figure(summary, network), f"{self.study.name}-distance-{place}")
            caption = figures.distance_caption(summary, network)
            parts.append(f"<h3>Distance against s: {escape(network)}</h3>{figure(drawn, caption)}")
            if figures.has_ratios(summary, network):
                drawn = to_html(figures.ratio_figure(summary, network), f"{self.study.name}-ratio-{place}")
                caption = figures.ratio_caption(network)
                parts.append(f"<h3>The first update against s: {escape(network)}</h3>{figure(drawn, caption)}")
        yield "Pictures", "pictures", "".join(parts)
