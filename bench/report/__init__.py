"""The page of timing results: roofline, share of the ceiling, launches, the cost model, history, staleness."""
