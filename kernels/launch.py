"""The only file that launches steps: address and chunk tables, the step kernel, grid, tuned constants, backends.

A `Bucket` holds tensors that share device, dtypes and options. Its addresses, sizes and row numbers go to the device as
one int64 table, its chunks as one int32 table, so that any number of tensors and groups is one launch. Everything that
changes during training (gradient addresses, learning rate, step, scale) is data in a table: nothing recompiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from . import interpreter
from .algorithm import Recipe
from .arithmetic import round_to
from .flags import SCALED
from .reference import Context

BACKENDS = ("triton", "interpreter", "reference")

BLOCK = 1024
"""Elements per program on a GPU: 8 per thread at 4 warps, two 16-byte accesses a tensor in float32 and one in bf16."""
NUM_WARPS = 4
INTERPRETER_BLOCK = 65536
"""The interpreter runs a program as whole numpy arrays: wide blocks cost less."""

TRITON_DTYPE = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _pointer(table, column: tl.constexpr, tensors, tensor, dtype: tl.constexpr):
    return tl.load(table + column * tensors + tensor).to(tl.pointer_type(dtype))


@triton.jit
def _update(
    p_ptr,
    g_ptr,
    s0_ptr,
    s1_ptr,
    s2_ptr,
    copy_ptr,
    offset,
    mask,
    position,
    lane_path,
    row,
    step,
    powers_ptr,
    grad_scale_ptr,
    RULE: tl.constexpr,
    FLAGS: tl.constexpr,
    UNSCALE: tl.constexpr,
    LANES: tl.constexpr,
    DEVICE_STEP: tl.constexpr,
    STATES: tl.constexpr,
    PARAM: tl.constexpr,
    GRAD: tl.constexpr,
    STATE: tl.constexpr,
    COPY: tl.constexpr,
):
    """Load one block, apply the rule, store it; ``mask`` None is the main body with 16-byte accesses."""
    p = tl.load(p_ptr + offset, mask=mask).to(tl.float32)
    g = tl.load(g_ptr + offset, mask=mask).to(tl.float32)
    s0 = p
    s1 = p
    s2 = p
    if STATES & 1:
        s0 = tl.load(s0_ptr + offset, mask=mask).to(tl.float32)
    if STATES & 2:
        s1 = tl.load(s1_ptr + offset, mask=mask).to(tl.float32)
    if STATES & 4:
        s2 = tl.load(s2_ptr + offset, mask=mask).to(tl.float32)
    if DEVICE_STEP:
        # Scalars that hang on the step are a chain of loads: all large loads are issued before anything waits for them.
        # H100, Triton 3.6, fused AdamW bf16 at 2^26: 0.974 of a copy's rate, 0.946 without.
        tl.debug_barrier()
    if UNSCALE == "divide":
        # The fused kernels go on with the unrounded quotient; only what is written back is rounded.
        g = tl.div_rn(g, tl.load(grad_scale_ptr) + tl.zeros_like(g))
        tl.store(g_ptr + offset, g.to(GRAD), mask=mask)
    if UNSCALE == "multiply":
        # GradScaler.unscale_: float32 of the double reciprocal, one product, rounded to the gradient's dtype.
        scale = tl.load(grad_scale_ptr).to(tl.float64)
        g = round_to(g * (tl.full((), 1.0, tl.float64) / scale).to(tl.float32), GRAD)
        tl.store(g_ptr + offset, g.to(GRAD), mask=mask)
    lane = 0
    if LANES:
        # Position in the four-fold unrolled loop of torch's kernels; 4-7 on the path for unaligned tensors.
        lane = tl.where(lane_path == 0, position % 4, 4 + position // 512 % 4)
    p, s0, s1, s2 = RULE(p, g, s0, s1, s2, row, step, powers_ptr, lane, FLAGS, PARAM)
    tl.store(p_ptr + offset, p.to(PARAM), mask=mask)
    if STATES & 1:
        tl.store(s0_ptr + offset, s0.to(STATE), mask=mask)
    if STATES & 2:
        tl.store(s1_ptr + offset, s1.to(STATE), mask=mask)
    if STATES & 4:
        tl.store(s2_ptr + offset, s2.to(STATE), mask=mask)
    if COPY is not None:
        tl.store(copy_ptr + offset, p.to(COPY), mask=mask)


@triton.jit(do_not_specialize=["tensors"], do_not_specialize_on_alignment=["grad_scale_ptr", "found_inf_ptr"])
def step_kernel(
    table_ptr,
    chunks_ptr,
    rows_ptr,
    steps_ptr,
    powers_ptr,
    grad_scale_ptr,
    found_inf_ptr,
    tensors,
    RULE: tl.constexpr,
    FLAGS: tl.constexpr,
    UNSCALE: tl.constexpr,
    FOUND_INF: tl.constexpr,
    LANES: tl.constexpr,
    DEVICE_STEP: tl.constexpr,
    STATES: tl.constexpr,
    PARAM: tl.constexpr,
    GRAD: tl.constexpr,
    STATE: tl.constexpr,
    COPY: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program steps one chunk of one tensor.

    table (int64, [columns, tensors]): numel, row, address of p, g, then of each state present and of the copy.
    chunks (int32, [chunks, 2]): tensor and block number. rows (float64, [rows, COLUMNS]). steps (float32, [tensors]).
    """
    run = True
    if FOUND_INF:
        run = tl.load(found_inf_ptr) != 1.0
    if run:
        chunk = tl.program_id(0).to(tl.int64)
        tensor = tl.load(chunks_ptr + 2 * chunk).to(tl.int64)
        start = tl.load(chunks_ptr + 2 * chunk + 1).to(tl.int64) * BLOCK
        numel = tl.load(table_ptr + tensor)
        row = rows_ptr + tl.load(table_ptr + tensors + tensor) * COLUMNS
        step = tl.load(steps_ptr + tensor)

        p_ptr = _pointer(table_ptr, 2, tensors, tensor, PARAM)
        g_ptr = _pointer(table_ptr, 3, tensors, tensor, GRAD)
        addresses = p_ptr.to(tl.int64) | g_ptr.to(tl.int64)
        s0_ptr = p_ptr
        s1_ptr = p_ptr
        s2_ptr = p_ptr
        copy_ptr = p_ptr
        if STATES & 1:
            s0_ptr = _pointer(table_ptr, 4, tensors, tensor, STATE)
            addresses = addresses | s0_ptr.to(tl.int64)
        if STATES & 2:
            s1_ptr = _pointer(table_ptr, 4 + (STATES & 1), tensors, tensor, STATE)
            addresses = addresses | s1_ptr.to(tl.int64)
        if STATES & 4:
            s2_ptr = _pointer(table_ptr, 4 + (STATES & 1) + (STATES & 2) // 2, tensors, tensor, STATE)
            addresses = addresses | s2_ptr.to(tl.int64)
        lane_path = 0
        if LANES:
            four_elements: tl.constexpr = 4 * (PARAM.primitive_bitwidth // 8)
            lane_path = (addresses % four_elements + numel % 4).to(tl.int32)
        if COPY is not None:
            copy_ptr = _pointer(
                table_ptr, 4 + (STATES & 1) + (STATES & 2) // 2 + (STATES & 4) // 4, tensors, tensor, COPY
            )
            addresses = addresses | copy_ptr.to(tl.int64)

        # Scalar bases advanced in 64 bits, offsets inside the block in 32.
        p_ptr += start
        g_ptr += start
        s0_ptr += start
        s1_ptr += start
        s2_ptr += start
        copy_ptr += start
        offset = tl.arange(0, BLOCK)
        position = (start % 65536).to(tl.int32) + offset
        if (start + BLOCK <= numel) & (addresses % 16 == 0):
            _update(
                tl.multiple_of(p_ptr, 16),
                tl.multiple_of(g_ptr, 16),
                tl.multiple_of(s0_ptr, 16),
                tl.multiple_of(s1_ptr, 16),
                tl.multiple_of(s2_ptr, 16),
                tl.multiple_of(copy_ptr, 16),
                offset,
                None,
                position,
                lane_path,
                row,
                step,
                powers_ptr,
                grad_scale_ptr,
                RULE,
                FLAGS,
                UNSCALE,
                LANES,
                DEVICE_STEP,
                STATES,
                PARAM,
                GRAD,
                STATE,
                COPY,
            )
        else:
            _update(
                p_ptr,
                g_ptr,
                s0_ptr,
                s1_ptr,
                s2_ptr,
                copy_ptr,
                offset,
                start + offset < numel,
                position,
                lane_path,
                row,
                step,
                powers_ptr,
                grad_scale_ptr,
                RULE,
                FLAGS,
                UNSCALE,
                LANES,
                DEVICE_STEP,
                STATES,
                PARAM,
                GRAD,
                STATE,
                COPY,
            )


@dataclass(kw_only=True)
class Bucket:
    """Tensors of one launch: same device, dtypes and options.

    Attributes:
        params, grads: dense tensors; ``grads[i]`` has the strides of ``params[i]``.
        states: up to three lists like ``params``, None where the options keep no such state.
        row_of: number of each tensor's row of host scalars.
        copies: low-precision copies of the parameters written in the same launch, or None.
    """

    params: list[Tensor]
    grads: list[Tensor]
    states: list[list[Tensor] | None]
    row_of: Sequence[int] | np.ndarray
    copies: list[Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where all of its tensors live."""
        return self.params[0].device

    @property
    def dtypes(self) -> Dtypes:
        """Dtypes of parameters, gradients, states (the parameters' if there is none) and copies."""
        kept = [state for state in self.states if state]
        param = self.params[0].dtype
        return (
            param,
            self.grads[0].dtype,
            kept[0][0].dtype if kept else param,
            self.copies[0].dtype if self.copies else None,
        )

    def columns(self) -> list[list[Tensor]]:
        """The tensor lists in the order of the address table."""
        lists = [self.params, self.grads, *(state for state in self.states if state is not None)]
        return [*lists, self.copies] if self.copies is not None else lists


def fitting_block(numels: np.ndarray) -> int:
    """The smallest block that holds the longest tensor, up to `INTERPRETER_BLOCK`."""
    return min(INTERPRETER_BLOCK, 1 << max(6, (int(numels.max(initial=1)) - 1).bit_length()))


def chunk_table(numels: np.ndarray, block: int) -> np.ndarray:
    """int32 [chunks, 2]: tensor and block number of every program; empty tensors get none."""
    counts = -(-numels // block)
    tensor = np.repeat(np.arange(numels.size, dtype=np.int64), counts)
    first = np.cumsum(counts) - counts
    return np.stack([tensor, np.arange(tensor.size) - first[tensor]], axis=1).astype(np.int32)


@dataclass(kw_only=True)
class Mirror:
    """A numpy array of 8-byte numbers kept on the device, sent again only where it changed and never by a wait.

    Under CUDA graph capture the copy is recorded, and every replay reads its host buffer again: that buffer is kept and
    never rewritten. The device tensor itself stays in place, so a graph sees what is sent later.
    """

    device: Tensor | None = None
    host: np.ndarray | None = None
    _spare: Tensor | None = None
    _captured: list[Tensor] = field(default_factory=list)

    def send(self, array: np.ndarray, device: torch.device) -> Tensor:
        """Bring the device's copy up to ``array`` and return it."""
        host, kept = self.host, self.device
        if host is None or kept is None or host.shape != array.shape or kept.device != device:
            kept = self.device = torch.from_numpy(array.copy()).to(device)
            self._reserve()
        elif host.tobytes() != array.tobytes():
            # The rows between the first and the last whose bits changed: one copy.
            different = host.view(np.int64) != array.view(np.int64)
            changed = np.flatnonzero(different.reshape(len(array), -1).any(axis=1))
            first, last = int(changed[0]), int(changed[-1]) + 1
            self._copy(kept[first:last], array[first:last])
        self.host = array.copy()
        return kept

    def _copy(self, target: Tensor, array: np.ndarray) -> None:
        source = torch.from_numpy(np.ascontiguousarray(array))
        if target.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            pinned = self._take_spare()[: source.numel()].view(source.shape)
            pinned.copy_(source)
            self._captured.append(pinned)
            source = pinned
        # From pageable memory the driver takes its own copy before this returns: no wait, nothing to keep alive.
        target.copy_(source, non_blocking=True)
        self._reserve()

    def _reserve(self) -> None:
        """Pinned memory for one copy under capture, where none may be allocated."""
        assert self.device is not None
        if self._spare is None and self.device.device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
            self._spare = torch.empty(self.device.numel(), dtype=self.device.dtype, pin_memory=True)

    def _take_spare(self) -> Tensor:
        if self._spare is None:
            raise RuntimeError("CUDA graph capture: take an ordinary step of this optimizer between two captures")
        spare, self._spare = self._spare, None
        return spare


@dataclass(kw_only=True)
class Tables:
    """Address and chunk tables of a bucket, kept between steps."""

    addresses: Mirror = field(default_factory=Mirror)
    chunks: Tensor | None = None
    block: int = 0
    pointers: list[int] = field(default_factory=list)
    row_of: Any = None

    def update(self, host: np.ndarray, device: torch.device, block: int) -> None:
        """Bring the device's tables up to ``host`` (int64 [columns, tensors]: numel, row, addresses)."""
        known = self.addresses.host
        if (
            self.chunks is None
            or self.chunks.device != device
            or self.block != block
            or known is None
            or (known.shape[1] != host.shape[1] or not np.array_equal(known[0], host[0]))
        ):
            self.chunks = torch.from_numpy(chunk_table(host[0], block)).to(device)
        self.addresses.send(host, device)
        self.block = block


def resolve_backend(backend: str, device: torch.device) -> str:
    """The backend to use: ``auto`` is triton on CUDA, the interpreter where it was asked for, else the reference.

    Raises:
        ValueError: if there is no such backend, or it cannot run on ``device`` in this process.
    """
    if backend == "auto":
        return "triton" if device.type == "cuda" and not interpreter.ACTIVE else "reference"
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
        raise ValueError(f"backend 'triton': needs CUDA tensors, these are on {device}; choose 'reference'")
    if backend == "interpreter" and device.type != "cpu":
        raise ValueError(f"backend 'interpreter': needs CPU tensors, these are on {device}; choose 'triton'")
    return backend


Dtypes = tuple[torch.dtype, torch.dtype, torch.dtype, torch.dtype | None]
"""Of parameters, gradients, states, and the low-precision copy if there is one."""


def kernel_constants(
    recipe: Recipe,
    flags: int,
    *,
    states: int,
    dtypes: Dtypes,
    scaled: bool = False,
    found_inf: bool = False,
    block: int = BLOCK,
) -> dict[str, object]:
    """The compile-time arguments of `step_kernel`, in its order; ``states`` has bit k set where state k is kept."""
    param, grad, state, copy = dtypes
    return {
        "RULE": recipe.rule,
        "FLAGS": flags,
        "UNSCALE": recipe.unscale if scaled else "",
        "FOUND_INF": found_inf,
        "LANES": recipe.lanes,
        "DEVICE_STEP": recipe.device_step,
        "STATES": states,
        "PARAM": TRITON_DTYPE[param],
        "GRAD": TRITON_DTYPE[grad],
        "STATE": TRITON_DTYPE[state],
        "COPY": TRITON_DTYPE[copy] if copy is not None else None,
        "COLUMNS": len(recipe.columns),
        "BLOCK": block,
    }


LAUNCH_OPTIONS = {"num_warps": NUM_WARPS, "enable_fp_fusion": False}
"""Compiler options of `step_kernel`. Without fp fusion ``a * b + c`` stays two roundings."""

_COMPILED: dict[tuple[Any, ...], Any] = {}
"""Compiled step kernels by everything that decides their code: a launch from here skips Triton's own dispatch."""


def launch_tables(
    tables: Tables,
    recipe: Recipe,
    flags: int,
    *,
    states: int,
    dtypes: Dtypes,
    rows: Tensor,
    steps: Tensor,
    powers: Tensor,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """Launch the step kernel over prepared tables; nothing happens when every tensor is empty.

    Bit k of ``states`` is set where state k is kept; the other arguments are `step_bucket`'s.
    """
    addresses, chunks = tables.addresses.device, tables.chunks
    if addresses is None or chunks is None or not len(chunks):
        return
    grid = (len(chunks), 1, 1)
    nothing = powers
    arguments = (
        addresses,
        chunks,
        rows,
        steps,
        powers,
        grad_scale if grad_scale is not None else nothing,
        found_inf if found_inf is not None else nothing,
        addresses.shape[1],
    )
    scaled, skippable = grad_scale is not None, found_inf is not None
    key = (id(recipe), flags, states, dtypes, scaled, skippable, tables.block, NUM_WARPS, addresses.device.index)
    compiled, values = _COMPILED.get(key, (None, ()))[:2]
    if compiled is not None and torch.cuda.current_device() == addresses.device.index:
        compiled[grid](*arguments, *values)
        return
    constants = kernel_constants(
        recipe, flags, states=states, dtypes=dtypes, scaled=scaled, found_inf=skippable, block=tables.block
    )
    if interpreter.ACTIVE:
        interpreter.launch(step_kernel, grid, arguments, constants)
        return
    with torch.cuda.device(addresses.device):
        compiled = step_kernel[grid](*arguments, **constants, **LAUNCH_OPTIONS)
    # The recipe is kept with its entry, so that no other object takes over its id.
    _COMPILED[key] = (compiled, tuple(constants.values()), recipe)


def _device_scalar(value: Tensor | None, device: torch.device) -> Tensor | None:
    """A scale or overflow flag as the kernel reads it: float32 on the tensors' device."""
    return value if value is None else value.to(device, torch.float32)


def step_bucket(
    recipe: Recipe,
    flags: int,
    bucket: Bucket,
    *,
    rows: Tensor,
    steps: Tensor,
    powers: Tensor,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    backend: str = "auto",
    tables: Tables | None = None,
) -> None:
    """One optimizer step of every tensor in the bucket, in place.

    Args:
        recipe: whose rounding.
        flags: bit mask of `kernels.flags`, the same for all tensors.
        bucket: the tensors.
        rows: float64 [rows, columns] on the bucket's device.
        steps: float32 [tensors], each tensor's step number after the increment.
        powers: float32 bias-correction tables of the device.
        grad_scale: float32 scalar tensor; gradients are unscaled and written back.
        found_inf: float32 scalar tensor; nothing is changed where it is 1.
        backend: see `resolve_backend`.
        tables: kept between steps by the caller, or None.
    """
    backend = resolve_backend(backend, bucket.device)
    grad_scale, found_inf = (_device_scalar(value, bucket.device) for value in (grad_scale, found_inf))
    if grad_scale is not None:
        flags |= SCALED.value
    if backend == "reference":
        if found_inf is not None and float(found_inf) == 1.0:
            return
        for index, row in enumerate(bucket.row_of):
            _reference_tensor(recipe, flags, bucket, index, rows[row], steps[index], powers, grad_scale)
        return
    tables = tables if tables is not None else Tables()
    columns = bucket.columns()
    numels = list(map(Tensor.numel, bucket.params))
    pointers = [*numels, *chain.from_iterable(map(Tensor.data_ptr, tensors) for tensors in columns)]
    # Nothing to send in the common case: the same tensors in the same place, and rows under the same numbers.
    if tables.pointers != pointers or tables.row_of is not bucket.row_of:
        host = np.empty((2 + len(columns), len(bucket.params)), np.int64)
        host[1] = bucket.row_of
        host[[0, *range(2, len(host))]] = np.array(pointers, np.int64).reshape(1 + len(columns), -1)
        tables.update(host, bucket.device, fitting_block(host[0]) if backend == "interpreter" else BLOCK)
        tables.pointers, tables.row_of = pointers, bucket.row_of
    launch_tables(
        tables,
        recipe,
        flags,
        states=sum(1 << k for k, kept in enumerate(bucket.states) if kept is not None),
        dtypes=bucket.dtypes,
        rows=rows,
        steps=steps,
        powers=powers,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )


def flatten(tensor: Tensor) -> Tensor:
    """A dense tensor's elements in memory order, as a view."""
    return tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())


def lanes(tensors: list[Tensor], element: Tensor) -> Tensor:
    """The lane of each of the first tensor's elements: `step_kernel`'s, from the same addresses."""
    size = tensors[0].element_size()
    aligned = tensors[0].numel() % 4 == 0 and all(t.data_ptr() % (4 * size) == 0 for t in tensors)
    return element % 4 if aligned else 4 + element % 65536 // 512 % 4


_PIECE = 65536


def _reference_tensor(
    recipe: Recipe,
    flags: int,
    bucket: Bucket,
    index: int,
    row: Tensor,
    step: Tensor,
    powers: Tensor,
    grad_scale: Tensor | None,
) -> None:
    """Step one tensor in pieces that stay in cache."""
    dtype = bucket.params[index].dtype
    p, g = flatten(bucket.params[index]), flatten(bucket.grads[index])
    states = [None if state is None else flatten(state[index]) for state in bucket.states]
    copy = None if bucket.copies is None else flatten(bucket.copies[index])
    aligned_by = [p, g, *(state for state in states if state is not None)]
    for begin in range(0, p.numel(), _PIECE):
        piece = slice(begin, begin + _PIECE)
        lane = torch.zeros((), dtype=torch.int64, device=p.device)
        if recipe.lanes:
            lane = lanes(aligned_by, torch.arange(begin, min(begin + _PIECE, p.numel()), device=p.device))
        context = Context(row=row, step=step, powers=powers, lane=lane, flags=flags, dtype=dtype)
        parts = [None if state is None else state[piece] for state in states]
        reference_update(recipe, context, p[piece], g[piece], parts, grad_scale, None if copy is None else copy[piece])


def reference_update(
    recipe: Recipe,
    context: Context,
    p: Tensor,
    g: Tensor,
    states: list[Tensor | None],
    grad_scale: Tensor | None = None,
    copy: Tensor | None = None,
) -> None:
    """`_update` in tensor operations: load, unscale, apply the reference rule, store; in place."""
    p32, g32 = p.float(), g.float()
    if grad_scale is not None:
        if recipe.unscale == "divide":
            g32 = g32 / grad_scale
        else:
            g32 = (g32 * grad_scale.double().reciprocal().float()).to(g.dtype).float()
        g.copy_(g32)
    loaded = [p32 if state is None else state.float() for state in states]
    new_p, *new_states = recipe.reference(p32, g32, *loaded, context)
    p.copy_(new_p)
    for state, value in zip(states, new_states, strict=True):
        if state is not None:
            state.copy_(value)
    if copy is not None:
        copy.copy_(new_p)
