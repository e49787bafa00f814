"""The phase diagram of the page: every pixel, zoomable, with numbers under the pointer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from ...analysis.phases import WORDS
from ...report.pixels import palette_uri
from .look import COLORS, RULED_TEXT, STRENGTHS, Drawing, shades

if TYPE_CHECKING:
    import plotly.graph_objects as go

_HEIGHT: Final = 520
_NONE: Final = 250
"""Stands for a distance of 0 or infinity, and for an unknown rho; 255 would fill the page with escaped slashes."""


def phase_figure(drawn: Drawing, *, every: int = 1) -> go.Figure:
    """A cell's diagram: columns are powers of two, rows are eps.

    Args:
        drawn: what is shown.
        every: of so many rows one has its numbers under the pointer, to keep the page small; all are drawn.
    """
    import plotly.graph_objects as go

    rows = slice(None, None, every)
    height, whole = drawn.height[rows], drawn.height
    figure = go.Figure(
        go.Heatmap(
            z=drawn.arrays["phase"][rows].astype(np.uint8),
            x0=int(drawn.powers[0]),
            dx=int(drawn.powers[1] - drawn.powers[0]),
            y0=float(height[0]),
            dy=float(height[1] - height[0]),
            opacity=0.0,
            showscale=False,
            customdata=_numbers(drawn, rows),
            hovertemplate="s = 2^%{x}, eps / RMS g = 2^%{y:.2f}<br>class %{z}: %{customdata[0]} of "
            f"{int(drawn.arrays['inits'])} inits<br>d ≈ 2^-%{{customdata[1]}}"
            "<br>ρ ≈ %{customdata[2]} %<br>(250: none)<extra></extra>",
        )
    )
    half = (float(whole[1] - whole[0]) / 2.0, float(drawn.powers[1] - drawn.powers[0]) / 2.0)
    left, top = float(drawn.powers[0]) - half[1], float(whole[-1]) + half[0]
    figure.add_layout_image(
        source=palette_uri(drawn.level[::-1], shades()),
        xref="x",
        yref="y",
        x=left,
        y=top,
        sizex=float(drawn.powers[-1]) + half[1] - left,
        sizey=top - float(whole[0]) + half[0],
        sizing="stretch",
        layer="below",
    )
    for border in drawn.borders:
        figure.add_scatter(
            x=border.x,
            y=border.y,
            mode="lines",
            name=border.name,
            line={"color": "#111111", "width": 2, "dash": border.dash},
            hoverinfo="name",
        )
    for phase in drawn.present:
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=f"{int(phase)} {WORDS[phase]}",
            marker={"color": COLORS[phase], "symbol": "square", "size": 11},
        )
    if math.isfinite(drawn.ruled_from):
        figure.add_hline(
            y=drawn.ruled_from,
            line={"color": "#ffffff", "dash": "dashdot", "width": 1.5},
            annotation_text=RULED_TEXT,
            annotation_font={"color": "#ffffff", "size": 11},
            annotation_position="top right",
        )
    figure.update_layout(
        template="none",
        height=_HEIGHT,
        margin={"l": 60, "r": 10, "t": 34, "b": 130},
        font={"family": "system-ui, Segoe UI, Roboto, sans-serif", "size": 12, "color": "#1d2330"},
        paper_bgcolor="white",
        plot_bgcolor="white",
        legend={"orientation": "h", "y": -0.16, "yanchor": "top", "x": 0.0},
    )
    figure.update_xaxes(
        title={"text": "log₂ s", "standoff": 4},
        range=[float(drawn.powers[0]) - 0.5, float(drawn.powers[-1]) + 0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(
        title={"text": "log₂(eps / RMS g)"}, range=[float(whole[0]), float(whole[-1])], showgrid=False, zeroline=False
    )
    return figure


def _numbers(drawn: Drawing, rows: slice) -> np.ndarray:
    """[rows, columns, 3] bytes: votes, minus log2 of the median d rounded, median rho in per cent."""
    with np.errstate(divide="ignore", invalid="ignore"):
        minus = np.round(-np.log2(drawn.arrays["distance"][rows].astype(np.float64)))
    apart = np.where(np.isfinite(minus), np.clip(minus, 0, _NONE - 1), _NONE)
    rho = drawn.arrays["rho"][rows]
    share = np.where(np.isfinite(rho), np.clip(np.round(100.0 * np.nan_to_num(rho)), 0, 100), _NONE)
    return np.stack([drawn.arrays["votes"][rows], apart, share], 2).astype(np.uint8)


__all__ = ["STRENGTHS", "phase_figure"]
