"""The pictures of the default study's page: distance, and the first update, against the scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pandas as pd

from ...design.scales import is_power_of_two
from ...report.curves import Panel, decades, panels, zero_level
from ...report.figures import GRID_COLOR, band, label_ends, panel_grid, place, scale_axes, span
from ...report.labels import optimizer_label

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """How one kind of pair is drawn: a shape, and one of Okabe and Ito's colours, told apart by all readers."""

    arm: str
    against: str
    label: str
    color: str
    symbol: str
    width: float


DRAWN: Final = (
    Drawn(arm="lr", against="base", label="lr × s", color="#D55E00", symbol="square", width=5.0),
    Drawn(arm="loss", against="base", label="loss × s", color="#0072B2", symbol="circle", width=2.0),
    Drawn(arm="loss", against="lr", label="between loss × s and lr × s", color="#CC79A7", symbol="diamond", width=2.0),
    Drawn(arm="mapped", against="base", label="mapped", color="#009E73", symbol="x", width=2.0),
)
"""Wide lines first, so that a curve that coincides with another stays visible on top of it."""

FLOOR_COLOR: Final = "#9a9a9a"
_EPS_COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def distance_figure(summary: pd.DataFrame, network: str) -> go.Figure:
    """Relative distance against s: a panel per optimizer, a colour per arm, the one-ulp control as a grey band."""
    found = [panel for panel in panels(summary) if panel.network == network]
    zero = zero_level(_distances(found))
    figure = panel_grid([optimizer_label(panel.optimizer, panel.options) for panel in found])
    low, high = round(math.log10(zero)), _top(found)
    named: set[Drawn] = set()
    floors = []
    for index, panel in enumerate(found):
        where = place(index)
        ends: list[tuple[float, str, str]] = []
        for arm in DRAWN:
            curve = panel.curve(arm.arm, arm.against, "median_rel_distance")
            curve = curve[curve["scale"] != 1.0]
            if curve.empty:
                continue
            _add_curve(figure, curve, arm, zero, legend=arm not in named, where=where)
            named.add(arm)
            end = max(float(curve["measured"].iloc[-1]), zero)
            ends.append((math.log10(end), arm.label if arm.against == "base" else "loss to lr", arm.color))
        if math.isfinite(panel.floor) and panel.floor > 0:
            floors.append(band(index, zero * 1.6, panel.floor, FLOOR_COLOR))
        x = math.log10(float(summary["scale"].max())) + 0.03 * span(summary)
        label_ends(figure, ends, x=x, gap=0.075 * (high - low + 1), top=high + 0.3, where=where)
    figure.update_layout(shapes=floors)
    ticks = decades(low + 1, high)
    figure.update_yaxes(
        type="log",
        range=[low - 0.5, high + 0.4],
        tickvals=[zero, *(10.0**power for power in ticks)],
        ticktext=["0", *(f"10<sup>{power}</sup>" if power else "1" for power in ticks)],
        gridcolor=GRID_COLOR,
    )
    scale_axes(figure, summary, room=0.42)
    return figure


def _add_curve(
    figure: go.Figure, curve: pd.DataFrame, arm: Drawn, zero: float, *, legend: bool, where: dict[str, int]
) -> None:
    """One arm's curve; where pairs are identical, two: powers of two (filled) and other scales, which round (open)."""
    exact = curve["scale"].map(is_power_of_two)
    parts = [(exact, False), (~exact, True)] if (curve["measured"] == 0).any() else [(exact | ~exact, False)]
    for chosen, rounded in parts:
        part = curve[chosen]
        if part.empty:
            continue
        figure.add_scatter(
            x=part["scale"],
            y=part["measured"].where(part["measured"] > 0, zero),
            mode="lines+markers",
            line={"color": arm.color, "width": arm.width, "dash": "dot" if rounded else "solid"},
            marker={"symbol": f"{arm.symbol}-open" if rounded else arm.symbol, "size": 7 if arm.width < 4 else 9},
            name=arm.label,
            legendgroup=arm.label,
            showlegend=legend and not rounded,
            customdata=list(map(_distance_text, part["measured"], part["lo"], part["hi"], part["pairs"])),
            hovertemplate=arm.label + "<br>s = %{x:.4g}<br>%{customdata}<extra></extra>",
            **where,
        )


def _distance_text(measured: float, lo: float, hi: float, pairs: int) -> str:
    """What stands under the pointer: few pairs have no interval."""
    interval = "no interval" if math.isnan(lo) or math.isnan(hi) else f"{lo:.2g} to {hi:.2g}"
    return f"distance {measured:.3g} ({interval})<br>{pairs:,} pairs"


def distance_caption(summary: pd.DataFrame, network: str) -> str:
    """What `distance_figure` shows, for someone who sees only the picture."""
    step = int(summary.loc[summary["network"] == network, "step"].max())
    return (
        f"How far training on {network} ends from where it would have ended. Each point compares two networks that "
        f"started with the same weights and saw the same data for {step} steps; it is the median, over random "
        "initialisations, of the distance between their weights divided by the size of the weights. “loss × s”: the "
        "loss was multiplied by s; “lr × s”: the learning rate was, both compared with the unscaled run; “between "
        "loss × s and lr × s” (“loss to lr” in the panels): how far those two end from each other; "
        "“mapped”: the loss was multiplied by s and the "
        "hyperparameters were mapped to undo it. Where such a pair is identical at s = 2ᵏ, other scales (which "
        "round when they are multiplied in) are drawn apart: open and dotted. The bottom tick, 0, means that every "
        "bit is the same. Inside the grey band a difference is no larger than what one unit in the last place of "
        "the initial weights grows to: rounding."
    )


def ratio_figure(summary: pd.DataFrame, network: str) -> go.Figure:
    """Update-norm ratio at step 1 against s with the closed form: a panel per predicted optimizer, a colour per eps."""
    found = _with_prediction(summary, network)
    figure = panel_grid([optimizer_label(name, "") for name in found])
    for index, members in enumerate(found.values()):
        where = place(index)
        for color, panel in zip(_EPS_COLORS, members, strict=False):
            curve = panel.curve("loss", "base", "update_norm_ratio", 1)
            label = panel.options or "default eps"
            figure.add_scatter(
                x=curve["scale"],
                y=curve["predicted"],
                mode="lines",
                line={"color": color, "width": 2},
                name=f"{label}: closed form",
                legendgroup=label,
                showlegend=index == 0,
                hoverinfo="skip",
                **where,
            )
            figure.add_scatter(
                x=curve["scale"],
                y=curve["measured"],
                mode="markers",
                marker={"symbol": "circle-open", "size": 8, "color": color, "line": {"width": 2}},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": curve["hi"] - curve["measured"],
                    "arrayminus": curve["measured"] - curve["lo"],
                    "width": 0,
                },
                name=f"{label}: measured",
                legendgroup=label,
                showlegend=index == 0,
                customdata=curve[["predicted", "verdict", "pairs"]],
                hovertemplate=label + "<br>s = %{x:.4g}<br>measured %{y:.6g}<br>closed form %{customdata[0]:.6g}<br>"
                "%{customdata[1]}, %{customdata[2]} pairs<extra></extra>",
                **where,
            )
    figure.update_yaxes(type="log", gridcolor=GRID_COLOR, exponentformat="power", dtick=1)
    figure.update_yaxes(title_text="first update, scaled / unscaled", col=1)
    scale_axes(figure, summary, room=0.04)
    return figure


def ratio_caption(network: str) -> str:
    """What `ratio_figure` shows."""
    return (
        f"The very first update on {network}: its size when the loss is multiplied by s, divided by its size when it "
        "is not (1: no change). Circles are measured, with 95 % intervals of the median; lines are the closed form "
        "(1 + d)/(1 + d/s), d = eps / sqrt(v), evaluated on every element of the unscaled network and combined to a "
        "norm, so a line is a prediction and not a fit. A small eps is invisible until the scaled gradients shrink "
        "to its size; a large one makes the optimizer feel the scale of the loss."
    )


def has_ratios(summary: pd.DataFrame, network: str) -> bool:
    """Whether any optimizer has a predicted update-norm ratio on that network."""
    return bool(_with_prediction(summary, network))


def _with_prediction(summary: pd.DataFrame, network: str) -> dict[str, list[Panel]]:
    """Optimizer name → its panels (one per options) with a predicted ratio at step 1."""
    found: dict[str, list[Panel]] = {}
    for panel in panels(summary):
        if panel.network == network and panel.curve("loss", "base", "update_norm_ratio", 1)["predicted"].notna().any():
            found.setdefault(panel.optimizer, []).append(panel)
    return found


def _top(found: Sequence[Panel]) -> float:
    """The largest distance in any panel, as a power of ten."""
    largest = max((distance for distance in _distances(found) if math.isfinite(distance)), default=0.0)
    return math.log10(largest) if largest > 0 else 0.0


def _distances(found: Sequence[Panel]) -> Iterator[float]:
    """Every distance that the panels draw."""
    for panel in found:
        lines = panel.lines
        yield from lines.loc[(lines["quantity"] == "median_rel_distance") & (lines["step"] == panel.step), "measured"]
