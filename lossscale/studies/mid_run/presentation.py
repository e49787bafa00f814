"""How the study shows itself: the step's response over time, and what carries a new scale over."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...design.claims import EPS_FREE
from ...report.told import Told
from . import CARRIED, FELT
from .script import LIMIT, RESPONSES

if TYPE_CHECKING:
    import plotly.graph_objects as go

_COLORS = ("#1f5fbf", "#d9822b", "#2b8a3e", "#8e44ad", "#c0392b", "#16788a", "#7a5c00", "#555b66", "#b03a78")


class MidRun(Told):
    """The presentation of ``mid-run``."""

    question = "May the loss scale change during training?"
    limits = (
        "The responses are of a steady gradient that changes once, under Adam with β₁ = .9, three β₂ and an eps "
        "that is nothing; noise would blur them. RMSprop and Adagrad are not run.",
        "The networks are the article’s, in float32 at lr 0.01: changed at step 101 by 1/8, 8 or 2¹², compared "
        "after 100 steps more.",
    )

    def answers(self, summary: pd.DataFrame) -> Sequence[str]:
        """Not for free, and how it can be had for nothing."""
        up, down = _of(summary, "peak", 0.999, 8.0), _of(summary, "lowest", 0.999, 1 / 8)
        first, last = (_of(summary, f"{end}_step_under_half", 0.999, 1 / 8) for end in ("first", "last"))
        carried, felt = summary[summary["prediction"] == CARRIED.id], summary[summary["prediction"] == FELT.id]
        free = summary[summary["prediction"] == EPS_FREE.id]
        pairs = int(carried["pairs"].sum())
        same, left = (round(float((lines["measured"] * lines["pairs"]).sum())) for lines in (carried, felt))
        return (
            f"Not for free under Adam: a loss × 8 makes the step of a warm state (β₂ = .999, steady gradient) {up:.2f} "
            f"times as long before it returns to 1, and ÷ 8 leaves {down:.2f} of it, under half from step {first:.0f} "
            f"to {last:.0f}.",
            f"With β₂ = .95 ÷ 10 lasts to step {_of(summary, 'last_step_under_half', 0.95, 0.1):.0f} instead of "
            f"{_of(summary, 'last_step_under_half', 0.999, 0.1):.0f}.",
            f"Mapped moments (m × s, v × s²) and eps × s carry 2^k over without a trace: {same} of {pairs} pairs agree "
            f"in every bit, {left} of {int(felt['pairs'].sum())} with the moments left alone; Adam-atan2 needs its "
            f"moments mapped too ({int(free['pairs'].sum())} pairs, smallest share identical "
            f"{free['measured'].min():g}).",
        )

    def figures(self, summary: pd.DataFrame, run: Path) -> Iterator[tuple[str, go.Figure, str]]:
        """The step against time since the change."""
        del summary
        import plotly.graph_objects as go

        kept: list[dict[str, Any]] = json.loads((run / RESPONSES).read_text(encoding="utf-8"))
        figure = go.Figure()
        for color, response in zip(_COLORS, kept, strict=False):
            steps = _places(len(response["step"]))
            figure.add_scatter(
                x=steps,
                y=[response["step"][step - 1] for step in steps],
                name=f"{_factor(response['factor'])}, β₂ {response['beta2']}",
                line={"color": color, "dash": "solid" if response["beta2"] == 0.999 else "dot"},
                hovertemplate="step %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
            )
        for level in (0.5, 1.0):
            figure.add_hline(y=level, line={"color": "#9aa3b2", "width": 1})
        figure.update_xaxes(type="log", title="steps since the gradient changed")
        figure.update_yaxes(type="log", title="step / step before")
        figure.update_layout(
            template="none",
            height=420,
            margin={"l": 60, "r": 10, "t": 20, "b": 50},
            legend={"orientation": "h", "y": -0.2},
        )
        yield (
            "A warm Adam after its gradient changes",
            figure,
            "Median of 1,024 elements whose gradients span 2^-10 to 2^10; eps is nothing. Lines: 1 and ½.",
        )


def _of(summary: pd.DataFrame, quantity: str, beta2: float, factor: float) -> float:
    chosen = summary[(summary["quantity"] == quantity) & summary["options"].str.endswith(f"; {beta2})")]
    return float(chosen.loc[chosen["scale"] == factor, "measured"].iloc[0])


def _factor(factor: float) -> str:
    if factor == LIMIT:
        return "× ∞"
    return f"× {factor:g}" if factor > 1 else f"÷ {1 / factor:g}"


def _places(steps: int) -> list[int]:
    """Steps to draw: all at first, then evenly on a logarithmic axis."""
    dense = range(1, min(steps, 60) + 1)
    return sorted({*dense, *(min(steps, round(math.exp(k / 60))) for k in range(240, round(60 * math.log(steps)) + 1))})
