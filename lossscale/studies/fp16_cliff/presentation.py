"""How the study shows itself: the windows of the states, and the cliff."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from ...report.charts import COLORS, Chart, Curve, Panel
from ...report.figures import FONT, GRID_COLOR
from ...report.numbers import lines_of, number, told
from ...report.told import Told
from ...support.errors import input_errors
from . import AVERAGE, BINADES, CLIFF, FUSED_LATER, GRADIENT, NO_NAN, SPAN, SQUARE, ZERO_OVER_ZERO

if TYPE_CHECKING:
    import plotly.graph_objects as go

_STATES: Final = {"fp32": "float32", "bf16-state": "bfloat16", "fp16-state": "float16"}
_HELD: Final = {"g": GRADIENT, "g²": SQUARE, "(1 − β₂) g²": AVERAGE}


class Cliff(Told):
    """The presentation of ``fp16-cliff``."""

    question = "Which gradients does a 16-bit state lose, and is eps = 1e-8 safe there?"
    limits = (
        "Single steps of Adam, and of RMSprop where it says so, on gradients that are drawn or swept: what a "
        "format can hold, not how much of it a training needs. Spans are those of the 6-6-1 nets at step 100; "
        "real networks’ are in the study real-gradients.",
        "β₂ is .999; at .95 a first v is 0 seven times farther down. No loss scale follows the gradients here.",
    )

    def answers(self, summary: pd.DataFrame) -> Sequence[str]:
        """The window, the NaN, the fused step."""
        low = number(summary, quantity="nonzero_from", options="(1 − β₂) g²")
        high = number(summary, quantity="infinite_from", options="g²")
        cliff = lines_of(summary, prediction=CLIFF.id)
        off = float((cliff["measured"] - cliff["predicted"]).abs().max())
        nan = told(summary, prediction=ZERO_OVER_ZERO.id)
        none = lines_of(summary, prediction=NO_NAN.id, policy="fp16-true", recipe="foreach")["measured"].max()
        return (
            f"A float16 second moment at β₂ = .999 keeps |g| from {low:.3g} to {high:.5g}, "
            f"{number(summary, prediction=BINADES.id):.3g} binades; the gradients of the 6-6-1 nets span "
            f"{number(summary, prediction=SPAN.id):.3g} after 100 steps, all nets together, and "
            f"{number(summary, quantity='binades_of_one_networks_gradients'):.2g} in the median net. Below it v is 0, "
            f"as predicted to within {100 * off:.2g} points of {int(cliff['pairs'].max()):,} elements.",
            f"eps = 1e-8 is 0 in float16 arithmetic: of the elements without a gradient a share of {nan} is NaN after "
            f"one step, with eps from 3e-8 on {none:g}; and no float16 v is small enough to see an eps up to 2^-23.",
            f"Fused kernels divide by the v that they have not stored yet, so they step on: by "
            f"{number(summary, prediction=FUSED_LATER.id):.3g} × lr at step 50 for g = 5e-3, until g is exactly 0 and "
            "every parameter infinite.",
        )

    def figures(self, summary: pd.DataFrame, run: Path) -> Iterator[tuple[str, go.Figure, str]]:
        """The windows, then the cliff."""
        del run
        yield (
            "What a state keeps of a gradient",
            _windows(summary),
            "Measured at every power of two. Dark: a normal number; light: subnormal, with fewer digits. To the left "
            "of a bar the state holds 0; a bar that ends is infinite from there on (an average is infinite later than "
            "the square, which it reaches in the end).",
        )
        yield (
            "The cliff",
            _cliff(summary).to_plotly(),
            (
                "Share of v = 0 after one step at β₂ = .999, gradients N(0, 5.46e-3²) multiplied by s. Marks: "
                "measured; line: the share of |s·g| ≤ 5.46e-3."
            ),
        )

    def numbers(self, summary: pd.DataFrame) -> tuple[Sequence[dict[str, Any]], str]:
        """First powers of two, number by number."""
        rows = [
            {
                "number": name,
                "state": state,
                **{event: _power(summary, name, policy, event) for event in ("nonzero", "normal", "infinite")},
            }
            for name in _HELD
            for policy, state in _STATES.items()
        ]
        return rows, "The first power of two of |g| at which the number in the state is not 0, normal, infinite."

    def picture(self, run: Path, out: Path) -> None:
        """The cliff."""
        from ...runs.summary import read_summary

        with input_errors("RUN", run):
            _cliff(read_summary(run)).draw(out, "float16 second moments that are 0 after one step")


def _power(summary: pd.DataFrame, name: str, policy: str, event: str) -> str:
    found = number(summary, quantity=f"first_{event}_power", options=name, policy=policy)
    return "" if np.isnan(found) else f"2^{found:.0f}"


def _windows(summary: pd.DataFrame) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    rows = [(name, policy) for name in _HELD for policy in _STATES]
    labels = [f"{name}, {_STATES[policy]}" for name, policy in rows]
    for event, until, color, said in (
        ("nonzero", "normal", "#9ecae1", "subnormal"),
        ("normal", "infinite", "#0072B2", "normal"),
    ):
        begin, end = ([_edge(summary, *row, name) for row in rows] for name in (event, until))
        figure.add_bar(
            y=labels,
            x=[b - a for a, b in zip(begin, end, strict=True)],
            base=begin,
            orientation="h",
            marker={"color": color},
            name=said,
            customdata=[f"2^{a:g} to 2^{b:g}" for a, b in zip(begin, end, strict=True)],
            hovertemplate="%{y}: " + said + " %{customdata}<extra></extra>",
        )
    figure.update_xaxes(title_text="log₂ |g|", gridcolor=GRID_COLOR)
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_layout(
        template="none",
        barmode="overlay",
        height=420,
        margin={"l": 10, "r": 10, "t": 10, "b": 50},
        font=FONT,
        legend={"orientation": "h", "y": -0.16, "yanchor": "top", "x": 0.0},
    )
    return figure


def _edge(summary: pd.DataFrame, name: str, policy: str, event: str) -> float:
    """Exponent of the first power; of what never happens, where float32's numbers end."""
    found = number(summary, quantity=f"first_{event}_power", options=name, policy=policy)
    if not np.isnan(found):
        return found
    return 16.0 if policy == "fp16-state" and name == "g" else 128.0 if name == "g" else 64.0


def _cliff(summary: pd.DataFrame) -> Chart:
    lines = lines_of(summary, prediction=CLIFF.id).sort_values("scale")
    curves: list[Curve] = []
    for place, ((policy, recipe), of) in enumerate(lines.groupby(["policy", "recipe"], sort=False)):
        x = list(np.log2(of["scale"]))
        if not place:
            curves.append(Curve(name="predicted", x=x, y=list(of["predicted"]), color="#5d6677"))
        marks = Curve(name=f"{policy}, {recipe}", x=x, y=list(of["measured"]), color=COLORS[place], marks=True)
        curves.append(marks)
    return Chart(panels=[Panel(title="", curves=curves)], x_title="log₂ s", y_title="share of v = 0")
