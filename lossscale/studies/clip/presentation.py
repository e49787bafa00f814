"""How the study shows itself: the error of the fixed 1e-6 against the norm, and clipped training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...report.told import Told
from . import ERROR, HIDDEN, TRAINED

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Clip(Told):
    """The presentation of ``clip``."""

    question = "Does clipping by norm survive a scaled loss?"
    limits = (
        "float32 only: the first gradients of the 6-6-1 network, brought to five norms, and its training under "
        "SGD, Adam and Adam-atan2 at lr 0.01 for 200 steps with s = 1/16 and 16.",
        "max_norm is 2⁻⁸, which nearly every step exceeds at first: where clipping is rare, its constant matters "
        "as rarely. Clipping per layer is not looked at.",
    )

    def answers(self, summary: pd.DataFrame) -> Sequence[str]:
        """With max_norm mapped up to a known error, and with max_norm left alone it hides the scale."""
        error = summary[summary["prediction"] == ERROR.id]
        worst = error.sort_values("measured").iloc[-1]
        hidden = summary[summary["prediction"] == HIDDEN.id]
        trained = summary[summary["prediction"] == TRAINED.id]
        same = round(float((trained["measured"] * trained["pairs"]).sum()))
        return (
            "Yes with max_norm × s, but for torch’s fixed 1e-6: the clipped gradient is off by 1e-6 · |1 − 1/s| / "
            "norm, "
            f"{worst['measured']:.2g} at {worst['options']} and s = {worst['scale']:g} (predicted "
            f"{worst['predicted']:.2g}; "
            f"{int(error['pairs'].iloc[0])} gradients a cell).",
            f"With that constant mapped too, clipped training under 2^k · L ends with the same bits: {same} of "
            f"{int(trained['pairs'].sum())} pairs of {trained['step'].iloc[0]} steps.",
            "With max_norm left alone and both runs clipped the scale does not reach the optimizer at all: the "
            "clipped "
            f"gradients differ by at most {hidden['measured'].max():.1g} of their size.",
        )

    def figures(self, summary: pd.DataFrame, run: Path) -> Iterator[tuple[str, go.Figure, str]]:
        """Predicted and measured error against s, a curve a norm."""
        del run
        import plotly.graph_objects as go

        figure = go.Figure()
        for color, (options, lines) in zip(
            ("#1f5fbf", "#d9822b", "#2b8a3e"),
            summary[summary["prediction"] == ERROR.id].groupby("options", sort=False),
            strict=False,
        ):
            figure.add_scatter(
                x=lines["scale"],
                y=lines["measured"],
                mode="markers",
                name=str(options),
                marker={"color": color, "size": 9},
                hovertemplate="s = %{x:.4g}: %{y:.3g}<extra>%{fullData.name}</extra>",
            )
            figure.add_scatter(
                x=lines["scale"],
                y=lines["predicted"],
                mode="lines",
                name=f"predicted, {options}",
                line={"color": color, "width": 1},
                hoverinfo="skip",
                showlegend=False,
            )
        figure.update_xaxes(type="log", title="s")
        figure.update_yaxes(type="log", title="relative error of the clipped gradient", exponentformat="power")
        figure.update_layout(
            template="none",
            height=380,
            margin={"l": 70, "r": 10, "t": 20, "b": 50},
            legend={"orientation": "h", "y": -0.2},
        )
        yield (
            "The fixed 1e-6",
            figure,
            "Median over gradients of the 6-6-1 network brought to three norms; lines: 1e-6 · |1 − 1/s| / norm.",
        )

    def numbers(self, summary: pd.DataFrame) -> tuple[Sequence[dict[str, Any]], str]:
        """How clipped training ended, arm by arm."""
        ends = summary[(summary["step"] > 1) & (summary["against"] == "base")]
        wide = ends.pivot_table(
            index=["optimizer", "arm", "scale"],
            columns="quantity",
            values="measured",
            aggfunc="first",
            sort=False,
        )
        rows = [{str(name): value for name, value in row.items()} for row in wide.reset_index().to_dict("records")]
        return rows, "max_norm = 2^-8; distance as a share of how far the unscaled run moved."
