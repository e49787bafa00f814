"""How the study shows itself: spectra with the formats' windows drawn in, and the layers that do not fit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...design.arms import FLOOR
from ...design.measures import DISTANCE_OVER_MOVED
from ...report.labels import optimizer_label
from ...report.told import Told
from ...runs.summary import read_summary
from . import DIGITS, TRANSFORMER
from .spectra import HIGHEST, LOWEST, SPECTRA, quantile_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

_COLORS = ("#1f5fbf", "#d9822b", "#2b8a3e", "#8e44ad", "#c0392b", "#16788a", "#7a5c00", "#555b66")
_WINDOWS = (
    (-14.0, "fp16 normal"),
    (-24.0, "fp16 smallest"),
    (-7.52, "v > 0 in fp16, β₂ .999"),
)


class RealGradients(Told):
    """The presentation of ``real-gradients``."""

    question = "Do the gradients of real networks fit the formats?"
    limits = (
        "Two small networks under AdamW at lr 1e-3: a character-level transformer (about 300,000 parameters, 500 "
        "steps, 16 pairs a policy: nothing is said of its outcome, and its floor is the largest of 16) and a "
        "classifier of digits (1,024 pairs, 100 steps). Larger models’ gradients span more, and shrink with width.",
        "The spectra are of the unscaled float32 run at steps 1, 10, 100 and 500; between these nothing is kept. "
        "Scales are 2⁻¹⁰ and 2¹⁰, and 3 where the hyperparameters are mapped (the floor).",
        "Adam-atan2, the control without eps, trains the classifier only: a second transformer would double the "
        "study’s cost.",
    )

    def answers(self, summary: pd.DataFrame) -> Sequence[str]:
        """float16's windows, what eps decides, and what a scaled loss did to the pairs."""
        names = {TRANSFORMER: "a character-level transformer", DIGITS: "a digits classifier"}
        said = []
        for network, name in names.items():
            of = _Last(summary, network)
            if of.known:
                said.append(
                    f"{name} has {of('share_g_below_fp16_normal', 100)} % of its nonzero gradients under float16’s "
                    "smallest "
                    f"normal number at step {of.step}, {of('share_g2_zero_in_fp16_state', 100)} % whose square a "
                    "float16 "
                    f"second moment loses (β₂ = .999), and they span {of('span_in_binades')} binades"
                )
        words = "; ".join(said)
        pairs = summary[summary["prediction"] == "S5.real-gradients.1"]
        judged = pairs[pairs["verdict"].isin(("holds", "fails"))]
        same = round(float((judged["measured"] * judged["pairs"]).sum()))
        return (
            f"In bfloat16 yes, in float16 only with a loss scale, and in a float16 second moment not: {words}."
            if words
            else "This run has none.",
            f"Loss × 2^k with eps × 2^k changed no bit in {same} of {int(judged['pairs'].sum())} comparisons at all "
            "checkpoints in fp32 and the bf16 policies.",
        )

    def table(self, run: Path) -> Sequence[dict[str, Any]]:
        """How every policy fared under each scale at the last checkpoint."""
        return list(_policy_rows(read_summary(run)))

    def figures(self, summary: pd.DataFrame, run: Path) -> Iterator[tuple[str, go.Figure, str]]:
        """Gradients and roots at the last checkpoint, layer by layer."""
        del summary
        spectra: list[dict[str, Any]] = json.loads((run / SPECTRA).read_text(encoding="utf-8"))
        for network in dict.fromkeys(item["network"] for item in spectra):
            own = [item for item in spectra if item["network"] == network]
            policy = "fp32" if any(item["policy"] == "fp32" for item in own) else own[0]["policy"]
            own = [item for item in own if item["policy"] == policy]
            last = max(item["step"] for item in own)
            now = _by_kind([item for item in own if item["step"] == last])
            for what, label in (("gradients", "|g|"), ("roots", "r")):
                yield (
                    f"{network}: log₂ {label} at step {last}",
                    _histogram(now, what),
                    f"Share of each layer’s numbers other than 0 in every binade, policy {policy}. "
                    + (
                        "Lines: float16’s smallest normal and smallest number, and where (1 − β₂) g² leaves float16."
                        if what == "gradients"
                        else "Lines: eps = 1e-8 becomes visible to the left of each, in float32, float16 and bfloat16 "
                        "arithmetic."
                    ),
                )

    def sections(self, run: Path) -> Iterator[tuple[str, str, str]]:
        """The pictures, the policies, and every layer."""
        from ...support.html import table

        yield from super().sections(run)
        yield (
            "Policies",
            "policies",
            table(
                self.table(run),
                caption="At each network’s last checkpoint: pairs with the base arm. The transformer’s 16 pairs make "
                "no claim on "
                "outcome. Floor φ: the 99 % quantile of the distance over the way that training went, of pairs mapped "
                "at s = 3.",
            ),
        )
        yield (
            "Layers",
            "layers",
            table(
                list(_layer_rows(run)),
                caption="fp32, last checkpoint. Binades of the 1 %, 50 % and 99 % quantiles of |g| and of r; s: "
                "powers of two "
                "that bring the 1 % quantile of |g| to float16’s normal numbers; eps: the largest power of two that "
                "bfloat16 "
                "arithmetic absorbs at the 1 % quantile of r.",
            ),
        )


class _Last:
    """Numbers of a network at its last checkpoint in fp32."""

    def __init__(self, summary: pd.DataFrame, network: str) -> None:
        own = summary[
            (summary["network"] == network) & (summary["policy"] == "fp32") & (summary["quantity"] == "span_in_binades")
        ]
        self.known = len(own) > 0
        self.step = int(own["step"].max()) if self.known else 0
        self._lines = summary[
            (summary["network"] == network) & (summary["policy"] == "fp32") & (summary["step"] == self.step)
        ].drop_duplicates("quantity", keep="last")

    def __call__(self, quantity: str, factor: float = 1.0) -> str:
        line = self._lines[self._lines["quantity"] == quantity].iloc[0]
        value, lo, hi = (factor * float(line[name]) for name in ("measured", "lo", "hi"))
        interval = "" if lo != lo else f" [{lo:.3g}, {hi:.3g}]"
        return f"{value:.3g}{interval}"


def _policy_rows(summary: pd.DataFrame) -> Iterator[dict[str, Any]]:
    pairs = summary[(summary["against"] == "base")]
    for (network, optimizer, policy), lines in pairs.groupby(["network", "optimizer", "policy"], sort=False):
        final = lines[lines["step"] == lines["step"].max()]
        row: dict[str, Any] = {
            "network": network,
            "optimizer": optimizer_label(str(optimizer), ""),
            "policy": policy,
            "step": int(final["step"].max()),
        }
        for arm, scale in dict.fromkeys(zip(final["arm"], final["scale"], strict=True)):
            own = final[(final["arm"] == arm) & (final["scale"] == scale)].set_index("quantity")
            name = f"{arm} × {scale:g}" if scale != 1 else str(arm)
            if "median_rel_distance" in own.index:
                row[name] = float(own.loc["median_rel_distance", "measured"])
            else:
                row[name] = "not finite"
        floor = final[final["quantity"] == DISTANCE_OVER_MOVED.quantity_name].set_index("arm")["measured"]
        row["floor φ"] = float(floor.get(FLOOR.name, math.nan))
        yield row


def _by_kind(layers: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[int]]]:
    """Layers of one kind together: blocks are told apart by nothing but their number."""
    kinds: dict[str, dict[str, list[int]]] = {}
    for item in layers:
        parts = item["layer"].split(".")
        kind = (
            ".".join(part for part in parts if not part.isdigit() and part != "blocks")
            if "blocks" in parts
            else item["layer"]
        )
        if kind.endswith("bias"):
            kind = "biases"
        mine = kinds.setdefault(kind, {"gradients": [0] * len(item["gradients"]), "roots": [0] * len(item["roots"])})
        for what, counts in mine.items():
            mine[what] = [a + b for a, b in zip(counts, item[what], strict=True)]
    return kinds


def _histogram(kinds: dict[str, dict[str, list[int]]], what: str) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    used = [k for counts in kinds.values() for k, count in enumerate(counts[what]) if count]
    first, last = (min(used), max(used)) if used else (0, 1)
    first = max(first, -70 - LOWEST)
    for place, (kind, counts) in enumerate(kinds.items()):
        total = sum(counts[what]) or 1
        figure.add_scatter(
            x=[k + LOWEST for k in range(first, last + 1)],
            y=[counts[what][k] / total for k in range(first, last + 1)],
            name=kind,
            mode="lines",
            line={
                "shape": "hv",
                "color": _COLORS[place % len(_COLORS)],
                "dash": ("solid", "dot")[place // len(_COLORS) % 2],
            },
            hovertemplate="2^%{x}: %{y:.2%}<extra>%{fullData.name}</extra>",
        )
    windows = _WINDOWS if what == "gradients" else _EPS_LINES
    for at, label in windows:
        figure.add_vline(
            x=at, line={"color": "#9aa3b2", "width": 1, "dash": "dash"}, annotation_text=label, annotation_font_size=10
        )
    figure.update_xaxes(title="binade, log₂")
    figure.update_yaxes(title="share", tickformat=".0%")
    figure.update_layout(
        template="none", height=420, margin={"l": 60, "r": 10, "t": 30, "b": 50}, legend={"orientation": "h", "y": -0.2}
    )
    return figure


_EPS = -26.58  # log2 1e-8
_EPS_LINES = ((_EPS + 25, "fp32"), (_EPS + 12, "fp16"), (_EPS + 9, "bf16"), (_EPS, "eps = 1e-8"))


def _layer_rows(run: Path) -> Iterator[dict[str, Any]]:
    spectra: list[dict[str, Any]] = json.loads((run / SPECTRA).read_text(encoding="utf-8"))
    for network in dict.fromkeys(item["network"] for item in spectra):
        own = [item for item in spectra if item["network"] == network and item["policy"] == "fp32"]
        for item in own:
            if item["step"] != max(other["step"] for other in own):
                continue
            g, r = ([quantile_of(item[what], level) for level in (0.01, 0.5, 0.99)] for what in ("gradients", "roots"))
            total = sum(item["gradients"]) or 1
            yield {
                "network": network,
                "layer": item["layer"],
                "|g| 1 %, 50 %, 99 %": ", ".join(f"{value:.0f}" for value in g),
                "zero g": item["zero_gradients"] / (total + item["zero_gradients"]),
                "under fp16 normal": sum(item["gradients"][: -14 - LOWEST]) / total,
                "v lost in fp16": sum(item["gradients"][: -8 - LOWEST]) / total,
                "r 1 %, 50 %, 99 %": ", ".join(f"{value:.0f}" for value in r),
                "eps 1e-8 visible in fp32": sum(item["roots"][: round(_EPS + 25) - LOWEST]) / (sum(item["roots"]) or 1),
                "log₂ s": f"{-14 - g[0]:.0f}",
                "log₂ eps": f"{r[0] - 9:.0f}",
            }


assert LOWEST < -14 < HIGHEST
