"""What eps does to a step when the loss is scaled and eps is not: the closed form, and when anything of it is seen."""

from __future__ import annotations

from ...design.claims import Claim, Relation
from ...design.controls import CONTROLS
from ...design.study import Presentation, Study, StudyContext

FORM = Claim(
    id="S3.form.1",
    says="One step from p = 0 in float32: u_S / u_U = (1 + δ)/(1 + δ/s), δ = eps / r, element by element within 5e-7.",
    predicted=5e-7,
    relation=Relation.AT_MOST,
)
SATURATES = Claim(
    id="S3.limits.1",
    says="For large s the gain saturates at δ: within 5e-7 of 1 + δ at s = 1e8, for δ ≤ 1.",
    predicted=5e-7,
    relation=Relation.AT_MOST,
)
MOMENTUM = Claim(
    id="S3.limits.2",
    says="For small s the step is that of momentum SGD with lr · s / eps, up to s·r/eps.",
    relation=Relation.AT_MOST,
    tolerance=5e-7,
)
EXAMPLES = Claim(
    id="S3.examples.1",
    says="δ = .1: +9.9 % at s = 100 and −45 % at s = .1; δ = 1: +98 % and −82 %.",
    tolerance=None,
)
HALF = Claim(
    id="S5.epsilon-law.1",
    says="Where s·r = eps the step is half of the one without eps, within 1 %.",
    predicted=0.5,
    tolerance=0.005,
)
HALF_RATIO = Claim(
    id="S5.epsilon-law.2",
    says="There u_S / u_U is (1 + δ)/2.",
    predicted=5e-7,
    relation=Relation.AT_MOST,
)
NORM = Claim(
    id="S5.epsilon-law.3",
    says="The first step's norm ratio on the 6-6-1 nets follows from U's own elements: ‖u (1 + δ)/(1 + δ/s)‖ / ‖u‖.",
    predicted=5e-7,
    relation=Relation.AT_MOST,
)
ZERO_GRADIENTS = Claim(
    id="S5.epsilon-law.4",
    says="49 % of the gradients of the 6-6-1 nets are exactly 0 at step 1.",
    tolerance=None,
)
ZERO_MOMENTS = Claim(
    id="S5.epsilon-law.5",
    says="v is 0 in 19 % of their elements at step 20.",
    tolerance=None,
)
FLAT = Claim(
    id="S5.epsilon-law.6",
    says="At eps 1e-8 most curves are flat: most elements of the nets' first step change by less than 1e-6 at s = 1e8.",
    predicted=0.5,
    relation=Relation.AT_LEAST,
)
MAPPED_S = Claim(
    id="S2.rounding.1",
    says="With eps mapped, s that is no power of two leaves a float32 step within 3e-7: scaling itself rounds.",
    predicted=3e-7,
    relation=Relation.AT_MOST,
)
NEVER = Claim(
    id="S4a.never.1",
    says="eps is never seen below eps / r = 2^−(p+1): 2^−25 (float32), 2^−12 (float16), 2^−9 (bfloat16).",
    relation=Relation.AT_LEAST,
)
ALWAYS = Claim(
    id="S4a.always.1",
    says="It always is above 2^−p: 2^−24, 2^−11, 2^−8.",
    relation=Relation.AT_MOST,
)
STAIRCASE = Claim(
    id="S4a.staircase.1",
    says="In between r's place in its binade decides: seen exactly where eps > ulp(r)/2, or = with an odd last bit of "
    "r.",
    predicted=0.0,
)
FUSED = Claim(
    id="S8.fused.1",
    says="4(a) goes by the denominator's arithmetic: fused kernels take float32's row whatever they store.",
    predicted=0.0,
)
QUARTER = Claim(
    id="S4a.default.1",
    says="eps = 1e-8 in float32 is invisible for r ≥ .25 and seen below.",
    predicted=0.0,
)
SAME = Claim(
    id="S4a.identical.1",
    says="An unmapped pair has the same bits where eps / r and eps / (s·r) both lie under the first column.",
    predicted=1.0,
)
SEEN = Claim(
    id="S4a.identical.2",
    says="It has not where eps / (s·r) lies over the second.",
    predicted=0.0,
)
EXEMPT = Claim(
    id="S4a.exempt.1",
    says="Elements with m = v = 0 are exempt: where no gradient ever came both runs keep the same bits at any eps / r.",
    predicted=1.0,
)
FLIPS = Claim(
    id="S4b.flips.1",
    says="A parameter in (.5, 1) flips with probability η|u||D| / ulp(θ) per step: within 5 % where that is over 1e-3.",
    tolerance=0.05,
    relative=True,
)
EVENT = Claim(
    id="S8.flips.1",
    says="It flips exactly where fl(θ − η·u_U) ≠ fl(θ − η·u_S): every parameter, in every storage.",
    predicted=0.0,
)
LAW_ENDS = Claim(
    id="S8.flips.2",
    says="The law holds only where η|u| ≫ ulp(θ): bfloat16 parameters in (.5, 1) at lr 1e-3 flip less than a tenth as "
    "often.",
    predicted=0.1,
    relation=Relation.AT_MOST,
)
STAIRS = Claim(
    id="S8.stairs.1",
    says="Rounding after every operation makes the change a staircase too: the step is exactly that of eps_eff = fl(r "
    "+ eps) − r.",
    predicted=0.0,
)
COARSE = Claim(
    id="S8.stairs.2",
    says="5e-7 is float32's alone: in bfloat16 and float16 the closed form is off by more.",
    predicted=5e-7,
    relation=Relation.AT_LEAST,
)
MIXED = Claim(
    id="S8.rounding.1",
    says="Within 3e-7 is float32 compute's alone: bf16-mixed without eps ends 7e-4 apart at s = 3 (T = 100, 6-6-1), "
    "and with eps mapped likewise.",
    tolerance=None,
)
COPIES = Claim(
    id="S8.width.1",
    says="A network whose output is a mean over units, every unit c times over, has 1/c of the gradients: with eps / c "
    "every copy trains with the bits of the unit that it copies (c = 4, 16; Adam, 100 steps).",
    predicted=1.0,
)
COPIES_LEFT = Claim(
    id="S8.width.2",
    says="With eps left alone none does.",
    predicted=0.0,
)
SHRINK = Claim(
    id="S8.width.3",
    says="The gradients of such networks, drawn anew at every width, shrink with it: their RMS is of the power −1 of "
    "the width, from 16 to 256.",
    predicted=-1.0,
    tolerance=0.05,
)
WIDTH_MAPPED = Claim(
    id="S8.width.4",
    says="With eps × 16/width the share ρ of the update that eps decides is that of width 16 within 10 %, at steps 1 "
    "and 100.",
    predicted=1.0,
    tolerance=0.1,
)
WIDTH_LEFT = Claim(
    id="S8.width.5",
    says="With eps left alone, a quarter of the gradients' RMS at width 16, eps decides at least half of the update at "
    "width 256: Adam has become SGD by width alone.",
    predicted=0.5,
    relation=Relation.AT_LEAST,
)


def _execute(context: StudyContext) -> None:
    from .script import execute

    execute(context)


def _presentation(study: Study) -> Presentation:
    from .presentation import Law

    return Law(study)


STUDY = Study(
    name="epsilon-law",
    title="What eps makes of a scaled loss",
    shows="by how much a step changes under loss × s with eps left alone, from which eps / r on anything is seen, per "
    "dtype, and why width scales eps",
    cost="25 s of processor time (6 s with --quick)",
    predictions=CONTROLS,
    claims=(
        *(FORM, SATURATES, MOMENTUM, EXAMPLES, HALF, HALF_RATIO, NORM, ZERO_GRADIENTS, ZERO_MOMENTS, FLAT, MAPPED_S),
        *(NEVER, ALWAYS, STAIRCASE, FUSED, QUARTER, SAME, SEEN, EXEMPT, FLIPS, EVENT, LAW_ENDS, STAIRS, COARSE),
        *(MIXED, COPIES, COPIES_LEFT, SHRINK, WIDTH_MAPPED, WIDTH_LEFT),
    ),
    execute=_execute,
    presentation=_presentation,
)
