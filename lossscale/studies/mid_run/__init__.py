"""What changing the loss scale in mid-run does to Adam, until its moments have forgotten the old one."""

from __future__ import annotations

from ...design.claims import EPS_FREE, FLOOR, NULL, Claim
from ...design.study import Presentation, Study, StudyContext

PEAK = Claim(
    id="S5.mid-run.1",
    says="After the gradient of a warm Adam has grown c-fold, its step grows to a peak before it returns to 1: 6.57 × "
    "at β₂ = .999 and c → ∞, 4.77 × at c = 8, 5.20 × at c = 10; at β₂ = .95 1.097 × and 1.11 ×.",
    tolerance=None,
)
PEAK_STEP = Claim(
    id="S5.mid-run.2",
    says="That peak comes at step 12 (c → ∞), 19 (c = 8) and 17 (c = 10) at β₂ = .999.",
    tolerance=0.0,
)
LOW = Claim(
    id="S5.mid-run.3",
    says="After the gradient has shrunk 8-fold the step falls to .13 of what it was (β₂ = .999).",
    predicted=0.13,
    tolerance=0.005,
)
HALVED = Claim(
    id="S5.mid-run.4",
    says="It stays under half from step 9 to 3042 (÷ 8), 8 to 3494 (÷ 10); at β₂ = .95 from 12 to 67 (÷ 10).",
    tolerance=0.0,
)
FORM = Claim(
    id="S5.mid-run.5",
    says="At every step of the response u = (c − (c − 1) β₁ᵗ) / √(c² − (c² − 1) β₂ᵗ), up to what two roundings a step "
    "leave in a float32 average: 2⁻²⁴ · (1/(1 − β₂) + 2/(1 − β₁) + 4).",
    predicted=0.0,
    tolerance=None,
)
CARRIED = Claim(
    id="S5.mid-run.6",
    says="With the moments mapped too, m × s and v × s², and eps × s, a change of 2^k in mid-run changes no bit of "
    "what follows.",
    predicted=1.0,
)
FELT = Claim(
    id="S5.mid-run.7",
    says="With eps mapped but the moments left, the same change changes every network.",
    predicted=0.0,
)
BALANCED = Claim(
    id="S6.balanced.1",
    says="To first order in c − 1 the step is off by (c − 1)(β₂ᵗ − β₁ᵗ), which is 0 at every step if and only if β₁ = "
    "β₂: by up to .0095 at c = 1.01 and β₂ = .999, by .0026 at .95, and by 1.2e-5, of second order, at β₂ = β₁ = .9.",
    tolerance=None,
)


def _execute(context: StudyContext) -> None:
    from .script import execute

    execute(context)


def _presentation(study: Study) -> Presentation:
    from .presentation import MidRun

    return MidRun(study)


STUDY = Study(
    name="mid-run",
    title="The loss scale changes in mid-run",
    shows="how Adam's step reacts when the loss is rescaled during training, for how long, and what carries it over "
    "without a trace",
    cost="8 s of processor time (6 s with --quick), 6 MB",
    claims=(PEAK, PEAK_STEP, LOW, HALVED, FORM, BALANCED, CARRIED, FELT, NULL, EPS_FREE, FLOOR),
    execute=_execute,
    presentation=_presentation,
)
