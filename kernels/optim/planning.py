"""From parameter groups to plans: what may be stepped, which launches there are, and what is kept for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import backends
from ..launch.apart import check_apart, check_written_apart
from ..launch.buckets import assemble
from ..launch.checks import check_grad, check_param
from .constructors import choose_recipe, switches
from .counters import Chunk, Counters
from .known import Known
from .native import compiled_look
from .plans import Plan
from .shards import shard_of
from .state import States

if TYPE_CHECKING:
    from .optimizer import StepOptimizer


def check_group(optimizer: StepOptimizer, group: dict[str, Any]) -> None:
    """Refuse a group that this optimizer cannot step.

    Raises:
        TypeError: for parameters of another dtype than float32, bfloat16 and float16.
        ValueError: for hyperparameters out of range, or a group that asks for another recipe.
    """
    recipe = optimizer.recipe
    optimizer.hyper_of(group)
    own = switches(recipe, optimizer.defaults)
    different = [name for name, value in own.items() if group[name] != value]
    asked = choose_recipe(optimizer.algorithm, None, group) if different else recipe.name
    # No switch of torch's tells its fused kernels on the CPU from those on a GPU.
    if asked not in (recipe.name, recipe.name.removeprefix("cpu-")):
        raise ValueError(
            f"param group: it asks for recipe {asked!r} where the optimizer has {recipe.name!r}; all groups "
            "of an optimizer have one recipe: make another optimizer, or leave "
            f"{' and '.join(different)} out of the group"
        )
    # The same recipe by other switches: they say what runs here.
    group.update(own)
    for p in group["params"]:
        check_param(shard_of(p), instead=_torch_class(optimizer), stepped=False)
        if p.device.type in ("cpu", "cuda"):
            backends.resolve_backend(optimizer.backend, p.device)


def make_plans(optimizer: StepOptimizer, states: States, chunks: list[Chunk]) -> Known:
    """Plans for the parameters that have gradients. Everything is checked before any state is created.

    Args:
        optimizer: whose they are.
        states: makes and fits what it keeps.
        chunks: of its counters; new ones are added.
    """
    hypers = [optimizer.hyper_of(group) for group in optimizer.param_groups]
    everything: list[Tensor] = []
    chosen: list[tuple[int, int, Tensor]] = []
    for number, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            if p.grad is not None:
                _check_for_step(optimizer, p)
                states.check(p, hypers[number])
                chosen.append((len(everything), number, p))
            everything.append(p)
    check_apart([shard_of(p) for _, _, p in chosen])
    first = np.array([states.prepare(p, hypers[number]) for _, number, p in chosen], bool)
    states.make_counters(chunks)
    native = compiled_look()
    members = [states.member(p, hypers[number]) for _, number, p in chosen]
    check_written_apart([tensor for member in members for tensor in member.written])
    plans = []
    for assembly in assemble(members):
        groups = np.array([chosen[k][1] for k in assembly.positions])
        places = [chosen[k][0] for k in assembly.positions]
        positions = None if len(places) == len(everything) else places
        params = [chosen[k][2] for k in assembly.positions]
        counters = None
        if optimizer.algorithm.stateful_step:
            counters = Counters([optimizer.state[p]["step"] for p in params], chunks)
        starting = first[assembly.positions]
        plans.append(
            Plan(
                algorithm=optimizer.algorithm,
                recipe=optimizer.recipe,
                backend=backends.resolve_backend(optimizer.backend, params[0].device),
                assembly=assembly,
                owners=params,
                positions=positions,
                groups=groups,
                counters=counters,
                first=starting,
                any_first=bool(starting.any()),
                native=native,
            )
        )
    return Known(optimizer, everything, plans, hypers, native)


def _check_for_step(optimizer: StepOptimizer, p: Tensor) -> None:
    shard = shard_of(p)
    check_param(shard, instead=_torch_class(optimizer))
    backends.resolve_backend(optimizer.backend, p.device)
    (grad,) = optimizer.local_grads([p])
    check_grad(shard, grad, optimizer.algorithm.title)


def _torch_class(optimizer: StepOptimizer) -> str:
    title = optimizer.algorithm.title
    return f"torch.optim.{title}" if hasattr(torch.optim, title) else ""
