"""What is to be run: arms, measures, policies, grids, studies and the spec of a run. Imports no torch."""
