"""Published numbers that a study can be read beside, with ours from the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A published number and where ours stands.

    Attributes:
        study: whose runs have it.
        published: the statement, in our words.
        source: authors, year and where.
        ours: from the run's summary to words; empty where the run lacks it.
    """

    study: str
    published: str
    source: str
    ours: Callable[[pd.DataFrame], str]


def _of(quantity: str, what: str, *, percent: bool = True, **where: object) -> Callable[[pd.DataFrame], str]:
    """Smallest to largest of a quantity at the last step of every network."""

    def ours(summary: pd.DataFrame) -> str:
        lines = summary[summary["quantity"] == quantity]
        for name, value in where.items():
            lines = lines[lines[name] == value]
        if lines.empty:
            return ""
        last = lines[lines["step"] == lines.groupby("network")["step"].transform("max")]
        low, high = (100.0 * value if percent else value for value in (last["measured"].min(), last["measured"].max()))
        unit = " %" if percent else ""
        span = f"{low:.3g}{unit}" if low == high else f"{low:.3g} to {high:.3g}{unit}"
        return (
            f"{what}: {span} ({', '.join(dict.fromkeys(last['network']))})"
            if last["network"].any()
            else f"{what}: {span}"
        )

    return ours


def _share_of(prediction: str, what: str) -> Callable[[pd.DataFrame], str]:
    """Pairs that agree, of those that judge a prediction."""

    def ours(summary: pd.DataFrame) -> str:
        lines = summary[(summary["prediction"] == prediction) & summary["verdict"].isin(("holds", "fails"))]
        if lines.empty:
            return ""
        same = round(float((lines["measured"] * lines["pairs"]).sum()))
        return f"{what}: {same:,} of {int(lines['pairs'].sum()):,} pairs"

    return ours


ANCHORS: Final = (
    Anchor(
        study="real-gradients",
        published="About 5 % of the exponents of weight gradients lie under 2^−24 and are lost in float16.",
        source="Micikevicius et al. 2017, arXiv 1710.03740",
        ours=_of("share_g_zero_in_fp16", "lost in float16 (|g| ≤ 2^−25)", policy="fp32"),
    ),
    Anchor(
        study="real-gradients",
        published="An SSD network has 66.8 % zero gradients in float16; a loss scale of 8 matches float32.",
        source="NVIDIA, Training with Mixed Precision",
        ours=_of("zero_gradient_share", "zero gradients in fp16-mixed", policy="fp16-mixed"),
    ),
    Anchor(
        study="real-gradients",
        published="Updates collapse where the gradient’s root mean square nears eps; eps 1e-15 helps.",
        source="Wortsman et al. 2023, arXiv 2309.14322",
        ours=_of("share_eps_visible_in_fp32", "elements whose r lets 1e-8 be seen in float32", policy="fp32"),
    ),
    Anchor(
        study="exactness",
        published="Adam is invariant to the scale of its gradients at eps = 0; Adam-atan2 has no eps.",
        source="Kingma & Ba 2015, section 2.1; Everett et al. 2024, arXiv 2407.05872",
        ours=_share_of("S5.controls.3", "Adam-atan2 under 2^k, the same bits"),
    ),
    Anchor(
        study="bf16-ratchet",
        published="Small updates of bfloat16 weights cancel when they are rounded to the nearest.",
        source="Zamirai et al. 2020, arXiv 2010.06192",
        ours=_of("share_moved", "parameters that move, over learning rates 6e-7 to 1e-3"),
    ),
    Anchor(
        study="grad-scaler",
        published="torch.amp doubles every 2,000 steps; DeepSpeed’s window is 1,000 with hysteresis 2.",
        source="torch.amp.GradScaler; DeepSpeed’s DynamicLossScaler",
        ours=_of("skip_rate", "steps skipped"),
    ),
    Anchor(
        study="window",
        published="What eps does wears off three decades above it.",
        source="NVIDIA NeMo Emerging-Optimizers, epsilon primer",
        ours=lambda summary: (
            "10^−3 is still 2^14 over what float32 absorbs (2^−24): see the thresholds above" if len(summary) else ""
        ),
    ),
)
"""The anchors; a study without one shows none."""


def rows(study: str, summary: pd.DataFrame) -> Iterator[dict[str, str]]:
    """What was published beside what this run measured."""
    for anchor in ANCHORS:
        ours = anchor.ours(summary) if anchor.study == study else ""
        if ours:
            yield {"published": anchor.published, "source": anchor.source, "ours": ours}
