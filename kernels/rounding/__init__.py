"""What rules are written in: dtypes, exact operations in Triton and as tensor operations, options, power tables."""
