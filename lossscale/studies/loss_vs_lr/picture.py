"""The README's one picture, an SVG written by hand: it needs no plotting library, and reads on light and dark pages."""

from __future__ import annotations

import math
from html import escape
from typing import Final

import pandas as pd

from ...design.scales import scale_text
from ...report.curves import Panel, decades, panels, spread, zero_level
from ...report.labels import optimizer_label
from .figures import DRAWN, FLOOR_COLOR, Drawn

_WIDTH, _HEIGHT = 860, 380
_LEFT, _TOP, _BOTTOM, _GAP = 66, 76, 52, 24
_PANEL: Final = 376
_PLOT: Final = 280
_SHOWN: Final = ("sgd", "adam")
_DRAWN: Final = tuple(arm for arm in DRAWN if arm.against == "base" and arm.arm in ("loss", "lr"))


def readme_svg(summary: pd.DataFrame, network: str | None = None) -> str:
    """Relative distance against s for SGD and Adam with default options, arms ``loss`` and ``lr``.

    Args:
        summary: of a run of the default study.
        network: which one; by default the last of the summary (the real data).

    Raises:
        ValueError: when the summary has neither optimizer on that network.
    """
    chosen = network or str(summary["network"].iloc[-1])
    found = [
        panel
        for panel in panels(summary)
        if panel.network == chosen and not panel.options and panel.optimizer in _SHOWN
    ]
    if not found:
        raise ValueError(f"network {chosen!r}: the summary has neither SGD nor Adam with default options on it")
    axes = _Axes(found)
    title = f"Loss × s and learning rate × s: distance from the unscaled run after {found[0].step} steps ({chosen})"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="system-ui, Segoe UI, Roboto, sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(16, 26, title, size=15, weight=600),
        _text(
            16,
            46,
            "relative distance of the weights, median over random initialisations; 0 means the same bits",
            color="#5d6677",
        ),
        *(_panel(panel, axes, place) for place, panel in enumerate(found)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Axes:
    """Maps scale and distance to the pixels of a panel."""

    def __init__(self, found: list[Panel]) -> None:
        drawn = [panel.curve(arm.arm, arm.against, "median_rel_distance") for panel in found for arm in _DRAWN]
        floors = [panel.floor for panel in found]
        self.zero = zero_level([*floors, *(distance for curve in drawn for distance in curve["measured"])])
        scales = pd.concat([curve["scale"] for curve in drawn])
        largest = max(float(curve["measured"].max()) for curve in drawn)
        self.low, self.high = math.log10(scales.min()), math.log10(scales.max())
        self.bottom, self.top = math.log10(self.zero) - 0.3, math.ceil(math.log10(largest)) if largest > 0 else 0

    def x(self, scale: float) -> float:
        return (math.log10(scale) - self.low) / (self.high - self.low) * _PLOT

    def y(self, distance: float) -> float:
        level = math.log10(max(distance, self.zero))
        return (self.top - level) / (self.top - self.bottom) * (_HEIGHT - _TOP - _BOTTOM)


def _panel(panel: Panel, axes: _Axes, place: int) -> str:
    left = _LEFT + place * (_PANEL + _GAP)
    height = _HEIGHT - _TOP - _BOTTOM
    parts = [f'<g transform="translate({left},{_TOP})">']
    if panel.floor > 0:
        y = axes.y(panel.floor)
        parts.append(
            f'<rect x="0" y="{y:.1f}" width="{_PLOT}" height="{height - y:.1f}" fill="{FLOOR_COLOR}" opacity="0.22"/>'
        )
        parts.append(_text(6, y + 14, "rounding (one-ulp control)", size=11, color="#5d6677"))
    for power in [round(math.log10(axes.zero)), *decades(axes.bottom + 1, axes.top)]:
        zero = 10.0**power <= axes.zero
        y = axes.y(10.0**power)
        parts.append(f'<line x1="0" x2="{_PLOT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e6e9ef"/>')
        if place == 0:
            parts.append(_text(-8, y + 4, "0" if zero else _power(power), anchor="end", color="#5d6677"))
    for power in decades(axes.low, axes.high):
        parts.append(_text(axes.x(10.0**power), height + 18, _power(power), anchor="middle", color="#5d6677"))
    parts.append(_text(_PLOT / 2, height + 38, "s", anchor="middle", color="#5d6677"))
    parts.append(_text(0, -10, optimizer_label(panel.optimizer, panel.options), size=14, weight=600))
    ends = []
    for arm in _DRAWN:
        line, end = _curve(panel, arm, axes)
        parts.append(line)
        ends.append(end)
    for y, arm in zip(spread(ends, gap=16.0), _DRAWN, strict=True):
        parts.append(_text(_PLOT + 8, y + 4, arm.label, color=arm.color, weight=600))
    return "\n".join([*parts, "</g>"])


def _curve(panel: Panel, arm: Drawn, axes: _Axes) -> tuple[str, float]:
    """Markup of one arm's curve and the height at which it ends."""
    curve = panel.curve(arm.arm, arm.against, "median_rel_distance")
    curve = curve[curve["scale"] != 1.0]
    if curve.empty:
        return "", 0.0
    points = [
        (axes.x(scale), axes.y(distance)) for scale, distance in zip(curve["scale"], curve["measured"], strict=True)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2.5 + arm.width / 4:.1f}" fill="{arm.color}">'
        f"<title>s = {scale_text(scale)}: {distance:.3g}</title></circle>"
        for (x, y), scale, distance in zip(points, curve["scale"], curve["measured"], strict=True)
    )
    return f'<polyline points="{path}" fill="none" stroke="{arm.color}" stroke-width="{arm.width}"/>{marks}', points[
        -1
    ][1]


def _power(power: int) -> str:
    """A power of ten in Unicode superscripts, which every SVG viewer draws alike."""
    return "1" if power == 0 else "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _text(
    x: float, y: float, text: str, *, size: int = 13, weight: int = 400, color: str = "#1d2330", anchor: str = "start"
) -> str:
    font = f'font-size="{size}" font-weight="{weight}" fill="{color}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {font}>{escape(text)}</text>'
