"""How the study shows itself: a map of who agrees with whom, optimizer by optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from ...report.figures import FONT
from ...report.labels import optimizer_label
from ...report.numbers import lines_of, same
from ...report.told import Told
from . import EXACT, FAR_EXACT, HALF_DIFFER, TOO_FAR, UNMAPPED

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Exactness(Told):
    """The presentation of ``exactness``."""

    question = "Which hyperparameters undo a loss × 2^k, bit for bit?"
    limits = (
        "One network of 49 parameters at lr 0.01, 1,000 steps, float32 parameters and passes with three formats "
        "of state, k of ±4, ±10, ±20 and ±40: options and scales that the map lists beyond these follow from the "
        "theory, not from here.",
        "Its passes multiply by the scale exactly. A backward pass that rounds otherwise with the scale "
        "(quantised gradients, hooks with constants, sums whose order changes) is not in it.",
    )

    def answers(self, summary: pd.DataFrame) -> Sequence[str]:
        """Yes by the map, where it ends, and what goes unmapped."""
        judged = summary[summary["prediction"].isin((EXACT.id, FAR_EXACT.id)) & (summary["reason"] == "")]
        last = judged[judged["step"] == judged["step"].max()]
        moved = lines_of(summary, quantity="moved_elements", arm="mapped")
        least = moved[moved["policy"] != "fp16-state"]["measured"].min()
        optimizers = len(last[["optimizer", "options"]].drop_duplicates())
        step = int(last["step"].max()) if len(last) else 0
        too_far = lines_of(summary, arm="mapped", scale=TOO_FAR, step=step)
        shifting = too_far[too_far["policy"] != "fp16-state"]
        unmapped = lines_of(summary, prediction=UNMAPPED.id)["measured"].dropna()
        half = lines_of(summary, prediction=HALF_DIFFER.id)["measured"].dropna()
        said = [
            f"Those of the degree table, for {optimizers} optimizers and options: {same(last)} pairs agree in every "
            f"parameter bit after {step:,} steps, for k from −20 to 40, in float32 and with a bfloat16 state (at least "
            f"{100 * least:.3g} % of the elements with a gradient had moved in the median model).",
            f"At k = −40, where small moments leave float32’s range, {same(shifting)} still do"
            + (f"; with a float16 state {_span(half)} of Adam’s parameters differ at |k| ≥ 4." if len(half) else "."),
        ]
        if len(unmapped):
            said.append(
                f"With eps = 1e-8 left alone {_span(unmapped)} of Adam’s pairs agree at |k| ≥ 4 after {step:,} steps."
            )
        return said

    def figures(self, summary: pd.DataFrame, run: Path) -> Iterator[tuple[str, go.Figure, str]]:
        """The share of pairs that agree, by optimizer and k, mapped and not, policy by policy."""
        del run
        step = int(summary["step"][summary["arm"] == "mapped"].max())
        for policy in dict.fromkeys(lines_of(summary, arm="mapped")["policy"]):
            yield (
                f"Pairs that agree in every parameter bit: {policy}",
                _map(summary, str(policy), step),
                f"After {step:,} steps. Left: all hyperparameters mapped; right: the loss alone multiplied by 2^k. "
                "Green: all pairs agree; the rest by their share. Hover for the numbers.",
            )

    def numbers(self, summary: pd.DataFrame) -> tuple[Sequence[dict[str, Any]], str]:
        """Per optimizer and policy: pairs that agree, mapped and not."""
        rows = []
        step = int(summary["step"][summary["arm"] == "mapped"].max())
        lines = lines_of(summary, quantity="identical_share", step=step)
        lines = lines[lines["network"] != ""]
        for (policy, optimizer, options), of in lines.groupby(["policy", "optimizer", "options"], sort=False):
            near = of[of["scale"] != TOO_FAR]
            rows.append(
                {
                    "policy": policy,
                    "optimizer": optimizer_label(str(optimizer), str(options)),
                    "mapped": same(near, arm="mapped"),
                    "mapped, k = -40": same(of, arm="mapped", scale=TOO_FAR),
                    "loss alone": same(near, arm="loss"),
                    "one ulp": same(of, arm="ulp"),
                }
            )
        return rows, f"Pairs that agree in every parameter bit after {step:,} steps, k from −20 to 40."


_SHORT: Final = {
    "momentum=0.9": "momentum",
    "nesterov=True": "nesterov",
    "weight_decay=0.01": "L2",
    "dampening=0.5": "damped",
    "maximize=True": "max.",
    "amsgrad=True": "amsgrad",
    "centered=True": "centered",
    "initial_accumulator_value=0.1": "acc. .1",
    "lr_decay=0.01": "lr decay",
    "eps=0.001": "eps 1e-3",
}


def _short_label(optimizer: str, options: str) -> str:
    """Of a row: narrow enough for a phone."""
    words = [_SHORT.get(option, option) for option in options.split(",") if option]
    return " ".join([optimizer_label(optimizer, ""), *words])


def _span(shares: pd.Series) -> str:
    """Shares as percentages, from the smallest to the largest."""
    low, high = (f"{100 * value:.3g}" for value in (shares.min(), shares.max()))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _map(summary: pd.DataFrame, policy: str, step: int) -> go.Figure:
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=1, cols=2, subplot_titles=["mapped", "loss alone"], shared_yaxes=True, horizontal_spacing=0.03
    )
    lines = lines_of(summary, quantity="identical_share", policy=policy, step=step)
    lines = lines[lines["network"] != ""]
    for column, arm in enumerate(("mapped", "loss"), 1):
        chosen = lines_of(lines, arm=arm)
        names = [_short_label(*key) for key in zip(chosen["optimizer"], chosen["options"], strict=True)]
        table = chosen.assign(row=names, k=np.log2(chosen["scale"]).round().astype(int)).pivot(
            index="row", columns="k", values="measured"
        )
        table = table.loc[list(dict.fromkeys(names))]
        figure.add_heatmap(
            x=[str(k) for k in table.columns],
            y=list(table.index),
            z=table.to_numpy(),
            zmin=0.0,
            zmax=1.0,
            colorscale=[[0.0, "#f3e9e2"], [0.999, "#e69f00"], [1.0, "#009E73"]],
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate="%{y}, k = %{x}: %{z:.4g} agree<extra>" + arm + "</extra>",
            row=1,
            col=column,
        )
    figure.update_xaxes(title_text="k", type="category", tickfont={"size": 10}, tickangle=-90)
    figure.update_yaxes(autorange="reversed", automargin=True, tickfont={"size": 10}, ticklen=0)
    figure.update_layout(
        template="none", height=470, margin={"l": 10, "r": 10, "t": 30, "b": 50}, font=FONT, paper_bgcolor="white"
    )
    return figure
