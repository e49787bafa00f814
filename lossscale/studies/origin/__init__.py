"""The article's two scripts, run again with torch.optim and with our optimizers, beside the controls they lack."""

from __future__ import annotations

from ...design.claims import Claim
from ...design.controls import CONTROLS
from ...design.study import Presentation, Study, StudyContext


def _execute(context: StudyContext) -> None:
    from .script import execute

    execute(context)


def _presentation(study: Study) -> Presentation:
    from .presentation import Experiments

    return Experiments(study)


EXACT = Claim(
    id="S5.origin.1",
    says="With the article’s factor replaced by 2^13, SGD with loss × s ends with the bits of learning rate × s, and "
    "Adam with eps × s with those of the plain loss.",
    predicted=1.0,
)
CANCELS = Claim(
    id="S5.origin.2",
    says="The second script’s equal weights leave no gradient, (label − out) + (label + out) = 2 · label: the model "
    "never moves.",
    predicted=0.0,
)
AS_TORCH = Claim(
    id="S5.origin.3",
    says="Our optimizers have torch.optim’s bits in these scripts (on a CPU where no root is taken: torch’s vector "
    "root is not IEEE’s there).",
    predicted=1.0,
)

STUDY = Study(
    name="origin",
    title="The article's two scripts, run again",
    shows="what the article's two scripts do, as published and with our optimizers, and the controls they lack",
    cost="6 s of processor time (5 s with --quick), 5 MB",
    predictions=CONTROLS,
    claims=(EXACT, CANCELS, AS_TORCH),
    execute=_execute,
    presentation=_presentation,
)
