"""Triton's interpreter made exact, in this one place.

With ``TRITON_INTERPRET=1`` kernels run as numpy on the CPU. Out of the box that differs from a GPU in three ways that
bits can see: `tl.fma` rounds twice, float32 to bfloat16 truncates, and bfloat16 subnormals widen to wrong values. The
builder methods behind them are replaced, and only while one of our kernels runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from ..rounding import reference

ACTIVE: bool = bool(triton.knobs.runtime.interpret)
"""Whether this process interprets kernels: TRITON_INTERPRET was set when they were decorated."""


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a·b + c rounded once. float32: the sum is rounded to odd in float64, then narrowed; float64: the reference's fma.

    Raises:
        RuntimeError: for float64 where torch has no hardware fma.
        TypeError: for other dtypes.
    """
    a, b, c = np.broadcast_arrays(a, b, c)
    if c.dtype == np.float64:
        operands = (torch.from_numpy(np.ascontiguousarray(x)) for x in (a, b, c))
        return reference.fma(*operands).numpy().reshape(c.shape)
    if c.dtype != np.float32:
        raise TypeError(f"fma of {c.dtype}: rules compute in float32 or float64")
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = c.astype(np.float64)
    total = product + addend
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    bits = total.view(np.int64)
    away = (error > 0) == (total > 0)
    adjust = np.isfinite(total) & np.isfinite(error) & (error != 0) & (bits & 1 == 0)
    odd = np.where(adjust, np.where(away, bits + 1, bits - 1), bits)
    return odd.view(np.float64).astype(np.float32)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """float32 to bfloat16 patterns (uint16): nearest even, NaN stays NaN, subnormals kept."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    quiet = (bits >> 16) | np.uint32(0x40)
    return np.where(np.isnan(x), quiet, rounded).astype(np.uint16).reshape(np.shape(x))


def from_bfloat16(patterns: np.ndarray) -> np.ndarray:
    """bfloat16 patterns (uint16) to float32: exact."""
    return (np.asarray(patterns).astype(np.uint32) << 16).view(np.float32).reshape(np.shape(patterns))


def _builder() -> Any:
    from triton.runtime import interpreter

    return interpreter


def _create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
    return _builder().TensorHandle(fma(x.data, y.data, z.data), z.dtype.scalar)


def _cast(original: Any) -> Any:
    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        source, target = src.dtype.scalar, dst_type.scalar
        handle = _builder().TensorHandle
        if source == tl.float32 and target == tl.bfloat16:
            return handle(to_bfloat16(src.data), tl.bfloat16)
        if source == tl.bfloat16 and target == tl.float32:
            return handle(from_bfloat16(src.data), tl.float32)
        return original(self, src, dst_type)

    return cast_impl


def _create_fp_to_fp(original: Any) -> Any:
    def create_fp_to_fp(self: Any, src: Any, dst_type: Any, rounding_mode: Any) -> Any:
        if {src.dtype.scalar, dst_type.scalar} == {tl.float32, tl.bfloat16}:
            return self.cast_impl(src, dst_type)
        return original(self, src, dst_type, rounding_mode)

    return create_fp_to_fp


def _patch_once(original: Any) -> Any:
    """The interpreter prepares triton.language anew at every call of a nested function; once a launch is enough."""

    def patch_lang(function: Any) -> Any:
        used = [lang for lang in (tl, tl.core) if any(value is lang for value in function.__globals__.values())]
        fresh = any(tl.core.is_builtin(lang.load) for lang in used)
        return original(function) if fresh else _builder()._LangPatchScope()

    return patch_lang


def _patch_tensor(original: Any) -> Any:
    """A loop's bound is an array of one number in the interpreter, which numpy no longer takes for an integer."""

    def patch_lang_tensor(tensor: Any, scope: Any) -> Any:
        found = original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).item()))
        return found

    return patch_lang_tensor


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """While this is open the interpreter rounds as a GPU does."""
    module, builder = _builder(), _builder().InterpreterBuilder
    replaced: list[tuple[Any, str, Any]] = [
        (builder, "create_fma", _create_fma),
        (builder, "cast_impl", _cast(builder.cast_impl)),
        (builder, "create_fp_to_fp", _create_fp_to_fp(builder.create_fp_to_fp)),
    ]
    if hasattr(module, "_LangPatchScope") and hasattr(module, "_patch_lang"):
        replaced.append((module, "_patch_lang", _patch_once(module._patch_lang)))
        replaced.append((module, "_patch_lang_tensor", _patch_tensor(module._patch_lang_tensor)))
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, method in replaced:
        setattr(owner, name, method)
    try:
        # Overflow, NaN and division by zero are ordinary values for a kernel.
        with np.errstate(all="ignore"):
            yield
    finally:
        for owner, name, method in saved:
            setattr(owner, name, method)


def integers(values: tuple[int, ...]) -> tuple[Any, ...]:
    """int64 arguments: left alone the interpreter takes a number that fits for an int32."""
    handle = _builder().TensorHandle
    return tuple(tl.tensor(handle(np.array([value], np.int64), tl.int64), tl.int64) for value in values)


def launch(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, object]) -> None:
    """Run ``kernel`` over ``grid`` in the exact interpreter."""
    with exact():
        kernel[grid](*arguments, **constants)
