"""The study's one picture: the phase diagrams of its first optimizer, a panel per policy. Drawn by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...analysis.phases import WORDS, Phase
from ...report.labels import optimizer_label
from ...report.libraries import require
from ...support.files import whole_file
from .look import COLORS, Drawing, shades

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS: Final = 4
_INK, _FAINT = "#1d2330", "#5d6677"
_DASHES: Final[dict[str, Any]] = {"solid": "-", "dash": "--", "dot": ":"}
_STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "hatch.linewidth": 0.5,
    "text.color": _INK,
    "axes.labelcolor": _FAINT,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "svg.hashsalt": "window",
}


def draw(drawings: Sequence[Drawing], steps: int, out: Path, *, dots: int = 130) -> None:
    """Draw the diagrams side by side.

    Args:
        drawings: of one optimizer.
        steps: how many its runs have.
        out: the file; its ending names the format, such as ``.png``.
        dots: per inch, of a format that has them.

    Raises:
        LibraryMissing: when matplotlib is not installed.
        ValueError: when matplotlib does not know the ending.
    """
    require("the picture", "matplotlib")
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    columns = min(_COLUMNS, len(drawings))
    rows = math.ceil(len(drawings) / columns)
    with mpl.rc_context(_STYLE):
        size = (max(3.1 * columns + 0.6, 9.0), 3.0 * rows + 1.6)
        figure = Figure(figsize=size, facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))
        every = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, drawn in zip(every, drawings, strict=False):
            _panel(axes, drawn)
        for axes in every[len(drawings) :]:
            axes.set_visible(False)
        first = drawings[0].cell
        figure.suptitle(
            f"{optimizer_label(first.optimizer, first.text)}: what loss × s does when eps is left alone, after {steps} "
            "steps of the 6-6-1 network",
            x=0.012,
            ha="left",
            weight="bold",
        )
        for axes in every[max(0, len(drawings) - columns) : len(drawings)]:
            axes.set_xlabel("log₂ s, the scale of the loss")
            axes.tick_params(labelbottom=True)
        figure.supylabel("log₂(eps / RMS g)", color=_FAINT)
        present = [phase for phase in Phase if any(phase in drawn.present for drawn in drawings)]
        keys: list[Any] = [Patch(color=COLORS[phase], label=WORDS[phase]) for phase in present]
        borders = {border.dash: border.name for drawn in drawings for border in drawn.borders}
        names = {**borders, "dot": "RMS g or its v leaves its format"} if "dot" in borders else borders
        keys += [
            Line2D([], [], color="black", linestyle=_DASHES[dash], label=f"predicted: {name}")
            for dash, name in names.items()
        ]
        keys.append(Patch(facecolor="white", edgecolor=_INK, hatch="///", label="ρ ≥ ½ without scaling too"))
        figure.legend(handles=keys, loc="outside lower center", ncols=min(4, 2 * columns), frameon=False)
        ending = out.suffix.removeprefix(".").lower() or "svg"
        if ending not in figure.canvas.get_supported_filetypes():
            raise ValueError(f"a file that ends in {out.suffix!r} is no picture: end its name in .svg or .png")
        with whole_file(out) as temporary:
            figure.savefig(temporary, format=ending, dpi=dots, metadata={"Date": None} if ending == "svg" else None)


def _panel(axes: Axes, drawn: Drawing) -> None:
    from matplotlib.colors import ListedColormap

    colors = shades()
    half = float(drawn.height[1] - drawn.height[0]) / 2.0
    width = float(drawn.powers[1] - drawn.powers[0]) / 2.0
    low, high = float(drawn.height[0]) - half, float(drawn.height[-1]) + half
    left, right = float(drawn.powers[0]) - width, float(drawn.powers[-1]) + width
    axes.imshow(
        drawn.level,
        origin="lower",
        aspect="auto",
        extent=(left, right, low, high),
        cmap=ListedColormap(colors),
        vmin=-0.5,
        vmax=len(colors) - 0.5,
        interpolation="nearest",
    )
    for border in drawn.borders:
        axes.plot(border.x, border.y, color="black", linestyle=_DASHES[border.dash], linewidth=1.1)
    if math.isfinite(drawn.ruled_from):
        axes.fill_between(
            [left, right], drawn.ruled_from, high, facecolor="none", edgecolor="white", hatch="///", linewidth=0
        )
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.set_title(drawn.title, loc="left", weight="bold", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2)
