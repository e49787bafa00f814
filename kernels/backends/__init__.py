"""What executes a rule: Triton on a GPU, Triton's interpreter made exact, or tensor operations: the same bits."""

from .dispatch import BACKENDS, available_backends, resolve_backend, step_bucket

__all__ = ["BACKENDS", "available_backends", "resolve_backend", "step_bucket"]
