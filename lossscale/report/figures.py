"""Small plotly pictures that studies share: a grid of panels over the scale. Plotly is imported when one is made."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from .curves import below, decades, spread

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLUMNS: Final = 4
GRID_COLOR: Final = "#e6e9ef"
_PANEL_HEIGHT: Final = 265
FONT: Final = {"family": "system-ui, Segoe UI, Roboto, sans-serif", "size": 12, "color": "#1d2330"}


def to_html(figure: go.Figure, name: str, *, zoomable: bool = False) -> str:
    """The figure as a piece of HTML that uses the page's one plotly script.

    Args:
        figure: what is drawn.
        name: begins its id, which goes on with its content: two runs on a page do not draw into one place.
        zoomable: whether the wheel zooms, and buttons to zoom and to go back stand above it.
    """
    content = zlib.crc32(str(figure.to_json()).encode())
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"{name}-{content:08x}",
        config={"displayModeBar": zoomable, "displaylogo": False, "scrollZoom": zoomable, "responsive": True},
    )
    # Panels side by side need room, and scroll on a phone; a single one is as wide as the window.
    return f'<div class="wide">{html}</div>' if _columns(figure) > 1 else str(html)


def _columns(figure: go.Figure) -> int:
    """How many panels stand side by side."""
    places = {tuple(axis.domain) for axis in figure.select_xaxes() if axis.domain is not None}
    return max(1, len(places))


def panel_grid(titles: Sequence[str]) -> go.Figure:
    """An empty figure with a panel per title."""
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
        font=FONT,
        paper_bgcolor="white",
        plot_bgcolor="white",
        legend={"orientation": "h", "y": 1.0, "yanchor": "top", "yref": "container", "x": 0.0},
    )
    figure.update_annotations(font_size=13)
    return figure


def place(index: int) -> dict[str, int]:
    """Row and column of a panel, as plotly counts them."""
    return {"row": index // COLUMNS + 1, "col": index % COLUMNS + 1}


def band(index: int, low: float, high: float, color: str) -> dict[str, Any]:
    """A band across a panel behind its curves, for ``update_layout(shapes=...)``; `add_hrect` looks at every trace."""
    axis = "" if index == 0 else str(index + 1)
    ends = {"x0": 0, "x1": 1, "xref": f"x{axis} domain", "y0": low, "y1": high, "yref": f"y{axis}"}
    return {"type": "rect", **ends, "fillcolor": color, "opacity": 0.25, "line": {"width": 0}, "layer": "below"}


def label_ends(
    figure: go.Figure,
    ends: Sequence[tuple[float, str, str]],
    *,
    x: float,
    gap: float,
    top: float,
    where: dict[str, int],
) -> None:
    """Name each curve where it ends, moved apart where curves coincide, and none above `top`."""
    placed = below(top, spread([end[0] for end in ends], gap=gap), gap=gap)
    subplot = figure.get_subplot(**where)
    axes = {"xref": subplot.yaxis.anchor, "yref": subplot.xaxis.anchor}
    # All at once: plotly looks at every annotation that there is whenever one is added.
    figure.layout.annotations += tuple(
        {
            "x": x,
            "y": height,
            "text": label,
            "font": {"color": color, "size": 11},
            "showarrow": False,
            "xanchor": "left",
        }
        | axes
        for height, (_, label, color) in zip(placed, ends, strict=True)
    )


def scale_axes(figure: go.Figure, summary: pd.DataFrame, *, room: float) -> None:
    """Powers of ten along s, with room for labels to the right, as a share of the scales' span."""
    low, high = (math.log10(float(edge)) for edge in (summary["scale"].min(), summary["scale"].max()))
    width = span(summary)
    ticks = decades(low, high)
    figure.update_xaxes(
        type="log",
        range=[low - 0.04 * width, high + room * width],
        tickvals=[10.0**power for power in ticks],
        ticktext=[f"10<sup>{power}</sup>" if power else "1" for power in ticks],
        gridcolor=GRID_COLOR,
        title={"text": "s", "standoff": 4},
        showticklabels=True,
    )


def span(summary: pd.DataFrame) -> float:
    """Decades that the scales span, at least one."""
    return max(1.0, math.log10(float(summary["scale"].max()) / float(summary["scale"].min())))
