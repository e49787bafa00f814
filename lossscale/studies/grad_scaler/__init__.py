"""Dynamic loss scales: how often they skip a step, whom a skip concerns, and what they do to the bits."""

from __future__ import annotations

from ...design.claims import EPS_FREE, FLOOR, MAPPED, NULL, Claim, Relation
from ...design.study import Presentation, Study, StudyContext

TORCH_RATE = Claim(
    id="S5.grad-scaler.1",
    says="On a gradient maximum that wanders slowly torch.amp’s scale (× 2 every 2,000 steps) skips 4.9e-4 of the "
    "steps.",
    predicted=4.9e-4,
    tolerance=0.05,
    relative=True,
)
DEEPSPEED_RATE = Claim(
    id="S5.grad-scaler.2",
    says="On the same maximum a window of 1,000 steps with hysteresis 2 (DeepSpeed’s) skips 1.7e-3.",
    predicted=1.7e-3,
    tolerance=0.05,
    relative=True,
)
STILL = Claim(
    id="S5.grad-scaler.3",
    says="On a maximum that stays the same the rates are 1 in 2,001 and 2 in 1,002: one step that overflows after "
    "every "
    "growth, and with hysteresis two.",
    tolerance=0.01,
    relative=True,
)
ALONE = Claim(
    id="S5.grad-scaler.4",
    says="Models with a scale of their own skip only their own steps: a model has the same bits beside neighbours that "
    "overflow as beside copies of itself.",
    predicted=1.0,
)
EXACT = Claim(
    id="S5.grad-scaler.5",
    says="A scale that starts at, grows and shrinks by powers of two changes no bit of float32 training "
    "in which nothing overflows.",
    predicted=1.0,
)
BACKED_OFF = Claim(
    id="S2.grad-scaler.1",
    says="A scale that begins too high and backs off by powers of two leaves the bits of training that skips the same "
    "steps and has no scale.",
    predicted=1.0,
)
OTHER_FACTORS = Claim(
    id="S2.grad-scaler.2",
    says="Only by powers of two: with a first scale of 3 · 2^6, a growth of 3 or a backoff of 1/3 at most half of the "
    "networks keep those bits.",
    predicted=0.5,
    relation=Relation.AT_MOST,
)


def _execute(context: StudyContext) -> None:
    from .script import execute

    execute(context)


def _presentation(study: Study) -> Presentation:
    from .presentation import GradScaler

    return GradScaler(study)


STUDY = Study(
    name="grad-scaler",
    title="Dynamic loss scales",
    shows="how many steps torch’s and DeepSpeed’s dynamic loss scales skip, that per-model scales skip alone, and that "
    "they change no bit of float32 training if their factors are powers of two",
    cost="26 s of processor time (11 s with --quick)",
    claims=(
        *(TORCH_RATE, DEEPSPEED_RATE, STILL, ALONE, EXACT, BACKED_OFF, OTHER_FACTORS),
        *(NULL, MAPPED, EPS_FREE, FLOOR),
    ),
    execute=_execute,
    presentation=_presentation,
)
