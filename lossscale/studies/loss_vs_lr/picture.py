"""The study's one picture, which the README shows: distance against s under SGD and Adam. Drawn by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from ...report.curves import Panel, decades, panels, spread, zero_level
from ...report.labels import optimizer_label
from ...report.libraries import require
from ...support.files import whole_file
from .figures import DRAWN, FLOOR_COLOR, Drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN: Final = ("sgd", "adam")
_ARMS: Final = tuple(drawn for drawn in DRAWN if drawn.against == "base" and drawn.arm in ("loss", "lr"))
_MARKS: Final = {"square": "s", "circle": "o"}
_INK, _FAINT, _RULE = "#1d2330", "#5d6677", "#e6e9ef"
_STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "svg.hashsalt": "loss-vs-lr",  # the same run draws the same bytes
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _FAINT,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
}


def draw(summary: pd.DataFrame, out: Path, network: str | None = None) -> None:
    """Relative distance against s for SGD and Adam with default options, arms ``loss`` and ``lr``.

    Args:
        summary: of a run of the default study.
        out: the file; its ending names the format, such as ``.svg`` or ``.png``.
        network: which one; by default the last of the summary (the real data).

    Raises:
        LibraryMissing: when matplotlib is not installed.
        ValueError: when the summary has neither optimizer on that network, or matplotlib does not know the ending.
    """
    require("the picture", "matplotlib")
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    chosen = network or str(summary["network"].iloc[-1])
    found = [
        panel
        for panel in panels(summary)
        if panel.network == chosen and not panel.options and panel.optimizer in _SHOWN
    ]
    if not found:
        raise ValueError(f"network {chosen!r}: the summary has neither SGD nor Adam with default options on it")
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.2, 4.2), facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
        _fill(figure, found, chosen)
        ending = out.suffix.removeprefix(".").lower() or "svg"
        with whole_file(out) as temporary:
            figure.savefig(temporary, format=ending, dpi=150, metadata={"Date": None} if ending == "svg" else None)


def _fill(figure: Figure, found: Sequence[Panel], network: str) -> None:
    figure.suptitle(
        f"Distance from the unscaled run after {found[0].step} steps ({network})", x=0.012, ha="left", weight="bold"
    )
    every = figure.subplots(1, len(found), sharex=True, sharey=True, squeeze=False)[0]
    floors = [panel.floor for panel in found]
    curves = [_curve(panel, drawn) for panel in found for drawn in _ARMS]
    zero = zero_level([*floors, *(distance for curve in curves for distance in curve["measured"])])
    largest = max((float(curve["measured"].max()) for curve in curves if len(curve)), default=1.0)
    top = math.ceil(math.log10(largest)) if largest > 0 else 0
    for axes, panel in zip(every, found, strict=True):
        _draw_panel(axes, panel, zero)
    marked = decades(math.log10(zero) + 1, top)
    every[0].set_yticks([zero, *(10.0**power for power in marked)], ["same bits", *map(_power, marked)])
    every[0].set_ylim(zero / 2, 10.0 ** (top + 0.4))
    every[0].set_ylabel("|weights − unscaled| / |unscaled|, median")


def _draw_panel(axes: Axes, panel: Panel, zero: float) -> None:
    axes.set_title(optimizer_label(panel.optimizer, panel.options), loc="left", weight="bold", fontsize=11)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.grid(color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("s")
    if panel.floor > 0:
        axes.axhspan(zero / 10, panel.floor, color=FLOOR_COLOR, alpha=0.2, linewidth=0)
        axes.annotate(
            "rounding (one-ulp control)",
            (0.98, panel.floor),
            xycoords=("axes fraction", "data"),
            xytext=(0, -5),
            textcoords="offset points",
            ha="right",
            va="top",
            color=_FAINT,
            fontsize=9,
        )
    drawn = [(one, _curve(panel, one)) for one in _ARMS]
    drawn = [(one, curve) for one, curve in drawn if len(curve)]
    for one, curve in drawn:
        axes.plot(
            curve["scale"],
            curve["measured"].clip(lower=zero),
            color=one.color,
            marker=_MARKS[one.symbol],
            linewidth=one.width * 0.8,
            markersize=4 + one.width / 2,
            clip_on=False,
        )
    ends = [math.log10(max(float(curve["measured"].iloc[-1]), zero)) for _, curve in drawn]
    for height, (one, curve) in zip(spread(ends, gap=0.9), drawn, strict=True):
        axes.annotate(
            one.label,
            (float(curve["scale"].iloc[-1]), 10.0**height),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=one.color,
            weight="bold",
            annotation_clip=False,
        )
    scales = [float(scale) for _, curve in drawn for scale in curve["scale"]]
    if scales:
        marked = decades(math.log10(min(scales)), math.log10(max(scales)))
        axes.set_xticks([10.0**power for power in marked], list(map(_power, marked)))


def _curve(panel: Panel, drawn: Drawn) -> pd.DataFrame:
    curve = panel.curve(drawn.arm, drawn.against, "median_rel_distance")
    return curve[curve["scale"] != 1.0]


def _power(power: int) -> str:
    return "1" if power == 0 else f"$10^{{{power}}}$"
