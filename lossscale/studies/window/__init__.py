"""When eps / s stops being negligible: thresholds, causes and the phase diagram, per optimizer and number format."""

from __future__ import annotations

from ...design.claims import EPS_FREE, MAPPED, NULL, Claim, Relation
from ...design.study import Presentation, Study, StudyContext


def _execute(context: StudyContext) -> None:
    from .script import execute

    execute(context)


def _presentation(study: Study) -> Presentation:
    from .presentation import Window

    return Window(study)


EVENT = Claim(
    id="S5.window.1",
    says="Which parameter bits one step from shared state changes when the loss is multiplied by 2^k and eps left "
    "alone follows exactly from the unscaled run’s own r, m and θ: elements that are otherwise.",
    predicted=0.0,
)
NOT_RMS = Claim(
    id="S5.window.2",
    says="4(a) with the RMS of the gradients is not the border of a run in float32, for the smallest r decides: half "
    "of the pairs differ from one of log2(eps / RMS g) at least four binades below 4(a)’s −25.",
    predicted=-29.0,
    relation=Relation.AT_MOST,
)
PLANE = Claim(
    id="S5.window.3",
    says="In range the plane (s, eps) is redundant: the run at (s, eps) has the bits of the run at (1, eps / s) after "
    "every step; pairs of a random sample of pixels that differ.",
    predicted=0.0,
)
ALL_REPAIRED = Claim(
    id="S5.window.4",
    says="Where eps is mapped and states and gradients are float32 nothing is left of the deviation under s = 2^k: the "
    "largest f(EVG) of any pair.",
    predicted=0.0,
)
REPAIRED_IN_RANGE = Claim(
    id="S5.window.5",
    says="… among the pairs whose numbers stay in float32’s range, with room.",
    predicted=0.0,
)
BOTH_ABSORBED = Claim(
    id="S4a.2",
    says="An unmapped pair is identical where eps / r and eps / (s r) lie below the border for every r of both runs: "
    "such pairs of the phase diagrams that differ.",
    predicted=0.0,
)
STORAGE = Claim(
    id="S4a.4",
    says="Fused steps with 16-bit storage take float32’s row: the event of S5.window.1, predicted with a float32 "
    "denominator; elements that are otherwise.",
    predicted=0.0,
)
EXEMPT = Claim(
    id="S4a.5",
    says="Elements without gradient and moments are exempt: eps changes none of them in a step.",
    predicted=0.0,
)
HALF_FP32 = Claim(
    id="S8.window.1",
    says="fp32, Adam, lr 0.01, 100 steps: half of the pairs differ in bits from eps / RMS g = 2^-36 … 2^-32 on (log2).",
    predicted=-34.0,
    tolerance=2.0,
)
HALF_MIXED = Claim(
    id="S8.window.2",
    says="bf16-mixed: half of the pairs differ from below 2^-32 on (log2).",
    predicted=-32.0,
    relation=Relation.AT_MOST,
)
HALF_TRUE = Claim(
    id="S8.window.3",
    says="bf16-true: half of the pairs differ from 2^-20 … 2^-16 on (log2).",
    predicted=-18.0,
    tolerance=2.0,
)
HALF_TRUE_SMALL = Claim(
    id="S8.window.4",
    says="bf16-true at lr 1e-4: half of the pairs differ from 2^-12 … 2^-10 on (log2).",
    predicted=-11.0,
    tolerance=1.0,
)
SMALLEST_ROOT = Claim(
    id="S8.window.5",
    says="fp32: the median over models of log2(r_min / RMS g) is −7.6 at step 100.",
    predicted=-7.6,
    tolerance=0.3,
)
ULP_FLOOR = Claim(
    id="S8.window.6",
    says="bf16-true at lr 0.01: one ulp at the start ends up to 0.11 of the run’s own way apart (99 % quantile of d).",
    predicted=0.11,
    tolerance=0.2,
    relative=True,
)
MOVED = Claim(
    id="S8.window.7",
    says="bf16-true at lr 1e-4: 8 % of the elements with a gradient move …",
    predicted=0.08,
    tolerance=0.02,
)
MODELS_MOVED = Claim(
    id="S8.window.8",
    says="… while 96 % of the models do, if a model counts as soon as one of its elements moves.",
    predicted=0.96,
    tolerance=0.02,
)
ULP_FIRST = Claim(
    id="S8.window.9",
    says="Chaos does not always amplify: in fp32 the one-ulp pair is 2.9e-6 apart after the first step …",
    predicted=2.9e-6,
    tolerance=0.2,
    relative=True,
)
ULP_LAST = Claim(
    id="S8.window.10",
    says="… and 1.1e-7 after 100 (median d).",
    predicted=1.1e-7,
    tolerance=0.2,
    relative=True,
)
BIAS_BELOW = Claim(
    id="S8.window.11",
    says="bf16-true at lr 0.01: S8.window.6’s floor is more than what eps does at eps / RMS g = 2^-6: that floor less "
    "the median d against s = 2^40, where nothing of eps is left.",
    predicted=0.0,
    relation=Relation.AT_LEAST,
)

STUDY = Study(
    name="window",
    title="From which loss scale on does the optimizer notice?",
    shows="per optimizer and number format from which s, and which eps / r, on anything changes, why, and the plane of "
    "s and eps as a picture",
    cost="17 min of processor time (18 s with --quick)",
    claims=(
        *(EVENT, NOT_RMS, PLANE, ALL_REPAIRED, REPAIRED_IN_RANGE),
        *(BOTH_ABSORBED, STORAGE, EXEMPT),
        *(HALF_FP32, HALF_MIXED, HALF_TRUE, HALF_TRUE_SMALL, SMALLEST_ROOT, ULP_FLOOR, MOVED, MODELS_MOVED),
        *(ULP_FIRST, ULP_LAST, BIAS_BELOW),
        *(NULL, MAPPED, EPS_FREE),
    ),
    execute=_execute,
    leads=True,
    presentation=_presentation,
)
