"""What executes a rule: Triton on a GPU, a CPU's vector units, Triton's interpreter, tensor operations; same bits."""

from .dispatch import BACKENDS, available_backends, resolve_backend, step_bucket

__all__ = ["BACKENDS", "available_backends", "resolve_backend", "step_bucket"]
