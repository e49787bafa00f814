"""Training from given parameters on given samples, by an engine's own gradients and step: what a bench compares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from kernels import Population

from ..models.copies import Copies
from ..models.data import Batch
from ..models.modules import by_hand
from ..models.networks import NETWORKS, Network
from .threads import one_thread

GIVEN: Final = ("batched", "module")
"""Engines that `given_run` has; the trainer engine is `kernels.Trainer`, which takes parameters and samples itself."""

_LIKE: Final = NETWORKS["mlp-6-6-1"]


def given_run(
    engine: str,
    widths: Sequence[int],
    params: Tensor,
    data: Tensor,
    *,
    algorithm: str,
    hyperparameters: Sequence[Any],
    loss_scale: Sequence[float],
) -> Callable[[], Tensor]:
    """A training run in float32 of networks like `mlp-6-6-1`, set up once and begun again at every call.

    Args:
        engine: of `GIVEN`.
        widths: of the network: inputs, hidden layers, 1.
        params: float32 [models, n], where the models begin; the models of a family are next to each other.
        data: float32 [steps, families, inputs + 1], a sample of every family for every step.
        algorithm: of the optimizer, such as ``"adam"``.
        hyperparameters: a record per model, or per member of a family.
        loss_scale: one per member of a family.

    Returns:
        A function that trains from the start and gives the parameters [models, n].

    Raises:
        ValueError: for an engine that is not one of them.
    """
    if engine not in GIVEN:
        raise ValueError(f"engine {engine!r}: choose one of {', '.join(GIVEN)}")
    name = "-".join(map(str, ("mlp", *widths)))
    network = dataclasses.replace(_LIKE, name=name, widths=tuple(widths))
    families, device = data.shape[1], params.device
    batches = [_batch(sample, widths[0], samples_first=engine == "module") for sample in data]
    scales = torch.tensor(loss_scale, dtype=torch.float32, device=device).repeat(families)
    gradients = _by_hand(network, scales)
    if engine == "module":
        gradients = _by_module(network, scales, families)

    def run() -> Tensor:
        now, grads = params.clone(), torch.empty_like(params)
        population = Population(algorithm, hyperparameters, now)
        for step, batch in enumerate(batches, 1):
            gradients(now, batch, grads, step)
            population.step(grads)
        return now

    def alone() -> Tensor:
        with one_thread():
            return run()

    return alone


_Gradients = Callable[[Tensor, Batch, Tensor, int], None]


def _by_hand(network: Network, scales: Tensor) -> _Gradients:
    return lambda params, batch, out, step: network.gradients(params, batch, scales, out)


def _by_module(network: Network, scales: Tensor, families: int) -> _Gradients:
    members = len(scales) // families
    copies = Copies(
        by_hand(network),
        seed=0,
        inits=range(families),
        members=members,
        compute=torch.float32,
        device=scales.device,
    )

    def gradients(params: Tensor, batch: Batch, out: Tensor, step: int) -> None:
        copies.gradients(params, batch, scales, out, step=step)

    return gradients


def _batch(sample: Tensor, inputs: int, *, samples_first: bool) -> Batch:
    """One sample of every family as an engine's network takes it."""
    sample = sample.unsqueeze(1 if samples_first else 2)
    parts = (sample[..., :inputs], sample[..., inputs:]) if samples_first else (sample[:, :inputs], sample[:, inputs:])
    return Batch(inputs=parts[0].contiguous(), targets=parts[1].contiguous())
