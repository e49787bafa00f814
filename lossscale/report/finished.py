"""A finished run, read for a page or a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..design.study import Presentation, Study
from ..runs.records import Manifest, read_manifest
from ..runs.summary import is_readable, read_summary, write_summary
from ..support.errors import InputError
from .neutral import presentation_of


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What a run's directory says.

    Attributes:
        path: the directory.
        manifest: what was run.
        study: of which study.
        summary: its lines.
        presentation: how the study shows it.
    """

    path: Path
    manifest: Manifest
    study: Study
    summary: pd.DataFrame
    presentation: Presentation


def read_finished(run: Path, find_study: Callable[[str], Study]) -> FinishedRun:
    """Reads the run; a summary that was lost is made again from its pairs.

    Args:
        run: the directory.
        find_study: the study of a name; KeyError when there is none.

    Raises:
        InputError: when the directory holds no finished run.
    """
    manifest = read_manifest(run)
    try:
        study = find_study(manifest.study)
        if not is_readable(run):
            if not manifest.finished or manifest.spec is None:
                raise ValueError("neither a summary nor what it is made from")
            write_summary(run, study)
        summary = read_summary(run)
    except (KeyError, OSError, ValueError) as error:
        remedy = "holds no finished run; finish it with python -m lossscale run STUDY --resume"
        raise InputError("RUN", run, remedy) from error
    return FinishedRun(path=run, manifest=manifest, study=study, summary=summary, presentation=presentation_of(study))
