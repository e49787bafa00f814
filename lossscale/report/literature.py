"""Published numbers that a study can be read beside, with ours from the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from .labels import raised_powers
from .numbers import lines_of, told


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A published number and where ours stands.

    Attributes:
        study: whose runs have it.
        published: the statement, in our words.
        source: authors, year and where.
        ours: from the run's summary to words; empty where the run lacks it.
        reading: whether the two say the same, and why or why not.
    """

    study: str
    published: str
    source: str
    ours: Callable[[pd.DataFrame], str]
    reading: str


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


def _resets(summary: pd.DataFrame) -> str:
    """The step after a fall of the gradients, with resets and without."""
    with_, without = (
        told(
            summary, prediction=claim, policy="bf16-state", options="beta2=0.999; falling to a tenth", quantity=quantity
        )
        for claim, quantity in (("S8.resets.1", "step_ratio"), ("S8.decaying.1", "step_ratio"))
    )
    if "–" in (with_, without):
        return ""
    return f"step after gradients fell to a tenth, over that of a float32 v: × {with_} with resets, × {without} without"


def _felt(summary: pd.DataFrame) -> str:
    """How much of a slight change of the scale a warm step feels, by beta2."""
    found = [
        lines_of(summary, prediction="S6.balanced.1", options=f"betas=(0.9; {beta2})")["measured"]
        for beta2 in (0.999, 0.95, 0.9)
    ]
    if any(each.empty for each in found):
        return ""
    numbers = ", ".join(f"{each.iloc[0]:.2g}" for each in found)
    return (
        f"a loss × 1.01 moves the step by up to {numbers} of its size at β₂ = .999, .95, .9 = β₁ (1,024 elements each)"
    )


def _cuts(summary: pd.DataFrame) -> str:
    """From which cut of a batch on a bfloat16 v sticks, by beta2 of the whole one."""
    found = [
        told(summary, prediction="S8.batch.1", options=f"beta2={beta2} of the whole batch", policy="bf16-state")
        for beta2 in (0.95, 0.99)
    ]
    if "–" in found:
        return ""
    return f"first cut of a batch at which a bfloat16 v sticks: {found[0]} parts from β₂ = .95, {found[1]} from .99"


def _end(quantity: str, what: str, **where: Any) -> Callable[[pd.DataFrame], str]:
    """One number of the study, with its interval."""

    def ours(summary: pd.DataFrame) -> str:
        said = told(summary, quantity=quantity, **where)
        return "" if said == "–" else f"{what}: {said}"

    return ours


def _far_eps(summary: pd.DataFrame) -> str:
    """How far Adam's weights end from the unscaled run's under two eps."""
    found = []
    for options in ("", "eps=0.001"):
        lines = lines_of(
            summary, quantity="median_rel_distance", optimizer="adam", options=options, arm="loss", against="base"
        )
        lines = lines[(lines["scale"] > 1) & (lines["network"] == "mlp-64-32-10")]
        if lines.empty:
            return ""
        last = lines[lines["step"] == lines["step"].max()]
        found.append(f"{last['measured'].max():.2g} of their size")
    return f"Adam’s digits networks under s > 1 end up to {found[0]} away with eps 1e-8, {found[1]} with 1e-3 (medians)"


def _float32_borders(summary: pd.DataFrame) -> str:
    """From where on Adam in float32 notices: bits, in units of eps / RMS g, and the loss."""
    plain = lines_of(summary, optimizer="adam", options="lr=0.01", recipe="foreach", policy="fp32")
    bits = lines_of(plain, quantity="half_differ_log2_eps_over_rms")["measured"]
    loss = lines_of(plain, quantity="border_outcome_below")["measured"]
    if bits.empty or loss.empty:
        return ""
    pairs = int(lines_of(plain, quantity="border_outcome_below")["pairs"].iloc[0])
    return (
        f"Adam in float32, eps 1e-8: half of the pairs differ in a bit from eps / RMS g = 2^{bits.iloc[0]:.0f} on; the "
        f"loss is another from s = 2^{loss.iloc[0]:.0f} down ({pairs:,} pairs a scale)"
    )


ANCHORS: Final = (
    Anchor(
        study="real-gradients",
        published="About 5 % of the exponents of weight gradients lie under 2^-24 and are lost in float16.",
        source="Micikevicius et al. 2017, arXiv 1710.03740",
        ours=_of("share_g_zero_in_fp16", "lost in float16 (|g| ≤ 2^-25)", policy="fp32"),
        reading="Less is lost here: networks this small, this early, have larger gradients. The tail is the same kind.",
    ),
    Anchor(
        study="real-gradients",
        published="An SSD network has 66.8 % zero gradients in float16; a loss scale of 8 matches float32.",
        source="NVIDIA, Training with Mixed Precision",
        ours=_of("zero_gradient_share", "zero gradients in fp16-mixed", policy="fp16-mixed"),
        reading="Fewer here, and a zero is not always underflow: units that ReLU turns off have it in every format.",
    ),
    Anchor(
        study="real-gradients",
        published="Updates collapse where the gradient’s root mean square nears eps; eps 1e-15 helps.",
        source="Wortsman et al. 2023, arXiv 2309.14322",
        ours=_of("share_eps_visible_in_fp32", "elements whose r lets 1e-8 be seen in float32", policy="fp32"),
        reading="Neither shown nor denied: to be seen in the last bit is far from deciding an update, which takes an "
        "eps near r.",
    ),
    Anchor(
        study="exactness",
        published="Adam is invariant to the scale of its gradients at eps = 0; Adam-atan2 has no eps.",
        source="Kingma & Ba 2015, section 2.1; Everett et al. 2024, arXiv 2407.05872",
        ours=_share_of("S5.controls.3", "Adam-atan2 under 2^k, the same bits"),
        reading="The same, to the last bit, for powers of two.",
    ),
    Anchor(
        study="bf16-ratchet",
        published="Small updates of bfloat16 weights cancel when they are rounded to the nearest.",
        source="Zamirai et al. 2020, arXiv 2010.06192",
        ours=_of("share_moved", "parameters that move in a step, lr 6e-7 to 1e-3", prediction="S4e.moves.1"),
        reading="The same: below half a spacing of its parameter an update is gone.",
    ),
    Anchor(
        study="bf16-ratchet",
        published="Both moments in bfloat16, beside float32 master weights, do no visible harm.",
        source="DeepSeek-V3, arXiv 2412.19437, section 3.3.3",
        ours=_of("v_bias", "mean bias of a bfloat16 v at β₂ = .95", prediction="S8.random.6"),
        reading="The same at a small β₂. It does not carry over to .999, where v sticks: see the answer above.",
    ),
    Anchor(
        study="bf16-ratchet",
        published="Low-precision averages go stale, as updates round back to what is stored; resets restore them.",
        source="Topollai & Choromanska 2026, arXiv 2603.16731",
        ours=_resets,
        reading="The same, on drawn gradients: resets every 1,000 steps give back the step of a young state. They too "
        "give one-step stall probabilities; ours are S8.one-step.1 and .2.",
    ),
    Anchor(
        study="bf16-ratchet",
        published="Small batches want β₂’s half-life held fixed in tokens, which moves β₂ towards 1.",
        source="Marek et al. 2025, arXiv 2507.07101",
        ours=_cuts,
        reading="The same rule, its other side: past the format’s border a bfloat16 v no longer follows gradients that "
        "fall. Small batches need a float32 v, or resets.",
    ),
    Anchor(
        study="epsilon-law",
        published="CompleteP scales eps with width and depth.",
        source="nanoGPT-mup, branch completep",
        ours=_end(
            "eps_share", "share of the update that eps decides at width 256, eps left alone", prediction="S8.width.5"
        ),
        reading="The same for width: gradients ∝ 1/width want eps ∝ 1/width, bit for bit where units are copied. Depth "
        "was not run.",
    ),
    Anchor(
        study="mid-run",
        published="Adam is invariant, to first order, to a change of the gradients’ scale if and only if β₁ = β₂.",
        source="Fernández-Hernández et al. 2026, arXiv 2601.21739",
        ours=_felt,
        reading="The same: what is left at β₁ = β₂ is of second order. A change that is not slight is felt there too.",
    ),
    Anchor(
        study="loss-vs-lr",
        published="eps is a hyperparameter to be tuned; with a large one Adam becomes momentum SGD.",
        source="Choi et al. 2019, arXiv 1910.05446",
        ours=_far_eps,
        reading="The same reason: a large eps makes Adam feel the gradients’ scale as SGD does. Nothing is tuned here.",
    ),
    Anchor(
        study="grad-scaler",
        published="torch.amp doubles every 2,000 steps; DeepSpeed’s window is 1,000 with hysteresis 2.",
        source="torch.amp.GradScaler; DeepSpeed’s DynamicLossScaler",
        ours=_of("skip_rate", "steps skipped"),
        reading="The policies are theirs, the rates ours: nobody has published rates to compare with that we know of.",
    ),
    Anchor(
        study="window",
        published="What eps does wears off three decades above it.",
        source="NVIDIA NeMo Emerging-Optimizers, epsilon primer",
        ours=_float32_borders,
        reading="Different by what is looked at: 10^-3 is no change of a loss, as here, but 2^14 over what float32 "
        "absorbs (2^-24), so bits go on differing.",
    ),
    Anchor(
        study="window",
        published="OLMo 2 lowered Adam’s eps from 1e-5 to 1e-8 (figure 9).",
        source="OLMo 2, arXiv 2501.00656",
        ours=_float32_borders,
        reading="Fits: a loss notices only an eps near the gradients’ root mean square, and 1e-5 is 2^10 nearer to it "
        "than 1e-8. How large OLMo’s gradients are was not looked at.",
    ),
)
"""The anchors; a study without one shows none."""


def rows(study: str, summary: pd.DataFrame) -> Iterator[dict[str, str]]:
    """What was published beside what this run measured."""
    for anchor in ANCHORS:
        ours = anchor.ours(summary) if anchor.study == study else ""
        if ours:
            row = {"published": anchor.published, "ours": ours, "beside each other": anchor.reading}
            yield {name: raised_powers(text) for name, text in row.items()} | {"source": anchor.source}
