"""summary.csv: made from a run's pairs, written, and read again. Every study's summary has this form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import pandas as pd

from ..design.study import Study
from ..design.verdicts import COLUMNS, FAILS, VERDICTS
from ..support.files import write_text

_TEXT: Final = (
    *("study", "network", "optimizer", "options", "recipe", "policy", "arm", "against", "quantity", "verdict"),
    *("prediction", "reason"),
)
_NUMBERS: Final = ("predicted", "measured", "lo", "hi", "tolerance")


def write_summary(run: Path, study: Study) -> None:
    """Read the run's pairs and write its summary.csv, whole.

    Raises:
        InputError: for a damaged shard or an unwritable folder.
    """
    from ..analysis.summarize import summarize
    from .records import iter_parts

    summary = summarize(iter_parts(run), study.name, study.predictions)
    if study.further is not None:
        summary = pd.concat([summary, study.further(study, run)], ignore_index=True)
    write_lines(run, summary)


def write_lines(run: Path, summary: pd.DataFrame) -> None:
    """Write these lines, columns `COLUMNS`, as the run's summary.csv, whole.

    Raises:
        InputError: for an unwritable folder.
    """
    write_text(run / "summary.csv", summary_text(summary))


def summary_text(summary: pd.DataFrame) -> str:
    """The summary as CSV: measurements with nine significant digits, scales in full, NaN empty."""
    printed = summary[list(COLUMNS)].assign(**{name: summary[name].map(_digits) for name in _NUMBERS})
    return printed.to_csv(index=False, lineterminator="\n")


def read_summary(run: Path) -> pd.DataFrame:
    """The run's summary.csv; options and other texts that are empty stay empty strings.

    Raises:
        FileNotFoundError: when the run has none yet.
    """
    return pd.read_csv(
        run / "summary.csv",
        dtype=dict.fromkeys(_TEXT, str),
        keep_default_na=False,
        na_values=dict.fromkeys(_NUMBERS, ""),
    )


def is_readable(run: Path) -> bool:
    """Whether the run's summary.csv is there, with the columns and verdicts that a summary has."""
    try:
        summary = read_summary(run)
    except (OSError, ValueError):
        return False
    return (
        tuple(summary.columns) == COLUMNS
        and all(summary[name].dtype.kind in "if" for name in (*_NUMBERS, "scale", "step", "pairs"))
        and bool(summary["verdict"].isin(VERDICTS).all())
    )


def failed_predictions(run: Path) -> list[str]:
    """The predictions of which a line of the run's summary has the verdict ``fails``, in its order."""
    summary = read_summary(run)
    return list(dict.fromkeys(summary[summary["verdict"] == FAILS]["prediction"]))


def _digits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.9g}"
