"""Gradient clipping and the loss scale: the one constant that nobody can map, and what clipping hides."""

from __future__ import annotations

from ...design.claims import EPS_FREE, FLOOR, NULL, Claim, Relation
from ...design.study import Presentation, Study, StudyContext

ERROR = Claim(
    id="S5.clip.1",
    says="Clipping to s · max_norm leaves the gradient of s · L off by 1e-6 · |1 − 1/s| / N of its size, N its norm "
    "under "
    "L: torch adds a fixed 1e-6 to the norm.",
    tolerance=0.05,
    relative=True,
)
EXACT = Claim(
    id="S5.clip.5",
    says="Without the approximation of a small error: 1e-6 · |1 − 1/s| / (N + 1e-6/s).",
    tolerance=0.05,
    relative=True,
)
MAPPED_EPS = Claim(
    id="S5.clip.2",
    says="With that 1e-6 mapped too, to s · 1e-6, the clipped gradients of L and 2^k · L have the same bits, 2^k "
    "apart.",
    predicted=1.0,
)
LARGE = Claim(
    id="S2.clip.1",
    says="Where N and s · N are both at least 32 the 1e-6 vanishes in float32, and torch’s own clipping has the same "
    "bits.",
    predicted=1.0,
)
HIDDEN = Claim(
    id="S5.clip.3",
    says="With max_norm left alone and both runs clipped (N, s · N ≥ 1) the clipped gradient does not depend on s "
    "beyond "
    "2e-6 of its size.",
    predicted=2e-6,
    relation=Relation.AT_MOST,
)
TRAINED = Claim(
    id="S5.clip.4",
    says="Networks trained with clipping on at every step end with the same bits for 2^k · L where lr, eps, max_norm "
    "and "
    "clipping’s 1e-6 are mapped.",
    predicted=1.0,
)
BY_VALUE = Claim(
    id="S2.clip.2",
    says="Clipping by value has one constant, of degree 1: with s · its limit the clipped gradients of L and 2^k · L "
    "have the same bits, 2^k apart.",
    predicted=1.0,
)


def _execute(context: StudyContext) -> None:
    from .script import execute

    execute(context)


def _presentation(study: Study) -> Presentation:
    from .presentation import Clip

    return Clip(study)


STUDY = Study(
    name="clip",
    title="Clipping by norm under a scaled loss",
    shows="what torch’s clip_grad_norm_ does to a scaled loss: the error of its fixed 1e-6, and how clipping hides "
    "the scale",
    cost="10 s of processor time (5 s with --quick), 5 MB",
    claims=(ERROR, EXACT, MAPPED_EPS, LARGE, HIDDEN, TRAINED, BY_VALUE, NULL, EPS_FREE, FLOOR),
    execute=_execute,
    presentation=_presentation,
)
