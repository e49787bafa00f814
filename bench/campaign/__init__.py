"""Everything that needs a GPU, in order of importance, inside a time limit."""
