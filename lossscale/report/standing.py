"""How a run stands: whether it is whole, finished, and of today's code. A page says where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..design.study import Study
from ..runs.records import Manifest, read_manifest
from ..runs.sources import SOURCES, digest
from ..runs.summary import is_readable
from .again import choices_of

STALE = "made by another version of the code"
UNFINISHED = "not finished"


def remarks(manifest: Manifest, study: Study) -> Iterator[str]:
    """What a reader must know of a run before its numbers; nothing of a whole run of today's code.

    Args:
        manifest: of the run.
        study: of which it is.
    """
    if not manifest.finished:
        yield UNFINISHED
    choices = choices_of(manifest, study)
    if choices:
        yield f"a part or variant of the study ({' '.join(choices)})"
    made = manifest.resume_key.get(SOURCES)
    if made is not None and made != digest(study.name):
        yield STALE


def as_sentence(remark: str) -> str:
    """A remark for the head of a page."""
    if remark == STALE:
        return f"This run was {STALE}: its numbers may differ from today’s."
    after = (
        "continue it with --resume" if remark == UNFINISHED else "its cells and pairs are not those of the whole one"
    )
    return f"This run is {remark}: {after}."


def is_unfinished(run: Path) -> bool:
    """Whether the directory holds a run that was begun and has nothing to show yet.

    Raises:
        InputError: if it holds no run.
    """
    return not read_manifest(run).finished and not is_readable(run)
