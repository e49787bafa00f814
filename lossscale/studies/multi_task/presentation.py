"""How the study shows itself: which weights Adam cancels, arm by arm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...report.told import Told
from . import CANCELS, COMMON, OWN, WORKS

if TYPE_CHECKING:
    import plotly.graph_objects as go


class MultiTask(Told):
    """The presentation of ``multi-task``."""

    question = "Does Adam cancel the weights of a · L₁ + b · L₂?"
    limits = (
        "Two heads of 7 parameters on a trunk of 42, under the article’s two losses; Adam and Adam-atan2 at lr "
        "0.01, 200 steps, float32, factors 1/16, 16 and 1,024.",
        "Weights that differ are (1, 4) alone, and “no eps” is eps times 1/4 to 16. Which weights are good for a "
        "task is not asked.",
    )

    def answers(self, summary: pd.DataFrame) -> Sequence[str]:
        """Only what they have in common."""
        own, common = (_pairs(summary, claim.id) for claim in (OWN, COMMON))
        works = summary[summary["prediction"] == WORKS.id].iloc[0]
        still = summary[summary["prediction"] == CANCELS.id].iloc[0]
        return (
            "Only what has no other loss beside it: a factor 2^k common to both changes no bit once eps is mapped "
            f"({common} "
            f"pairs), nor does a head’s own weight on a frozen trunk ({own} pairs).",
            f"On a shared trunk weights that differ work as they should: (1, 4) ends {works['measured']:.2g} "
            f"[{works['lo']:.2g}, "
            f"{works['hi']:.2g}] of the way that (1, 1) went away from it ({works['pairs']} pairs), and no eps "
            "brings it back.",
            f"The article’s second script compares with a network that moves {still['measured']:g}: its two losses "
            "cancel.",
        )

    def figures(self, summary: pd.DataFrame, run: Path) -> Iterator[tuple[str, go.Figure, str]]:
        """Distance from equal weights, for every eps."""
        del run
        import plotly.graph_objects as go

        figure = go.Figure()
        adam = summary[(summary["optimizer"] == "adam") & (summary["quantity"] == "median_distance_over_moved")]
        for color, (name, arm, network) in zip(
            ("#1f5fbf", "#d9822b", "#2b8a3e"),
            (
                ("(1, 4), eps × factor", "uneven", "two-heads"),
                ("(s, s), eps × s", "common-factor", "two-heads"),
                ("one ulp", "ulp", "two-heads"),
            ),
            strict=True,
        ):
            lines = adam[(adam["arm"] == arm) & (adam["network"] == network)].sort_values("scale")
            figure.add_scatter(
                x=lines["scale"],
                y=lines["measured"],
                mode="lines+markers",
                name=name,
                line={"color": color},
                hovertemplate="factor %{x:.4g}: %{y:.3g}<extra>%{fullData.name}</extra>",
            )
        figure.update_xaxes(type="log", title="factor")
        figure.update_yaxes(title="distance from (1, 1) / way it went", rangemode="tozero")
        figure.update_layout(
            template="none",
            height=360,
            margin={"l": 70, "r": 10, "t": 20, "b": 50},
            legend={"orientation": "h", "y": -0.2},
        )
        yield "Two heads on one trunk", figure, "Adam, 200 steps, median over initialisations."

    def numbers(self, summary: pd.DataFrame) -> tuple[Sequence[dict[str, Any]], str]:
        """Every arm."""
        wide = summary[summary["against"] == "base"].pivot_table(
            index=["network", "optimizer", "arm", "scale"],
            columns="quantity",
            values="measured",
            aggfunc="first",
            sort=False,
        )
        rows = [{str(name): value for name, value in row.items()} for row in wide.reset_index().to_dict("records")]
        return (
            rows,
            "Shares and distances of pairs with the base arm (1, 1); a head’s own weight is compared on that head.",
        )


def _pairs(summary: pd.DataFrame, claim: str) -> str:
    lines = summary[summary["prediction"] == claim]
    same = round(float((lines["measured"] * lines["pairs"]).sum()))
    return f"{same} of {int(lines['pairs'].sum())}"
