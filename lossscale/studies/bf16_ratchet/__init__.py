"""What a second moment in 16 bits does: where it stalls, which way it is off, and what that makes of the step."""

from __future__ import annotations

from ...design.claims import Claim, Relation
from ...design.controls import CONTROLS
from ...design.study import Presentation, Study, StudyContext

CONSTANT = Claim(
    id="S4d.stall.1",
    says="Constant gradient 1, β₂ .999: a bfloat16 v stalls at .2500 of its goal when a step rounds it once and at "
    ".5000 when it rounds it twice.",
    tolerance=5e-5,
)
CONSTANT_STEP = Claim(
    id="S4d.stall.2",
    says="The step is then × 2.00, or × 1.414, of that of a float32 v.",
    tolerance=None,
)
CONSTANT_MEAN = Claim(
    id="S4d.stall.3",
    says="m stalls too, where (1 − β₁)(1 − m) is no more than half a spacing: at .984375, so that the step is the "
    "root's factor times .984.",
    predicted=0.984375,
)
FALLS = Claim(
    id="S4d.falls.1",
    says="Without a gradient v falls exactly where (1 − β₂) · v exceeds half the spacing below v: every mantissa.",
    predicted=0.0,
)
NEVER_FALLS = Claim(
    id="S8.stall.1",
    says="So v never falls for β₂ above 1 − 2^−(p+1): .99805 in bfloat16, .99976 in float16.",
    tolerance=5e-6,
)
STICKS = Claim(
    id="S8.stall.2",
    says="It sticks inside a binade for β₂ above 1 − 2^−8 = .99609 in bfloat16: above the next number, 1 − 2^−8/(1 + "
    "2^−7), exactly.",
    predicted=1.0 - 2.0**-8 / (1.0 + 2.0**-7),
    tolerance=5e-6,
)
STICKS_AT = Claim(
    id="S8.stall.3",
    says="At β₂ = .998 a bfloat16 v that begins at 1 sticks at .977.",
    predicted=0.977,
    tolerance=0.0005,
)
KEPT = Claim(
    id="S5.bf16-ratchet.1",
    says="After 5,000 steps without a gradient a bfloat16 v is unchanged at β₂ = .999.",
    predicted=1.0,
)
FORGOTTEN = Claim(
    id="S5.bf16-ratchet.2",
    says="At β₂ = .99 it is under 1e-20 by then.",
    predicted=1e-20,
    relation=Relation.AT_MOST,
)
FLOAT32 = Claim(
    id="S5.bf16-ratchet.3",
    says="A float32 v removes it: .999^5000 of v is left.",
    predicted=0.999**5000,
    tolerance=1e-3,
    relative=True,
)
RANDOM = Claim(
    id="S8.random.1",
    says="Random gradients, v from 0, β₂ .999: a bfloat16 v ends above float32's, the opposite of the constant "
    "gradient: 1.06, 1.58, 2.30 × at steps 1,000, 5,000, 20,000 with one rounding, 1.30, 2.11, 3.31 × with two.",
    tolerance=None,
)
RANDOM_STEP = Claim(
    id="S8.random.2",
    says="The step shrinks with its root: .973, .795, .660 × with one rounding, .877, .689, .550 × with two.",
    tolerance=None,
)
SPREAD = Claim(
    id="S8.random.3",
    says="At step 20,000 nine in ten elements lie between 2.15 and 2.45 × (one rounding), 3.05 and 3.59 × (two).",
    tolerance=None,
)
POSITION = Claim(
    id="S8.random.4",
    says="It depends on v's place in its binade: 2.53 and 3.05 × for gradients of σ = .84.",
    tolerance=None,
)
SHORT_MEMORY = Claim(
    id="S8.random.5",
    says="At β₂ .99 the step is .979 × with one rounding and .939 × with two.",
    tolerance=None,
)
SAFE = Claim(
    id="S8.random.6",
    says="At β₂ .95 the bias of v is at most .1 %.",
    predicted=0.0,
    tolerance=None,
)
HEAVY = Claim(
    id="S8.random.7",
    says="Under heavy-tailed gradients (normal × lognormal, log-sd 1) the step is × .32 at step 20,000.",
    tolerance=None,
)
DECAYING = Claim(
    id="S8.decaying.1",
    says="Gradients that fall to a tenth at step 2,000 leave a step × .099 (one rounding) or .090 (two) at step 10,000 "
    "with β₂ .999, and × 1.00 or 1.03 with β₂ .99.",
    tolerance=None,
)
RESETS = Claim(
    id="S8.resets.1",
    says="Starting the averages anew every 1,000 steps restores the step: 1,000 steps after a reset it is that of step "
    "1,000, .973 × (one rounding) or .877 × (two), and not .099 or .090 ×.",
    tolerance=0.02,
)
STALL_FORM = Claim(
    id="S8.one-step.1",
    says="From v = E g² one step leaves v unchanged where |g²/v − 1| · (1 − β₂) lies within half a spacing: the share "
    "follows from the normal distribution at every place in the binade (of 128 places none is 4.5 standard deviations "
    "off).",
    predicted=0.0,
    tolerance=4.5,
)
STALL_RANGE = Claim(
    id="S8.one-step.2",
    says="That is .914–.973 at β₂ .999, .095–.197 at .99 and .019–.038 at .95 in bfloat16, and .12–.25 in float16 at "
    ".999.",
    tolerance=None,
)
HALF_STEP = Claim(
    id="S8.float16.1",
    says="float16 at .999 is not clean: two roundings bias the step by × .98 to 1.11 at step 5,000, by v's place in "
    "its binade.",
    tolerance=None,
)
HALF_SUBNORMAL = Claim(
    id="S8.float16.2",
    says="A subnormal float16 v cannot fall below 2^−25/(1 − β₂) = 3e-5: gradients of σ = 4e-3 have a mean v of 1.87 "
    "×.",
    tolerance=None,
)
MOVES = Claim(
    id="S4e.moves.1",
    says="Parameters N(0, .02²) in bfloat16 under updates of lr · 1: the share that moves in a step is 1.00, .88, .30, "
    ".155, .019, .0096 at lr 1e-3, 1e-4, 2e-5, 1e-5, 1e-6, 6e-7.",
    tolerance=None,
)
MOVES_RULE = Claim(
    id="S4e.moves.2",
    says="A parameter moves exactly where the update exceeds half the spacing on its side.",
    predicted=0.0,
)
INERT = Claim(
    id="S8.decay.1",
    says="AdamW in bfloat16 with lr .01 and weight decay .1 changes no bit in 100 steps without a gradient.",
    predicted=0.0,
)
INERT_BORDER = Claim(
    id="S8.decay.2",
    says="Decay is inert below lr · wd = 2^−9: no mantissa moves under it, and 1 does just above.",
    predicted=2.0**-9,
    tolerance=1e-3,
    relative=True,
)
SCALAR = Claim(
    id="S8.scalar.1",
    says="A β₂ of .999 held in bfloat16 rounds to 1 (v is frozen); truncated it is .99609.",
    tolerance=5e-6,
)

BATCH = Claim(
    id="S8.batch.1",
    says="A batch cut into k parts, with β₂^(1/k) for as many samples in v, ends in the ratchet: of gradients that "
    "fall to a tenth a bfloat16 v keeps over 4 × float32's from the first k = 2^j on at which β₂^(1/k) exceeds 1 − "
    "2^−8, 16 from β₂ = .95 and 4 from .99.",
    tolerance=0.0,
)
BATCH_RESETS = Claim(
    id="S8.batch.2",
    says="Averages that start anew every 1,000 steps bring v back within a factor of 4 at those cuts too.",
    predicted=0.0,
    tolerance=2.0,
)

STEADY = (CONSTANT, CONSTANT_STEP, CONSTANT_MEAN)
LONG = (
    RANDOM,
    RANDOM_STEP,
    SPREAD,
    POSITION,
    SHORT_MEMORY,
    SAFE,
    HEAVY,
    DECAYING,
    RESETS,
    BATCH,
    BATCH_RESETS,
    *STEADY,
)
"""What a run that is cut short may not reach."""


def _execute(context: StudyContext) -> None:
    from .script import execute

    execute(context)


def _presentation(study: Study) -> Presentation:
    from .presentation import Ratchet

    return Ratchet(study)


STUDY = Study(
    name="bf16-ratchet",
    title="A second moment in 16 bits",
    shows="when a bfloat16 or float16 second moment stalls or drifts, by beta2, by how gradients change and by how "
    "far a batch is cut, and which bfloat16 parameters move at all",
    cost="58 s of processor time (7 s with --quick)",
    predictions=CONTROLS,
    claims=(
        *(*STEADY, FALLS, NEVER_FALLS, STICKS, STICKS_AT, KEPT, FORGOTTEN, FLOAT32),
        *(RANDOM, RANDOM_STEP, SPREAD, POSITION, SHORT_MEMORY, SAFE, HEAVY, DECAYING, RESETS),
        *(BATCH, BATCH_RESETS),
        *(STALL_FORM, STALL_RANGE, HALF_STEP, HALF_SUBNORMAL, MOVES, MOVES_RULE, INERT, INERT_BORDER, SCALAR),
    ),
    execute=_execute,
    presentation=_presentation,
)
