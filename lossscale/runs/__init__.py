"""A run on disk: planned, run, resumed, summarized and read again."""
