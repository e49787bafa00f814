"""``python -m lossscale inspect``: where a saved optimizer state stands."""
