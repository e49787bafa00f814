"""A run of timings: workloads one after the other, the document rewritten after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from ..optimizers import registered
from ..providers import Ours, Provider, TorchOptim
from ..store import freshness
from ..store.schema import StepRow
from ..tracebacks import kept_traceback
from . import host_cost
from .clock import Clock
from .cost_model import predictions
from .measure import TimeIsUp, time_workload
from .rows import median
from .sensors import Reading, spread
from .workloads import StepWorkload

Document = dict[str, Any]
_SHORTEST_S, _LONGEST_S = 0.3, 2.5
# What the first workload is taken to need beside its rounds, to be built and to compile.
_FIRST_S = 2.0
_TABLES_LIMIT = 1 << 26


def time_all(
    workloads: Iterable[StepWorkload],
    providers: Callable[[StepWorkload], Sequence[Provider]],
    clock: Clock,
    *,
    deadline: float,
    write: Callable[[Document], None] = lambda document: None,
    longest_s: float = _LONGEST_S,
) -> Document:
    """Time the workloads until `deadline` (`time.monotonic`).

    Args:
        workloads: in order of importance.
        providers: who takes part in each.
        clock: of the device.
        deadline: what is left then is named under `not_run`. No workload begins that would not be over by then, if it
            takes as long beside its rounds as those of its tensors did, or the longest did.
        write: given the document after every workload.
        longest_s: for the rounds of one workload.
    """
    document: Document = {**_header(clock), "clocks": [], "rows": [], "not_offered": [], "not_run": []}
    todo = list(workloads)
    beside: dict[str, float] = {}
    for position, workload in enumerate(todo):
        began = time.monotonic()
        left = deadline - began
        expected_s = beside.get(workload.tensors.name, max(beside.values(), default=_FIRST_S))
        if left < expected_s + _SHORTEST_S:
            # A smaller one that follows may fit.
            document["not_run"].append(workload.label())
            continue
        budget_s = max(_SHORTEST_S, min(longest_s, left - expected_s, 0.5 * left / (len(todo) - position)))
        seen: list[Reading] = []
        try:
            chosen = providers(workload)
            by_name = {provider.name: provider for provider in chosen}
            rows, lacking = time_workload(workload, chosen, clock, budget_s, seen, deadline)
            _, told = predictions(document, rows)
            model = {
                one.row.provider: {"predicted_us": one.predicted_ns / 1e3, "model_error": one.error} for one in told
            }
            document["rows"] += [
                {**row.as_dict(), **_upkeep(workload, row, by_name[row.provider], clock), **model.get(row.provider, {})}
                for row in rows
            ]
            document["not_offered"] += [f"{workload.optimizer}, {line}" for line in lacking]
        except TimeIsUp:
            document["not_run"].append(workload.label())
        except Exception:
            document["rows"].append({**workload.label(), "error": kept_traceback(most=1500)})
        took = max(0.0, time.monotonic() - began - budget_s)
        beside[workload.tensors.name] = max(took, beside.get(workload.tensors.name, 0.0))
        if seen:
            document["clocks"].append({**workload.label(), **spread(seen)})
        write(document)
    document["not_offered"] = list(dict.fromkeys(document["not_offered"]))
    write(document)
    return document


def _header(clock: Clock) -> Document:
    try:
        found = freshness.header(clock.device.type)
    except Exception:
        # Times without a machine's name are still times.
        found = {"header_error": kept_traceback(most=800)}
    sizes = (1 << 26, 1 << 30, 1 << 32) if clock.device.type == "cuda" else (1 << 28,)
    found["ceilings"] = [{"bytes": size, **clock.rates(size)} for size in sizes]
    found["launch_ns"] = clock.launch_ns()
    return found


def _upkeep(workload: StepWorkload, row: StepRow, provider: Provider, clock: Clock) -> dict[str, Any]:
    """On a CPU, of providers that keep tables: the host's share of a step on a GPU, as two more columns of the row."""
    if clock.device.type != "cpu" or row.error or workload.tensors.elements > _TABLES_LIMIT:
        return {}
    if not provider.traits.tables:
        return {}
    parameters = workload.parameters(clock.device)
    columns: dict[str, Any] = {}
    with host_cost.without_launches():
        optimizer = provider.build(workload.optimizer, [{"params": parameters}], workload.options)
        for parameter, gradient in zip(parameters, workload.gradients(clock.device), strict=True):
            parameter.grad = gradient
        for name, moved in (("table_upkeep_ns", False), ("table_upkeep_moved_ns", True)):
            columns[name] = median(host_cost.upkeep_ns(optimizer, parameters, moved=moved))
    held, moved_ns = columns["table_upkeep_ns"], columns["table_upkeep_moved_ns"]
    return {**columns, "host_us": held and held / 1e3, "host_moved_us": moved_ns and moved_ns / 1e3}


def usual_providers(workload: StepWorkload, device: torch.device) -> list[Provider]:
    """Torch's implementations and ours under the same recipes, ours last.

    A for-loop over thousands of tensors takes a second a step and is timed once, for float32 AdamW.
    """
    cuda = device.type == "cuda"
    recipes = ["foreach", "fused", "for-loop"]
    long = len(workload.tensors.shapes) >= 1_000 and (workload.optimizer, workload.dtype) != ("AdamW", "fp32")
    if long and cuda:
        recipes.remove("for-loop")
    mine = [*recipes, "native"] if cuda else ["cpu-fused", "foreach", "native"]
    found: list[Provider] = [TorchOptim(implementation=name) for name in recipes]
    found += [Ours(recipe=name, backend="triton" if cuda else "auto") for name in mine]
    return [provider for provider in found if provider.offers(workload.optimizer)]


def whole_step_providers(workload: StepWorkload, device: torch.device) -> list[Provider]:
    """Torch's fused and foreach steps; ours beside each: fused, the default recipe, on CUDA fused as a graph."""
    cuda = device.type == "cuda"
    recipes = ("fused" if cuda else "cpu-fused", registered(workload.optimizer).default_recipe)
    found: list[Provider] = [TorchOptim(implementation="fused"), TorchOptim(implementation="foreach")]
    found += [Ours(recipe=name, backend="triton" if cuda else "auto") for name in recipes]
    return found + ([Ours(recipe="fused", graphed=True)] if cuda else [])
