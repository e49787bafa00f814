"""From measurements to rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kernels import DTYPES

from ..store.schema import StepRow
from . import gate, roofline
from .clock import Clock
from .stopping import Rounds, relative_error
from .workloads import StepWorkload

if TYPE_CHECKING:
    from .timed import Timed


def quantiles(samples: Sequence[int]) -> dict[str, float] | None:
    """Median and the 10th and 90th percentile."""
    if not samples:
        return None
    low, middle, high = np.quantile(np.asarray(samples, dtype=float), (0.1, 0.5, 0.9))
    return {"median": float(middle), "q10": float(low), "q90": float(high)}


def median(samples: Sequence[int]) -> float | None:
    """The median, where there is one."""
    return float(np.median(samples)) if samples else None


def bytes_moved(workload: StepWorkload) -> int:
    """The fewest bytes that a step over the workload can move."""
    each = roofline.bytes_per_element(workload.optimizer, workload.options, workload.dtype)
    return workload.tensors.elements * each


def bytes_of(one: Timed, workload: StepWorkload) -> int | None:
    """The fewest bytes that a provider's step can move; of somebody's own class by the tensors that it keeps.

    Parameters are read and written, gradients read, states read and written. None where a class shows no tensors
    though the optimizer that it stands for keeps some.
    """
    if one.provider.traits.known:
        return bytes_moved(workload)
    if one.state_bytes is None and roofline.state_names(workload.optimizer, workload.options):
        return None
    return workload.tensors.elements * 3 * DTYPES[workload.dtype].bytes + 2 * (one.state_bytes or 0)


def row_of(one: Timed, workload: StepWorkload, clock: Clock, rounds: Rounds, ceiling: float) -> StepRow:
    """The row of a provider: with its times, or with the reason why it has none; `ceiling` is a copy's GB/s."""
    error = one.error
    if not error and one.differing:
        error = gate.reason(one.differing, workload.tensors.elements, one.checked)
    bare = StepRow(
        provider=one.provider.name,
        optimizer=workload.optimizer,
        options=dict(workload.options),
        dtype=workload.dtype,
        workload=workload.tensors.name,
        device=clock.device.type,
        tensors=len(workload.tensors.shapes),
        elements=workload.tensors.elements,
        bytes_moved=None if error else bytes_of(one, workload),
        differing_elements=one.differing,
        state_bytes=one.state_bytes,
        peak_bytes=one.peak_bytes,
        rounds=rounds.count,
        stopped_by=rounds.stopped_by,
        error=error,
    )
    return bare if error else _timed(bare, one, ceiling)


def _timed(row: StepRow, one: Timed, copy: float) -> StepRow:
    kernel, step = quantiles(one.kernel_ns), quantiles(one.step_ns)
    kernel_ns = kernel["median"] if kernel else one.profiled_ns
    step_ns = step["median"] if step else None
    busy_ns = step_ns if row.device == "cpu" else kernel_ns
    gb_per_s = row.bytes_moved / busy_ns if busy_ns and row.bytes_moved else None
    return replace(
        row,
        kernel_time_ns=kernel_ns,
        kernel_time_from="events" if kernel else "profiler" if one.profiled_ns else None,
        kernel_time_quantiles=kernel,
        step_time_ns=step_ns,
        step_time_quantiles=step,
        queued_time_ns=median(one.queued_ns),
        host_time_ns=median(one.host_ns),
        gb_per_s=gb_per_s,
        copy_gb_per_s=copy,
        share_of_copy=gb_per_s / copy if gb_per_s else None,
        kernel_relative_error=relative_error(one.kernel_ns),
        step_relative_error=relative_error(one.step_ns),
        throttled=one.throttled,
        throttled_by=sorted(one.throttled_by),
        throttled_ns=one.aside,
        warm_up_s=one.warm_up_s,
        samples_kernel_ns=one.kernel_ns,
        samples_step_ns=one.step_ns,
        samples_queued_ns=one.queued_ns,
    )
