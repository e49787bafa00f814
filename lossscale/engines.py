"""Advances cohorts: many families of small networks as one population, on any device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels import Algorithm, Population, get_algorithm

from .data import signs
from .networks import get_network
from .pairs import Columns, Observer, Snapshot, join
from .policies import get_policy
from .spec import Arm, Cohort, RunSpec
from .studies import OptimizerSpec


def run_cohort(spec: RunSpec, cohort: Cohort) -> Columns:
    """Trains a cohort and measures its pairs at the checkpoints.

    Models that overflow go on: what became of them is in the columns. The bits depend on the cohort's size but not on
    which other cohorts run, and a padded last cohort has the same size as the others.

    Returns:
        The columns of the pairs file that differ within a cohort; checkpoints outermost, then initialisations, then
        pairs.
    """
    get_policy(cohort.key.policy)
    network = get_network(cohort.key.network)
    algorithm = get_algorithm(cohort.key.optimizer)
    device = torch.device(spec.device)
    family = spec.family
    base = base_hyperparameters(cohort.optimizer, spec.lr)
    hyper = [arm_hyperparameters(algorithm, base, arm) for arm in family]
    with one_thread():
        initial = starting_points(network.initial(spec.seed, cohort.inits), family, spec.seed, cohort.inits).to(device)
        params = initial.clone()
        scales = torch.tensor([arm.loss_factor for arm in family], dtype=torch.float32, device=device)
        scales = scales.repeat(cohort.size)
        stream = network.stream(seed=spec.seed, inits=cohort.inits, device=device)
        population = Population(
            algorithm.name, hyper * cohort.size, params, recipe=cohort.key.recipe, backend=spec.backend
        )
        observer = Observer(
            algorithm=algorithm, hyperparameters=hyper, arms=family, pairings=spec.pairings, families=cohort.kept
        )
        grads = torch.empty_like(params)
        observations = []
        for step in range(1, spec.steps + 1):
            batch = stream.batch(step)
            network.gradients(params, batch, scales, grads)
            if step not in spec.checkpoints:
                population.step(grads)
                continue
            before, losses, seen = params.clone(), network.losses(params, batch), grads.clone()
            population.step(grads)
            now = Snapshot(
                step=step,
                initial=initial,
                before=before,
                params=params,
                grads=seen,
                losses=losses,
                state=population.state,
            )
            observations.append({**_coordinates(spec, cohort, step), **observer.observe(now)})
    return join(observations)


def base_hyperparameters(optimizer: OptimizerSpec, lr: float) -> Any:
    """The hyperparameter record of the base arm; the options may name another learning rate.

    Raises:
        ValueError: for a value that the algorithm refuses.
        TypeError: for a hyperparameter that it does not have.
    """
    options: dict[str, Any] = {"lr": lr, **dict(optimizer.options)}
    return get_algorithm(optimizer.algorithm).hyperparameters(**options)


def arm_hyperparameters(algorithm: Algorithm, base: Any, arm: Arm) -> Any:
    """What the arm changes about the optimizer."""
    if arm.name == "lr":
        return dataclasses.replace(base, lr=base.lr * arm.scale)
    if arm.name == "mapped":
        return algorithm.rescale(base, arm.scale)
    return base


def starting_points(drawn: Tensor, family: Sequence[Arm], seed: int, inits: Sequence[int]) -> Tensor:
    """[models, n]: every initialisation [inits, n] once per arm, moved by one ulp in the arm ``ulp``."""
    models = drawn.repeat_interleave(len(family), 0)
    for index, arm in enumerate(family):
        if arm.name == "ulp":
            up = torch.from_numpy(signs(seed, "ulp", inits, drawn.shape[1]))
            away = torch.where(up, torch.full_like(drawn, torch.inf), torch.full_like(drawn, -torch.inf))
            models[index :: len(family)] = torch.nextafter(drawn, away)
    return models


def _coordinates(spec: RunSpec, cohort: Cohort, step: int) -> Columns:
    family, pairings = spec.family, spec.pairings
    rows = cohort.kept * len(pairings)
    return {
        "init": np.repeat(np.arange(cohort.first, cohort.first + cohort.kept, dtype=np.int32), len(pairings)),
        "arm": np.array([family[pairing.arm].name for pairing in pairings] * cohort.kept),
        "against": np.array([family[pairing.against].name for pairing in pairings] * cohort.kept),
        "scale": np.array([family[pairing.arm].scale for pairing in pairings] * cohort.kept),
        "step": np.full(rows, step, dtype=np.int32),
        "params": np.full(rows, get_network(cohort.key.network).parameters, dtype=np.int32),
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread: the cohorts are the parallel work, and a sum split over threads has other bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
