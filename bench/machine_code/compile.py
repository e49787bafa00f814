"""Step kernels compiled ahead of time: no GPU is needed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .variants import Variant

# 16-byte aligned, as torch allocates: the launcher specialises on these, and not on the scalars behind them.
_ALIGNED = 5
_STEP: Mapping[str, Any] = {
    "table_ptr": "*i64",
    "chunks_ptr": "*i32",
    "rows_ptr": "*fp64",
    "steps_ptr": "*fp32",
    "powers_ptr": "*fp32",
    "grad_scale_ptr": "*fp32",
    "found_inf_ptr": "*fp32",
    "tensors": "i32",
    "scalars": (),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of the compiler.

    Attributes:
        kernel: the Triton function.
        constants: its specialisation.
        options: the compiler's.
        arch: such as "sm_90".
        arguments: Triton's type of each argument that is no constant, in order.
        aligned: how many of them, from the first on, are aligned pointers.
    """

    kernel: Any
    constants: Mapping[str, Any]
    options: Mapping[str, Any]
    arch: str
    arguments: Mapping[str, Any] = field(default_factory=lambda: _STEP)
    aligned: int = _ALIGNED

    def key(self) -> str:
        """Hash of everything that the result follows from: sources, specialisation, options and compiler."""
        import triton

        constants = {name: getattr(value, "cache_key", value) for name, value in self.constants.items()}
        compiler = triton.__version__, os.environ.get("TRITON_PTXAS_PATH", ""), self.arch
        parts = self.kernel.cache_key, sorted(map(str, constants.items())), sorted(map(str, self.options.items()))
        return hashlib.sha256(repr((compiler, parts)).encode()).hexdigest()

    def run(self) -> Mapping[str, Any]:
        """Triton's results: PTX text and cubin bytes under "ptx" and "cubin"."""
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        signature = {**self.arguments, **dict.fromkeys(self.constants, "constexpr")}
        attributes = {(index,): [["tt.divisibility", 16]] for index in range(self.aligned)}
        source = ASTSource(self.kernel, signature=signature, constexprs=dict(self.constants), attrs=attributes)
        target = GPUTarget("cuda", int(self.arch.removeprefix("sm_")), 32)
        compiled: Mapping[str, Any]
        try:
            compiled = triton.compile(source, target=target, options=dict(self.options)).asm
        except PermissionError:
            # Triton writes a cache of its own; where it cannot, a folder for this one call does.
            with tempfile.TemporaryDirectory() as folder, triton.knobs.cache.scope():
                triton.knobs.cache.dir = folder
                compiled = triton.compile(source, target=target, options=dict(self.options)).asm
        return compiled


def job_of(variant: Variant, kernel: Any = None) -> Job:
    """What to compile for a variant.

    Args:
        variant: the kernel.
        kernel: one with `step_kernel`'s arguments to compile in its place.
    """
    from kernels import DTYPES, get_algorithm, step_kernel

    dtype = variant.dtypes
    constants = step_kernel.kernel_constants(
        get_algorithm(variant.algorithm).recipe(variant.recipe),
        variant.flags,
        states=variant.states,
        dtypes=(
            DTYPES[dtype.param].torch,
            DTYPES[dtype.param].torch,
            DTYPES[dtype.state].torch,
            DTYPES[dtype.copy].torch if dtype.copy else None,
        ),
        scaled=variant.scaled,
        found_inf=variant.found_inf,
        rows=variant.rows,
    )
    scalars = ("i64",) * (variant.rows * int(constants["COLUMNS"]))  # type: ignore[call-overload]
    options = step_kernel.launch_options(variant.states, scaled=variant.scaled, rows=variant.rows)
    return Job(
        kernel=kernel or step_kernel.step_kernel,
        constants=constants,
        options=options,
        arch=variant.arch,
        arguments={**_STEP, "scalars": scalars},
    )
