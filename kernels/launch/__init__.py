"""From tensors to a launch: checks, buckets, host scalars, tables, and the step kernel itself."""
