"""The pictures of a page, drawn with plotly. Plotly is imported when a picture is made, not before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import pandas as pd

from .answers import optimizer_label
from .curves import ARMS, FLOOR_COLOR, Arm, Panel, decades, panels, spread, zero_level
from .picture import readme_svg
from .studies import is_power_of_two

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "distance_caption",
    "distance_figure",
    "has_ratios",
    "ratio_caption",
    "ratio_figure",
    "readme_svg",
    "to_html",
]

COLUMNS: Final = 4
_PANEL_HEIGHT: Final = 265
_FONT: Final = {"family": "system-ui, Segoe UI, Roboto, sans-serif", "size": 12, "color": "#1d2330"}
_GRID: Final = "#e6e9ef"
_EPS_COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def distance_figure(summary: pd.DataFrame, network: str) -> go.Figure:
    """Relative distance against s: a panel per optimizer, a colour per arm, the one-ulp control as a grey band."""
    found = [panel for panel in panels(summary) if panel.network == network]
    zero = zero_level(_distances(found))
    figure = _grid([optimizer_label(panel.optimizer, panel.options) for panel in found])
    low, high = round(math.log10(zero)), _top(found)
    named: set[Arm] = set()
    for index, panel in enumerate(found):
        where = _place(index)
        ends: list[tuple[float, str, str]] = []
        for arm in ARMS:
            curve = panel.curve(arm.arm, arm.against, "median_rel_distance")
            curve = curve[curve["scale"] != 1.0]
            if curve.empty:
                continue
            _add_curve(figure, curve, arm, zero, legend=arm not in named, where=where)
            named.add(arm)
            end = max(float(curve["measured"].iloc[-1]), zero)
            ends.append((math.log10(end), arm.label if arm.against == "base" else "loss to lr", arm.color))
        if math.isfinite(panel.floor) and panel.floor > 0:
            # After the curves: plotly drops shapes on panels that are still empty.
            figure.add_hrect(
                y0=zero * 1.6, y1=panel.floor, fillcolor=FLOOR_COLOR, opacity=0.25, line_width=0, layer="below", **where
            )
        x = math.log10(float(summary["scale"].max())) + 0.03 * _span(summary)
        _label_ends(figure, ends, x=x, gap=0.06 * (high - low + 1), where=where)
    ticks = decades(low + 1, high)
    figure.update_yaxes(
        type="log",
        range=[low - 0.5, high + 0.4],
        tickvals=[zero, *(10.0**power for power in ticks)],
        ticktext=["0", *(f"10<sup>{power}</sup>" if power else "1" for power in ticks)],
        gridcolor=_GRID,
    )
    _scale_axes(figure, summary, room=0.42)
    return figure


def _add_curve(
    figure: go.Figure, curve: pd.DataFrame, arm: Arm, zero: float, *, legend: bool, where: dict[str, int]
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
            customdata=part[["measured", "lo", "hi", "pairs"]],
            hovertemplate=arm.label + "<br>s = %{x:.4g}<br>distance %{customdata[0]:.3g} (%{customdata[1]:.2g} to "
            "%{customdata[2]:.2g})<br>%{customdata[3]} pairs<extra></extra>",
            **where,
        )


def distance_caption(summary: pd.DataFrame, network: str) -> str:
    """What `distance_figure` shows, for someone who sees only the picture."""
    step = int(summary.loc[summary["network"] == network, "step"].max())
    return (
        f"How far training on {network} ends from where it would have ended. Each point compares two networks that "
        f"started with the same weights and saw the same data for {step} steps; it is the median, over random "
        "initialisations, of the distance between their weights divided by the size of the weights. “loss × s”: the "
        "loss was multiplied by s; “lr × s”: the learning rate was, both compared with the unscaled run; “loss × s "
        "to lr × s” compares those two with each other; “mapped”: the loss was multiplied by s and the "
        "hyperparameters were mapped to undo it. Where such a pair is identical at s = 2ᵏ, other scales (which "
        "round when they are multiplied in) are drawn apart: open and dotted. The bottom tick, 0, means that every "
        "bit is the same. Inside the grey band a difference is no larger than what one unit in the last place of "
        "the initial weights grows to: rounding."
    )


def ratio_figure(summary: pd.DataFrame, network: str) -> go.Figure:
    """Update-norm ratio at step 1 against s with the closed form: a panel per predicted optimizer, a colour per eps."""
    found = _with_prediction(summary, network)
    figure = _grid([optimizer_label(name, "") for name in found])
    for index, members in enumerate(found.values()):
        where = _place(index)
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
    figure.update_yaxes(type="log", gridcolor=_GRID, exponentformat="power", dtick=1)
    figure.update_yaxes(title_text="first update, scaled / unscaled", col=1)
    _scale_axes(figure, summary, room=0.04)
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


def to_html(figure: go.Figure, name: str) -> str:
    """The figure as a piece of HTML that uses the page's one plotly script."""
    return str(
        figure.to_html(
            full_html=False, include_plotlyjs=False, div_id=name, config={"displayModeBar": False, "responsive": True}
        )
    )


def _grid(titles: Sequence[str]) -> go.Figure:
    from plotly.subplots import make_subplots

    rows = max(1, math.ceil(len(titles) / COLUMNS))
    figure = make_subplots(
        rows=rows,
        cols=COLUMNS,
        subplot_titles=list(titles),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.27 / rows if rows > 1 else 0.0,
    )
    figure.update_layout(
        template="none",
        height=_PANEL_HEIGHT * rows + 110,
        margin={"l": 60, "r": 10, "t": 70, "b": 50},
        font=_FONT,
        paper_bgcolor="white",
        plot_bgcolor="white",
        legend={"orientation": "h", "y": 1.0, "yanchor": "top", "yref": "container", "x": 0.0},
    )
    figure.update_annotations(font_size=13)
    return figure


def _place(index: int) -> dict[str, int]:
    return {"row": index // COLUMNS + 1, "col": index % COLUMNS + 1}


def _label_ends(
    figure: go.Figure, ends: Sequence[tuple[float, str, str]], *, x: float, gap: float, where: dict[str, int]
) -> None:
    """Name each curve where it ends, moved apart where curves coincide."""
    for height, (_, label, color) in zip(spread([end[0] for end in ends], gap=gap), ends, strict=True):
        figure.add_annotation(
            x=x, y=height, text=label, font={"color": color, "size": 11}, showarrow=False, xanchor="left", **where
        )


def _span(summary: pd.DataFrame) -> float:
    """Decades that the scales span, at least one."""
    return max(1.0, math.log10(float(summary["scale"].max()) / float(summary["scale"].min())))


def _scale_axes(figure: go.Figure, summary: pd.DataFrame, *, room: float) -> None:
    """Powers of ten along s, with room for labels to the right, as a share of the scales' span."""
    low, high = (math.log10(float(edge)) for edge in (summary["scale"].min(), summary["scale"].max()))
    span = _span(summary)
    ticks = decades(low, high)
    figure.update_xaxes(
        type="log",
        range=[low - 0.04 * span, high + room * span],
        tickvals=[10.0**power for power in ticks],
        ticktext=[f"10<sup>{power}</sup>" if power else "1" for power in ticks],
        gridcolor=_GRID,
        title={"text": "s", "standoff": 4},
        showticklabels=True,
    )


def _top(found: Sequence[Panel]) -> float:
    """The largest distance in any panel, as a power of ten."""
    largest = max((distance for distance in _distances(found) if math.isfinite(distance)), default=0.0)
    return math.log10(largest) if largest > 0 else 0.0


def _distances(found: Sequence[Panel]) -> Iterator[float]:
    """Every distance that the panels draw."""
    for panel in found:
        lines = panel.lines
        yield from lines.loc[(lines["quantity"] == "median_rel_distance") & (lines["step"] == panel.step), "measured"]
