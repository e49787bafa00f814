"""Where float16 (and bfloat16, float32) states lose gradients, and what an eps that float16 rounds to 0 does."""

from __future__ import annotations

from ...design.claims import Claim, Relation
from ...design.controls import CONTROLS
from ...design.study import Presentation, Study, StudyContext

CLIFF = Claim(
    id="S5.fp16-cliff.1",
    says="float16 v, β₂ .999: after step 1 the share of v = 0 is that of gradients with |s·g| ≤ √(2^−25 / .001) = "
    "5.46e-3.",
    tolerance=0.001,
)
ZERO_OVER_ZERO = Claim(
    id="S5.fp16-cliff.2",
    says="With eps 1e-8 in float16 arithmetic every element without a gradient is NaN after step 1: 1e-8 is 0 there.",
    predicted=1.0,
)
NO_NAN = Claim(
    id="S5.fp16-cliff.3",
    says="With eps of 3e-8 or more none is.",
    predicted=0.0,
)
GRADIENT = Claim(
    id="S4c.g.1",
    says="The first power of two that a state keeps of g itself: 2^−149 (float32), 2^−133 (bfloat16), 2^−24 (float16); "
    "as a normal number 2^−126, 2^−126, 2^−14.",
    tolerance=0.0,
)
SQUARE = Claim(
    id="S4c.g2.1",
    says="Of g²: above 2^−75, 2^−67, 2^−12.5, so 2^−74, 2^−66, 2^−12; normal from 2^−63, 2^−63, 2^−7; infinite from "
    "2^64, 2^64, 2^8.",
    tolerance=0.0,
)
AVERAGE = Claim(
    id="S4c.ema.1",
    says="Of (1 − .999) g²: 2^−70, 2^−62, 2^−7; normal from 2^−58, 2^−58, 2^−2.",
    tolerance=0.0,
)
POWERS = Claim(
    id="S4c.powers.1",
    says="At every power of two of float32 a state is 0, subnormal, normal or infinite as half its smallest number, "
    "its smallest normal one and its largest say.",
    predicted=0.0,
)
BORDERS = Claim(
    id="S4c.borders.1",
    says="In float16 the borders lie at 1.73e-4 (g² nonzero), 255.97 (g² infinite), 5.46e-3 and .247 ((1 − .999) g² "
    "nonzero and normal).",
    tolerance=None,
)
BINADES = Claim(
    id="S4c.binades.1",
    says="A float16 state at β₂ .999 has a usable window of 15.5 binades.",
    predicted=15.5,
    tolerance=0.05,
)
GRADIENT_BINADES = Claim(
    id="S4c.binades.2",
    says="float16 gradients with a float32 state have 40.",
    predicted=40.0,
    tolerance=0.05,
)
SPAN = Claim(
    id="S4c.binades.3",
    says="Real gradients span more: the nonzero ones of all 6-6-1 nets together after 100 steps of Adam.",
    predicted=15.5,
    relation=Relation.AT_LEAST,
)
ABSORBED = Claim(
    id="S4c.absorbed.1",
    says="If v ≠ 0 in float16 then √v ≥ 2^−12, and every eps up to 2^−23 is absorbed: no v of all sees it.",
    predicted=0.0,
)
SHARP = Claim(
    id="S4c.absorbed.2",
    says="That is sharp: the next larger eps, 2^−23 (1 + 2^−10), is seen by the smallest v.",
    predicted=1.0,
    relation=Relation.AT_LEAST,
)
FUSED_FIRST = Claim(
    id="S4c.fused.1",
    says="Fused kernels divide by the v that they have not rounded yet: g = 5e-3, whose v is stored as 0, has a step "
    "of 1.0 at step 1.",
    predicted=1.0,
    tolerance=0.05,
)
FUSED_LATER = Claim(
    id="S4c.fused.2",
    says="And of 7.0 at step 50: m has averaged, v has not.",
    predicted=7.0,
    tolerance=0.05,
)
FUSED_INFINITE = Claim(
    id="S4c.fused.3",
    says="It blows up when g becomes exactly 0 while m is not: every element is infinite after that step.",
    predicted=1.0,
)
FOREACH_INFINITE = Claim(
    id="S4c.fused.4",
    says="Rounded after every operation (foreach) it is infinite at once.",
    predicted=1.0,
)
IN_RANGE = Claim(
    id="S4c.in-range.1",
    says="Where nothing leaves the range, a float16 state is as exact as any: mapped pairs have the same bits.",
    predicted=1.0,
)


def _execute(context: StudyContext) -> None:
    from .script import execute

    execute(context)


def _presentation(study: Study) -> Presentation:
    from .presentation import Cliff

    return Cliff(study)


STUDY = Study(
    name="fp16-cliff",
    title="The edges of float16",
    shows="from which gradient on a float16, bfloat16 or float32 state keeps anything, and why eps 1e-8 is a NaN there",
    cost="7 s of processor time (5 s with --quick)",
    predictions=CONTROLS,
    claims=(
        *(CLIFF, ZERO_OVER_ZERO, NO_NAN, GRADIENT, SQUARE, AVERAGE, POWERS, BORDERS, BINADES, GRADIENT_BINADES, SPAN),
        *(ABSORBED, SHARP, FUSED_FIRST, FUSED_LATER, FUSED_INFINITE, FOREACH_INFINITE, IN_RANGE),
    ),
    execute=_execute,
    presentation=_presentation,
)
