"""What executes a rule: the choice of a backend, and one bucket's step on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..algorithm import Recipe
from ..launch import step_kernel
from ..launch.buckets import Bucket
from ..launch.carried import Carried
from ..launch.tables import NUMEL, Tables, address_table, fitting_block
from ..names import check_name
from ..rounding.flags import SCALED
from . import interpreter, simd, triton
from .tensor_ops import step_tensor

BACKENDS = ("triton", "simd", "interpreter", "reference")


def resolve_backend(backend: str, device: torch.device) -> str:
    """The backend to use: ``auto`` is triton on CUDA, simd on a CPU that can, else the reference.

    Raises:
        TypeError: for what is no name.
        ValueError: if there is no such backend, or it cannot run on ``device`` in this process.
    """
    check_name("backend", backend, f"choose auto or one of {', '.join(BACKENDS)}")
    if backend == "auto":
        if device.type == "cuda" and not interpreter.ACTIVE:
            return "triton"
        return "simd" if device.type == "cpu" and not simd.unavailable() else "reference"
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r}: no such backend; choose auto or one of {', '.join(BACKENDS)}")
    if backend == "interpreter" and not interpreter.ACTIVE:
        raise ValueError(
            "backend 'interpreter': this process compiles its kernels; set TRITON_INTERPRET=1 before Python starts"
        )
    if backend == "triton" and interpreter.ACTIVE:
        raise ValueError(
            "backend 'triton': this process interprets kernels; unset TRITON_INTERPRET before Python starts"
        )
    if backend == "triton" and device.type != "cuda":
        raise ValueError(f"backend 'triton': needs CUDA tensors, these are on {device}; choose 'auto' or 'reference'")
    if backend in ("interpreter", "simd") and device.type != "cpu":
        raise ValueError(f"backend {backend!r}: needs CPU tensors, these are on {device}; choose 'triton'")
    if backend == "simd" and simd.unavailable():
        raise ValueError(f"backend 'simd': {simd.unavailable()}; or choose 'reference'")
    return backend


def available_backends() -> dict[str, str]:
    """Backend name to "" where it can be used in this process, else the reason why not."""
    reasons = {}
    for name in BACKENDS:
        device = torch.device("cuda" if name == "triton" else "cpu")
        try:
            resolve_backend(name, device)
            reasons[name] = "" if device.type == "cpu" or torch.cuda.is_available() else "no CUDA device"
        except ValueError as error:
            reasons[name] = str(error)
    return reasons


def launch_block(backend: str, host: np.ndarray) -> int:
    """Elements per program of a launch over this address table: the one policy for all callers."""
    return fitting_block(host[NUMEL]) if backend == "interpreter" else step_kernel.BLOCK


def carries(backend: str) -> bool:
    """Whether a launch of a backend takes host scalars as arguments too (`launch.carried`)."""
    return backend in ("triton", "interpreter")


def launcher(backend: str) -> Callable[..., None]:
    """What steps prepared tables on a backend that reads them: all but the reference."""
    return simd.launch_tables if backend == "simd" else triton.launch_tables


def step_bucket(
    recipe: Recipe,
    flags: int,
    bucket: Bucket,
    *,
    rows: Tensor | Carried,
    steps: Tensor,
    powers: Tensor,
    backend: str,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    tables: Tables | None = None,
) -> None:
    """One optimizer step of every tensor in the bucket, in place.

    Args:
        recipe: whose rounding.
        flags: bit mask of `kernels.rounding.flags`, the same for all tensors.
        bucket: the tensors.
        rows: float64 [rows, columns] on the bucket's device, or what goes with a launch (`carries`).
        steps: float32 [tensors], each tensor's step number after the increment.
        powers: float32 bias-correction tables of the device.
        backend: of `resolve_backend`, not "auto".
        grad_scale: a number of `one_number`; gradients are unscaled and written back.
        found_inf: likewise; nothing is changed where it is 1.
        tables: kept between steps by the caller, or None; if they are marked current they are taken as they are.
    """
    # Kernels read both as float32 on the tensors' device.
    if grad_scale is not None:
        grad_scale = grad_scale.to(bucket.device, torch.float32)
        flags |= SCALED.value
    if found_inf is not None:
        found_inf = found_inf.to(bucket.device, torch.float32)
    if backend == "reference":
        assert isinstance(rows, Tensor)
        if found_inf is not None and float(found_inf) == 1.0:
            return
        for index, row in enumerate(bucket.row_of):
            step_tensor(recipe, flags, bucket, index, rows[row], steps[index], powers, grad_scale)
        return
    tables = tables if tables is not None else Tables()
    if not tables.current:
        host = address_table(bucket.columns(), bucket.row_of)
        tables.update(host, bucket.device, launch_block(backend, host))
    launcher(backend)(
        tables,
        recipe,
        flags,
        states=bucket.states_mask,
        dtypes=bucket.dtypes,
        rows=rows,
        steps=steps,
        powers=powers,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )
