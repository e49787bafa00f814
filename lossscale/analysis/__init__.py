"""From pairs to the lines of a summary: statistics, their intervals, and the verdicts on predictions."""
