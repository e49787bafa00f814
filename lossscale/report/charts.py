"""Line charts that a study describes once: drawn by plotly in the page and by matplotlib into a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..support.files import whole_file
from .figures import FONT, GRID_COLOR
from .libraries import require

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8a6d00", "#56B4E9", "#5d6677", "#b03a78", "#111111")
"""Okabe and Ito's, and more of their kind: told apart by all readers."""

_DASHES: Final = {"solid": "-", "dash": "--", "dot": ":"}
_INK, _FAINT = "#1d2330", "#5d6677"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line, or marks without one.

    Attributes:
        name: in the legend; curves of one name share their entry.
        x, y: as many of one as of the other.
        color: of `COLORS`, or another.
        dash: ``solid``, ``dash`` or ``dot``.
        marks: circles at the points in place of a line.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str
    dash: str = "solid"
    marks: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves over shared axes, with levels that are drawn across."""

    title: str
    curves: Sequence[Curve]
    levels: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Panels side by side that share their axes' titles and kinds.

    Attributes:
        panels: from left to right.
        x_title, y_title: of all axes.
        x_log, y_log: whether they are logarithmic.
        height: in the page, in pixels.
    """

    panels: Sequence[Panel]
    x_title: str
    y_title: str
    x_log: bool = False
    y_log: bool = False
    height: int = 380

    def to_plotly(self) -> go.Figure:
        """The chart for a page; panels stand below one another, for phones."""
        from plotly.subplots import make_subplots

        rows = len(self.panels)
        figure = make_subplots(
            rows=rows,
            cols=1,
            subplot_titles=[panel.title for panel in self.panels],
            shared_xaxes=True,
            vertical_spacing=0.1,
        )
        named: set[str] = set()
        for index, panel in enumerate(self.panels):
            where = {"row": index + 1, "col": 1}
            for curve in panel.curves:
                figure.add_scatter(
                    x=list(curve.x),
                    y=list(curve.y),
                    mode="markers" if curve.marks else "lines",
                    line={"color": curve.color, "dash": curve.dash, "width": 2},
                    marker={"color": curve.color, "size": 7},
                    name=curve.name,
                    legendgroup=curve.name,
                    showlegend=curve.name not in named,
                    hovertemplate=f"%{{x:.4g}}: %{{y:.5g}}<extra>{curve.name}</extra>",
                    **where,
                )
                named.add(curve.name)
            for level in panel.levels:
                figure.add_hline(y=level, line={"color": "#9aa3b2", "width": 1}, **where)
        figure.update_xaxes(type="log" if self.x_log else "linear", gridcolor=GRID_COLOR)
        figure.update_xaxes(title_text=self.x_title, row=rows, col=1)
        figure.update_yaxes(type="log" if self.y_log else "linear", gridcolor=GRID_COLOR, title_text=self.y_title)
        figure.update_layout(
            template="none",
            height=self.height * rows,
            margin={"l": 65, "r": 10, "t": 30, "b": 50},
            font=FONT,
            paper_bgcolor="white",
            plot_bgcolor="white",
            legend={"orientation": "h", "y": -0.26 / rows, "yanchor": "top", "x": 0.0},
        )
        return figure

    def draw(self, out: Path, title: str) -> None:
        """The chart into a file; its ending names the format, such as ``.svg`` or ``.png``.

        Raises:
            LibraryMissing: when matplotlib is not installed.
            ValueError: when matplotlib does not know the ending.
        """
        require("the picture", "matplotlib")
        import matplotlib as mpl
        from matplotlib.figure import Figure

        style: dict[Any, Any] = {
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 10,
            "svg.hashsalt": "lossscale",
            "text.color": _INK,
            "axes.labelcolor": _FAINT,
        }
        with mpl.rc_context(style):
            figure = Figure(figsize=(4.6 * max(2, len(self.panels)), 4.6), facecolor="white", layout="constrained")
            figure.suptitle(title, x=0.012, ha="left", weight="bold")
            axes = figure.subplots(1, len(self.panels), sharex=True, sharey=True, squeeze=False)[0]
            for panel, plane in zip(self.panels, axes, strict=True):
                for curve in panel.curves:
                    plane.plot(
                        curve.x,
                        curve.y,
                        linestyle="none" if curve.marks else _DASHES[curve.dash],
                        marker="o" if curve.marks else "none",
                        markersize=4,
                        color=curve.color,
                        label=curve.name,
                    )
                for level in panel.levels:
                    plane.axhline(level, color="#9aa3b2", lw=0.8)
                plane.set(title=panel.title, xlabel=self.x_title)
                plane.set_xscale("log" if self.x_log else "linear")
                plane.set_yscale("log" if self.y_log else "linear")
                plane.grid(color=GRID_COLOR)
                plane.set_axisbelow(True)
            axes[0].set_ylabel(self.y_title)
            entries = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
            figure.legend(
                entries.values(), entries.keys(), loc="outside lower left", ncols=4, frameon=False, fontsize=8
            )
            ending = out.suffix.removeprefix(".").lower() or "svg"
            if ending not in figure.canvas.get_supported_filetypes():
                raise ValueError(f"a file that ends in {out.suffix!r} is no picture: end its name in .svg or .png")
            with whole_file(out) as temporary:
                figure.savefig(temporary, format=ending, dpi=150, metadata={"Date": None} if ending == "svg" else None)
