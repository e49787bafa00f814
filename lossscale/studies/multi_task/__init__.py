"""Weights of several losses under Adam: what of them the optimizer cancels, and what it cannot."""

from __future__ import annotations

from ...design.claims import EPS_FREE, FLOOR, NULL, Claim, Relation
from ...design.study import Presentation, Study, StudyContext

OWN = Claim(
    id="S5.multi-task.1",
    says="On a frozen trunk each head has the same bits for any weight 2^k of its own loss, with eps × 2^k.",
    predicted=1.0,
)
COMMON = Claim(
    id="S5.multi-task.2",
    says="On a shared trunk a common factor 2^k of both weights changes no bit, with eps × 2^k.",
    predicted=1.0,
)
UNEVEN = Claim(
    id="S5.multi-task.3",
    says="Weights that differ are not removable: (1, 4) agrees with (1, 1) at no eps.",
    predicted=0.0,
)
WORKS = Claim(
    id="S1.multi-task.1",
    says="So loss weights work under Adam: (1, 4) ends at least a tenth of the way that training went from (1, 1).",
    predicted=0.1,
    relation=Relation.AT_LEAST,
)
CANCELS = Claim(
    id="S5.multi-task.4",
    says="The article’s second script compares with a network that cannot train: with one output (label − out) + "
    "(label + "
    "out) has no gradient.",
    predicted=0.0,
)


def _execute(context: StudyContext) -> None:
    from .script import execute

    execute(context)


def _presentation(study: Study) -> Presentation:
    from .presentation import MultiTask

    return MultiTask(study)


STUDY = Study(
    name="multi-task",
    title="Weights of several losses",
    shows="which part of the weights of two losses Adam cancels (a common factor, a head’s own) and which it cannot",
    cost="8 s of processor time (5 s with --quick), 5 MB",
    claims=(OWN, COMMON, UNEVEN, WORKS, CANCELS, NULL, EPS_FREE, FLOOR),
    execute=_execute,
    presentation=_presentation,
)
