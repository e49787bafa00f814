"""The lines of a summary, of every study: their columns, and the words for what became of a prediction."""

from typing import Final

HOLDS: Final = "holds"
FAILS: Final = "fails"
NO_PREDICTION: Final = "no prediction"

SERIES: Final = ("network", "optimizer", "options", "recipe", "policy")
"""What all pairs of one series of cohorts share."""

CELL: Final = (*SERIES, "arm", "against", "scale", "step")
"""What the pairs of one cell share at one checkpoint."""

COLUMNS: Final = (
    "study",
    *CELL,
    *("pairs", "nonfinite_pairs", "quantity", "predicted", "measured", "lo", "hi", "tolerance", "verdict"),
)
"""The columns of summary.csv."""
