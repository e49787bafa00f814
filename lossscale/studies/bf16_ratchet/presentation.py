"""How the study shows itself: the step's factor over time, and what moves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from ...design.claims import Claim
from ...report.charts import COLORS, Chart, Curve, Panel
from ...report.numbers import lines_of, number, rows, told
from ...report.told import Told
from ...support.errors import input_errors
from . import CONSTANT_STEP, DECAYING, HALF_STEP, MOVES, RANDOM, RANDOM_STEP, SHORT_MEMORY
from .script import CURVES

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ROUNDINGS: Final = {"bfloat16 state v": "solid", "bfloat16 v": "dash"}
_KINDS: Final = ("constant", "normal", "heavy tails", "falling to a tenth")
_ONCE, _TWICE = "bf16-state", "bf16-true"


class Ratchet(Told):
    """The presentation of ``bf16-ratchet``."""

    question = "Is a bfloat16 second moment safe?"
    limits = (
        "The gradients are drawn, constant, random, heavy-tailed or falling, and follow from no loss: which of "
        "them is nearest to those of a training run has to be looked at there.",
        "One element is like another: 16,384 of them, Adam with β₁ = .9, 20,000 steps in bfloat16 and 5,000 in "
        "float16. What the bias of a step makes of a trained network is not measured.",
        "A cut batch is more noise and another β₂ (.95 and .99 of the whole batch, up to 32 parts), not a training "
        "of its own.",
        "Rounding is to the nearest. Stochastic rounding, Kahan sums and states of 8 bits with a scale per block "
        "are not looked at.",
    )

    def answers(self, summary: pd.DataFrame) -> Sequence[str]:
        """By beta2 and by how gradients change; then float16, and the parameters."""
        random = lines_of(summary, prediction=RANDOM_STEP.id)
        random = random[random["measured"].notna()]
        said: list[str] = []
        if len(random):
            last = int(random["step"].max())
            once, twice = (told(random, policy=policy, step=last) for policy in (_ONCE, _TWICE))
            said.append(
                f"Not at β₂ = .999: beside a float32 v the step is × {once} after {last:,} steps of random gradients "
                f"where v is rounded once a step and × {twice} where it is rounded twice "
                f"({int(random['pairs'].max()):,} elements, medians with 95 %)"
                + _both(summary, CONSTANT_STEP, ", × {} and × {} under a constant gradient")
                + _both(summary, DECAYING, ", × {} and × {} 8,000 steps after the gradients fell to a tenth")
                + "."
            )
        late = _both(summary, SHORT_MEMORY, "At β₂ = .99 it is × {} and × {}")
        if late:
            late += _of_kind(summary, "0.99; constant", ", × {} and × {} under a constant gradient")
            late += _both(summary, DECAYING, ", and × {} and × {} after the fall", "beta2=0.99; falling to a tenth")
            late += at_short_memory(summary)
            half = [
                number(summary, prediction=HALF_STEP.id, quantity=f"{end}_step_ratio")
                for end in ("smallest", "largest")
            ]
            if not math.isnan(half[0]):
                late += (
                    f"; a float16 v at .999 has steps of × {half[0]:.3g} to {half[1]:.3g}, by its place in the binade"
                )
            said.append(f"{late}.")
        moves = lines_of(summary, prediction=MOVES.id).set_index("options")["measured"]
        return (
            *said,
            f"Of bfloat16 parameters N(0, .02²) {100 * moves['lr=0.0001']:.3g} % move in a step at lr 1e-4 and "
            f"{100 * moves['lr=1e-05']:.3g} % at 1e-5, and AdamW's decay changes none of them below lr · wd = 2^-9.",
        )

    def figures(self, summary: pd.DataFrame, run: Path) -> Iterator[tuple[str, go.Figure, str]]:
        """The drift in bfloat16, and in float16."""
        del summary
        kept = _read(run)
        yield (
            "What a 16-bit second moment does to the step",
            _chart(kept, "bfloat16").to_plotly(),
            "The factor on the step that follows from v, 1/√(v / v in float32), median over the elements. Solid: v is "
            "rounded once a step (bfloat16 state beside float32 parameters, or fused kernels); dashed: twice "
            "(everything bfloat16, foreach). Line: as float32.",
        )
        yield (
            "The same in float16, β₂ = .999",
            _chart(kept, "float16").to_plotly(),
            "Gradients of eight sizes within one binade of v, and one whose v is subnormal (σ = .004). Solid: rounded "
            "once; dashed: twice.",
        )

    def numbers(self, summary: pd.DataFrame) -> tuple[Sequence[dict[str, Any]], str]:
        """The factors by step, beta2 and storage."""
        claims = (RANDOM, RANDOM_STEP, SHORT_MEMORY, CONSTANT_STEP, DECAYING)
        known = [f"beta2={beta2}; {kind}" for beta2 in ("0.999", "0.99", "0.95") for kind in _KINDS]
        of_kinds = summary["quantity"].isin(["v_ratio", "step_ratio"]) & summary["options"].isin(known)
        of_kinds &= summary["prediction"].fillna("") == ""
        chosen = summary["prediction"].isin([claim.id for claim in claims]) | of_kinds
        lines = summary[chosen & summary["measured"].notna()]
        columns = ("arm", "options", "step", "quantity", "predicted", "measured", "lo", "hi", "verdict")
        return rows(lines, *columns), "v and the step beside those of a float32 v."

    def picture(self, run: Path, out: Path) -> None:
        """The drift in bfloat16."""
        with input_errors("RUN", run):
            _chart(_read(run), "bfloat16").draw(out, "The step under a bfloat16 second moment, beside float32")


def _both(summary: pd.DataFrame, claim: Claim, text: str, options: str = "") -> str:
    """The text with the claim's number of one rounding and of two; empty where this run has none."""
    lines = (
        lines_of(summary, prediction=claim.id, options=options) if options else lines_of(summary, prediction=claim.id)
    )
    found = [number(lines, policy=policy) for policy in (_ONCE, _TWICE)]
    return "" if any(map(math.isnan, found)) else text.format(*(f"{value:.3g}" for value in found))


def _of_kind(summary: pd.DataFrame, kind: str, text: str) -> str:
    """The text with the step's factors of gradients of which nothing was predicted; empty where this run has none."""
    lines = lines_of(summary, quantity="step_ratio", options=f"beta2={kind}")
    found = [number(lines, policy=policy) for policy in (_ONCE, _TWICE)]
    return "" if any(map(math.isnan, found)) else text.format(*(f"{value:.3g}" for value in found))


def at_short_memory(summary: pd.DataFrame) -> str:
    """How far the step and v are off at β₂ = .95, by the kind of gradients that is worst for each."""
    lines = summary[summary["options"].isin([f"beta2=0.95; {kind}" for kind in _KINDS])]
    off = {name: (lines_of(lines, quantity=f"{name}_ratio")["measured"] - 1.0).abs() for name in ("step", "v")}
    kinds = list(dict.fromkeys(text.partition("; ")[2] for text in lines["options"]))
    if any(found.dropna().empty for found in off.values()):
        return ""
    step, v = (f"{100 * found.max():.2g} %" for found in off.values())
    return f"; at .95 the step is off by {step} at most and v by {v} (gradients: {', '.join(kinds)})"


def _read(run: Path) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = json.loads((run / CURVES).read_text(encoding="utf-8"))
    return kept


def _chart(kept: Sequence[dict[str, Any]], form: str) -> Chart:
    """One panel; a colour per kind of gradients."""
    chosen = [curve for curve in kept if curve["storage"].startswith(form) and "resets" not in curve["storage"]]
    names = list(dict.fromkeys(_name(curve) for curve in chosen))
    curves = [
        Curve(
            name=_name(curve),
            x=curve["step"],
            y=[value**-0.5 for value in curve["v"]],
            color=COLORS[names.index(_name(curve)) % len(COLORS)],
            dash="solid" if "state" in curve["storage"] else "dash",
        )
        for curve in chosen
    ]
    return Chart(
        panels=[Panel(title="", curves=curves, levels=(1.0,))],
        x_title="steps",
        y_title="factor on the step",
        x_log=True,
        y_log=True,
        height=480,
    )


def _name(curve: dict[str, Any]) -> str:
    beta2 = "" if curve["storage"].startswith("float16") else f", β₂ {curve['beta2']:g}"
    return f"{curve['gradients']}{beta2}"
