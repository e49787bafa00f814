"""The article's two scripts, run again with torch.optim and with our optimizers, beside the controls they lack."""

from __future__ import annotations

from ...design.study import Presentation, Study, StudyContext


def _execute(context: StudyContext) -> None:
    from .script import execute

    execute(context)


def _presentation(study: Study) -> Presentation:
    from .presentation import Experiments

    return Experiments(study)


STUDY = Study(
    name="origin",
    title="The article's two scripts, run again",
    shows="what the article's two scripts do, as published and with our optimizers, and the controls they lack",
    cost="two seconds",
    execute=_execute,
    presentation=_presentation,
)
