"""Results on disk: their schema, what makes them fresh, and which may be compared."""
