"""The page of runs, and what studies need to show themselves on it."""
