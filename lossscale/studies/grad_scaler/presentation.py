"""How the study shows itself: skip rates against how fast the gradient maximum wanders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ...report.told import Told
from . import ALONE, EXACT
from .script import SLOW

if TYPE_CHECKING:
    import plotly.graph_objects as go


class GradScaler(Told):
    """The presentation of ``grad-scaler``."""

    question = "What does a dynamic loss scale cost?"
    limits = (
        "The gradient maximum is a drawn process (log₂ of it wanders about 0 and forgets in 20,000 steps), at five "
        "paces: how often a training skips depends on its own. Rates are means over all chains, without an interval.",
        "Both policies are written anew from their sources, in powers of two. The networks (6-6-1, SGD, Adam and "
        "Adam-atan2, 300 steps) have float32 numbers with float16’s range: rounding to float16 is not part of it.",
    )

    def answers(self, summary: pd.DataFrame) -> Sequence[str]:
        """Steps, and no bits."""
        rates = summary[(summary["quantity"] == "skip_rate") & (summary["network"] == f"wander {SLOW:g}")]
        by_arm = dict(zip(rates["arm"], rates["measured"], strict=True))
        alone, exact = (_pairs(summary, claim.id) for claim in (ALONE, EXACT))
        neighbours = summary.loc[summary["quantity"] == "skipped_steps_of_neighbour", "measured"]
        return (
            f"One step in {1 / by_arm['torch']:.0f} under torch.amp’s policy and one in "
            f"{1 / by_arm['deepspeed']:.0f} under "
            f"DeepSpeed’s, on a gradient maximum that wanders by {SLOW:g} binades a step "
            f"({int(rates['pairs'].iloc[0]):,} "
            "steps each).",
            f"No bit: float32 training with a scale of powers of two has those of training without ({exact} pairs).",
            f"Nobody else’s steps: with a scale per model {alone} pairs have the same bits beside neighbours that "
            "skipped "
            f"{neighbours.min():.0f} to {neighbours.max():.0f} steps.",
        )

    def figures(self, summary: pd.DataFrame, run: Path) -> Iterator[tuple[str, go.Figure, str]]:
        """Both rates."""
        del run
        import plotly.graph_objects as go

        figure = go.Figure()
        rates = summary[summary["quantity"] == "skip_rate"]
        for color, (arm, lines) in zip(("#1f5fbf", "#d9822b"), rates.groupby("arm", sort=False), strict=True):
            wander = lines["network"].str.removeprefix("wander ").astype(float)
            figure.add_scatter(
                x=wander,
                y=lines["measured"],
                mode="lines+markers",
                name=str(arm),
                line={"color": color},
                hovertemplate="%{x:g} binades a step: %{y:.3g}<extra>%{fullData.name}</extra>",
            )
        figure.update_xaxes(title="how far log₂ of the gradient maximum wanders in a step")
        figure.update_yaxes(title="share of steps skipped", rangemode="tozero")
        figure.update_layout(
            template="none",
            height=360,
            margin={"l": 70, "r": 10, "t": 20, "b": 50},
            legend={"orientation": "h", "y": -0.2},
        )
        yield (
            "Skipped steps",
            figure,
            "Both policies see the same maxima; a step overflows where scale · maximum leaves the range.",
        )


def _pairs(summary: pd.DataFrame, claim: str) -> str:
    lines = summary[summary["prediction"] == claim]
    same = round(float((lines["measured"] * lines["pairs"]).sum()))
    return f"{same} of {int(lines['pairs'].sum())}"
