"""Small pictures as SVG: points and lines over two axes, with a legend, in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 680, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 26, 40, 46
_COLOURS = ("var(--accent)", "#d07a12", "#8f63d6", "var(--good)", "var(--bad)", "var(--faint)")
_MARKS = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points with one name.

    Attributes:
        name: in the legend.
        points: x, y and what a pointer that rests on it is told.
        style: number of its colour and shape.
        line: whether they are joined.
        mark: whether they are drawn; a guide is a line alone.
    """

    name: str
    points: Sequence[tuple[float, float, str]]
    style: int = 0
    line: bool = True
    mark: bool = True


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis: where a value stands between 0 and 1, and the values that are written beside it.

    Attributes:
        title: quantity and unit.
        place: from a value to its place.
        ticks: value and text.
    """

    title: str
    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]


def linear(title: str, low: float, high: float, form: str = "{:g}") -> Axis:
    """A linear axis from `low` to `high`, with round numbers beside it."""
    rough = (high - low) / 5 or 1.0
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= 0.95 * rough)
    # A hair above a round number does not want another interval.
    first, last = math.floor(low / step + 0.05), math.ceil(high / step - 0.05)
    begin, end = first * step, max(last, first + 1) * step
    ticks = [(k * step, form.format(round(k * step, 9))) for k in range(first, max(last, first + 1) + 1)]
    return Axis(title=title, place=lambda value: (value - begin) / (end - begin), ticks=ticks)


def powers_of_two(title: str, values: Sequence[float]) -> Axis:
    """A logarithmic axis over whole powers of two."""
    first = math.floor(math.log2(min(values)))
    last = max(first + 1, math.ceil(math.log2(max(values))))
    stride = max(1, (last - first) // 9)
    return Axis(
        title=title,
        place=lambda value: (math.log2(value) - first) / (last - first),
        ticks=[(2.0**k, f"2^{k}") for k in range(first, last + 1, stride)],
    )


def powers_of_ten(title: str, values: Sequence[float]) -> Axis:
    """A logarithmic axis over whole powers of ten."""
    first = math.floor(math.log10(min(values)))
    last = max(first + 1, math.ceil(math.log10(max(values))))
    return Axis(
        title=title,
        place=lambda value: (math.log10(value) - first) / (last - first),
        ticks=[(10.0**k, f"{10.0**k:,g}") for k in range(first, last + 1)],
    )


def chart(series: Sequence[Series], x: Axis, y: Axis, *, label: str) -> str:
    """The picture.

    Args:
        series: drawn in order, the first on top.
        x: the axis along the bottom.
        y: the axis to the left.
        label: for who cannot see it.
    """
    body = [*_axes(x, y)]
    for one in reversed(series):
        body += _series(one, x, y)
    body += _legend(series)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}" style="font-size:12px;fill:var(--ink)">{"".join(body)}</svg>'
    )


def _x(axis: Axis, value: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * axis.place(value)


def _y(axis: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * axis.place(value)


def _axes(x: Axis, y: Axis) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for value, text in y.ticks:
        at = _y(y, value)
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for value, text in x.ticks:
        at = _x(x, value)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}" stroke="var(--faint)"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(text)}</text>')
    parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="var(--faint)"/>')
    parts.append(f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x.title)}</text>')
    middle = (_TOP + bottom) / 2
    parts.append(
        f'<text x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">'
        f"{escape(y.title)}</text>"
    )
    return parts


def _colour(number: int, *, mark: bool = True) -> str:
    """A guide has the faint one, whatever stands before it."""
    return _COLOURS[min(number, len(_COLOURS) - 1) if mark else -1]


def _series(one: Series, x: Axis, y: Axis) -> list[str]:
    colour = _colour(one.style, mark=one.mark)
    places = [(_x(x, a), _y(y, b), note) for a, b, note in one.points]
    parts = []
    if one.line and len(places) > 1:
        joined = " ".join(f"{a:.1f},{b:.1f}" for a, b, _ in places)
        dashes = "" if one.mark else ' stroke-dasharray="5 4"'
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="1.5"{dashes}/>')
    if one.mark:
        parts += [f"<g>{_mark(one.style, a, b)}<title>{escape(note)}</title></g>" for a, b, note in places]
    return parts


def _mark(number: int, a: float, b: float) -> str:
    """Another shape for every series: colours alone do not tell them apart for everybody."""
    paint = f'fill="{_colour(number)}" fill-opacity="0.85"'
    shape = _MARKS[number % len(_MARKS)]
    if shape == "circle":
        return f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" {paint}/>'
    corners = {
        "square": ((-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)),
        "diamond": ((0, -5), (5, 0), (0, 5), (-5, 0)),
        "triangle": ((0, -5), (4.6, 3.5), (-4.6, 3.5)),
    }[shape]
    return f'<polygon points="{" ".join(f"{a + u:.1f},{b + v:.1f}" for u, v in corners)}" {paint}/>'


def _legend(series: Sequence[Series]) -> list[str]:
    parts, at = [], float(_LEFT)
    for one in series:
        sign = (
            _mark(one.style, at + 5, 16)
            if one.mark
            else f'<line x1="{at:.1f}" x2="{at + 14:.1f}" y1="16" y2="16" stroke="{_colour(one.style, mark=False)}" '
            'stroke-width="1.5" stroke-dasharray="5 4"/>'
        )
        parts.append(f'{sign}<text x="{at + 18:.1f}" y="20">{escape(one.name)}</text>')
        at += 34 + 6.4 * len(one.name)
    return parts
