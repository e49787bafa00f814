"""How the study shows itself: the change of a step against the scale, by arithmetic."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...report.charts import COLORS, Chart, Curve, Panel
from ...report.numbers import lines_of, number, rows
from ...report.told import Told
from ...support.errors import input_errors
from ...theory import update_ratio
from . import ALWAYS, COARSE, FLAT, FORM, NEVER
from .script import CURVES

if TYPE_CHECKING:
    import plotly.graph_objects as go

_FORMATS = {"fp32": "float32", "fp16-true": "float16", "bf16-true": "bfloat16"}


class Law(Told):
    """The presentation of ``epsilon-law``."""

    question = "From which s, and which eps, does an optimizer notice the scale of its loss?"
    limits = (
        "Single steps, mostly the first and from p = 0, of Adam, AdamW, RMSprop and Adagrad at β₂ = .999 (α = .99); of "
        "gradients drawn between 1e-6 and 1, evenly on a logarithmic axis. What it makes of whole runs is the study "
        "window’s.",
        "Flips are of parameters in (.5, 1) under one learning rate a row; shares elsewhere in the binade and for "
        "other updates follow from the law and are not measured.",
        "Width is that of a mean over units, up to 256, under Adam for 100 steps: other parametrisations shrink "
        "gradients by other powers.",
    )

    def answers(self, summary: pd.DataFrame) -> Sequence[str]:
        """The law, and its borders per arithmetic."""
        form = lines_of(summary, prediction=FORM.id)
        flat = number(summary, prediction=FLAT.id)
        borders = "; ".join(
            f"{name} {number(summary, prediction=NEVER.id, policy=policy):.3g} and "
            f"{number(summary, prediction=ALWAYS.id, policy=policy):.3g}"
            for policy, name in _FORMATS.items()
        )
        coarse = max(number(summary, prediction=COARSE.id, policy=policy) for policy in ("fp16-true", "bf16-true"))
        return (
            "A step changes by the factor (1 + δ)/(1 + δ/s), δ = eps/r: in float32 within "
            f"{form['measured'].max():.2g} ({int(form['pairs'].sum()):,} steps of four optimizers; up to {coarse:.2g} "
            "off in 16-bit arithmetic), so at most by δ upwards and without bound downwards, from s ≈ δ on; at eps "
            f"1e-8 {100 * flat:.3g} % of the 6-6-1 nets’ elements change by less than 1e-6 at any s above 1.",
            "Nothing at all is seen where eps/r and eps/(s·r) lie under the smallest eps/r that is seen, and something "
            f"always over the largest that is absorbed: {borders}; fused kernels have float32’s, whatever they store.",
        )

    def figures(self, summary: pd.DataFrame, run: Path) -> Iterator[tuple[str, go.Figure, str]]:
        """Curves by arithmetic."""
        del summary
        yield (
            "The change of a step under loss × s",
            _chart(run).to_plotly(),
            "First steps of Adam from p = 0, eps left alone: the scaled step over the unscaled one, median over 64 "
            "places of r in its binade, rounded after every operation. Marks: measured; lines: (1 + δ)/(1 + δ/s). In "
            "16 bits the change is a staircase, and a small δ is not seen at all; where float16’s v leaves its range "
            "the step does otherwise (left).",
        )

    def numbers(self, summary: pd.DataFrame) -> tuple[Sequence[dict[str, Any]], str]:
        """Borders per arithmetic."""
        claims = (NEVER.id, ALWAYS.id)
        lines = summary[summary["prediction"].isin(claims)]
        columns = ("policy", "recipe", "quantity", "predicted", "measured", "pairs", "verdict")
        return rows(lines, *columns), "Absorption of eps in the denominator."

    def picture(self, run: Path, out: Path) -> None:
        """The curves."""
        with input_errors("RUN", run):
            _chart(run).draw(out, "The change of Adam's first step under loss × s, eps left alone")


def _chart(run: Path) -> Chart:
    kept: list[dict[str, Any]] = json.loads((run / CURVES).read_text(encoding="utf-8"))
    panels = []
    for name in dict.fromkeys(curve["arithmetic"] for curve in kept):
        curves = []
        for color, curve in zip(COLORS, (item for item in kept if item["arithmetic"] == name), strict=False):
            delta, x = curve["delta"], curve["log2_scale"]
            label = f"δ = {delta:g}"
            exact = [update_ratio(delta, 2.0**power) for power in x]
            curves.append(Curve(name=label, x=x, y=exact, color=color))
            curves.append(Curve(name=label, x=x, y=curve["ratio"], color=color, marks=True))
        panels.append(Panel(title=name, curves=curves))
    return Chart(panels=panels, x_title="log₂ s", y_title="step, scaled / unscaled", y_log=True, height=300)
