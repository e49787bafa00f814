"""The lines of a summary, of every study: their columns, and the words for what became of a prediction."""

from typing import Final

HOLDS: Final = "holds"
FAILS: Final = "fails"
UNRESOLVED: Final = "unresolved"
"""The measurement's interval reaches to both sides of the tolerance."""
NOT_JUDGED: Final = "not judged"
"""There is a prediction, and a reason why this line cannot judge it."""
NO_PREDICTION: Final = "no prediction"

VERDICTS: Final = (HOLDS, FAILS, UNRESOLVED, NOT_JUDGED, NO_PREDICTION)

SERIES: Final = ("network", "optimizer", "options", "recipe", "policy")
"""What all pairs of one series of cohorts share."""

CELL: Final = (*SERIES, "arm", "against", "scale", "step")
"""What the pairs of one cell share at one checkpoint."""

COLUMNS: Final = (
    "study",
    *CELL,
    *("pairs", "nonfinite_pairs", "nonfinite_values"),
    *("quantity", "predicted", "measured", "lo", "hi", "tolerance", "verdict", "prediction", "reason"),
)
"""The columns of summary.csv.

``nonfinite_values`` counts finite pairs that were left out because this quantity of theirs is infinite or NaN;
``prediction`` is the id of what is judged, ``reason`` why it was not, else empty.
"""
