"""Bits of torch's own CUDA kernels: recorded, replayed, and asked about."""
