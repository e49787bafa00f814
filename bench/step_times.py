"""`python -m bench time step`: timings of optimizer steps on a GPU, host cost on a CPU."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import Any

import torch

from lossscale.support import files

from . import host_cost, results, timing
from .providers import Ours, Provider, TorchOptim
from .workloads import StepWorkload, cpu_steps, cuda_steps

COLUMNS = (
    "optimizer",
    "dtype",
    "tensors",
    "elements",
    "provider",
    "kernel_time_ns",
    "step_time_ns",
    "host_time_ns",
    "table_upkeep_ns",
    "table_upkeep_moved_ns",
    "gb_per_s",
    "share_of_copy",
    "differing_elements",
)
_CPU_ROUNDS = 7


def run(path: Path, deadline: float, *, dry_run: bool = False) -> dict[str, Any]:
    """Time the GPU workloads until `deadline` (`time.monotonic`), rewriting `path` after each.

    With `dry_run` the same walk on the CPU at toy size, host clock only.
    """
    device = "cpu" if dry_run else "cuda"
    document: dict[str, Any] = {**_header(device), "clocks": [], "rows": [], "not_run": []}
    workloads = list(cuda_steps(toy=dry_run))
    clock = None if dry_run else timing.Clock()
    if clock is not None:
        document["copy_gb_per_s"] = {str(size): clock.copy_gb_per_s(size) for size in (1 << 26, 1 << 30, 1 << 32)}
    for position, workload in enumerate(workloads):
        left = deadline - time.monotonic()
        if left < 2 and not dry_run:
            document["not_run"] = [_label(w) for w in workloads[position:]]
            break
        budget_s = max(0.3, min(2.5, 0.5 * left / (len(workloads) - position)))
        try:
            document["rows"] += time_cpu(workload) if clock is None else timing.time_workload(workload, clock, budget_s)
        except Exception:
            document["rows"].append({**_label(workload), "error": traceback.format_exc()[-1500:]})
        if not dry_run:
            document["clocks"].append({**_label(workload), **_clocks()})
        files.write_json(path, document)
    files.write_json(path, document)
    return document


def _header(device: str) -> dict[str, Any]:
    try:
        return results.header(device)
    except Exception:
        return {"header_error": traceback.format_exc()[-800:]}


def _label(workload: StepWorkload) -> dict[str, Any]:
    return {
        "optimizer": workload.optimizer,
        "dtype": workload.dtype,
        "tensors": workload.tensors,
        "elements": workload.elements,
    }


def _clocks() -> dict[str, Any]:
    """Clocks, temperature and power of the device now; empty without nvidia-ml-py."""
    try:
        import pynvml

        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetHandleByIndex(0)
        return {
            "sm_mhz": pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM),
            "memory_mhz": pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_MEM),
            "temperature_c": pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU),
            "power_w": pynvml.nvmlDeviceGetPowerUsage(device) / 1000,
        }
    except Exception:
        return {}


def time_cpu(workload: StepWorkload, rounds: int = _CPU_ROUNDS) -> list[dict[str, Any]]:
    """Whole-step time on the CPU, variants interleaved: torch's implementations and ours, one row each.

    Ours have two more columns: what a step costs the host on a GPU before it launches (`host_cost`), with gradients in
    place and with new gradients. The rest of our CPU time is the reference, which nobody trains with at this size.
    """
    device = torch.device("cpu")
    gradients = workload.gradients(device)
    recipe = "cpu-fused"
    providers: list[Provider] = [TorchOptim(implementation="foreach"), TorchOptim(implementation="fused")]
    providers += [TorchOptim(implementation="for-loop"), Ours(recipe=recipe), Ours(recipe="foreach")]
    prepared: list[tuple[Provider, torch.optim.Optimizer]] = []
    rows: list[dict[str, Any]] = []
    for provider in providers:
        try:
            parameters = workload.parameters(device)
            optimizer = provider.build(workload.optimizer, [{"params": parameters}], workload.options)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
            prepared.append((provider, optimizer))
        except Exception:
            rows.append({**_label(workload), "provider": provider.name, "error": traceback.format_exc()[-1200:]})
    samples: dict[str, list[int]] = {provider.name: [] for provider, _ in prepared}
    for turn in range(rounds):
        first = turn % len(prepared)
        for provider, optimizer in prepared[first:] + prepared[:first]:
            began = time.perf_counter_ns()
            optimizer.step()
            samples[provider.name].append(time.perf_counter_ns() - began)
    for provider, _ in prepared:
        spread = timing.quantiles(samples[provider.name])
        rows.append(
            {
                **_label(workload),
                "provider": provider.name,
                **(_upkeep(workload, provider, gradients) if isinstance(provider, Ours) else {}),
                "step_time_ns": spread["median"] if spread else None,
                "step_time_quantiles": spread,
                "samples_step_ns": samples[provider.name],
            }
        )
    return rows


def _upkeep(workload: StepWorkload, provider: Ours, gradients: list[torch.Tensor]) -> dict[str, Any]:
    """Median table upkeep of one step, with the gradients in place and with new ones."""
    parameters = workload.parameters(torch.device("cpu"))
    columns = {}
    with host_cost.without_launches():
        optimizer = provider.build(workload.optimizer, [{"params": parameters}], workload.options)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for name, moved in (("table_upkeep_ns", False), ("table_upkeep_moved_ns", True)):
            spread = timing.quantiles(host_cost.upkeep_ns(optimizer, parameters, moved=moved))
            columns[name] = spread["median"] if spread else None
    return columns


def run_cpu(*, quick: bool = False) -> dict[str, Any]:
    """Host cost of steps over many small tensors on the CPU, as a document of rows."""
    return {**_header("cpu"), "rows": [row for workload in cpu_steps(quick=quick) for row in time_cpu(workload)]}
