"""The batched engine: many families of small networks as one population, on any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from kernels import DTYPES, Population

from ..design.grid import NetworkInits
from ..design.policies import Policy
from ..design.spec import Cohort, RunSpec
from ..models.networks import NETWORKS, get_network
from .arithmetic import TORCH
from .memory import check_memory
from .observer import Snapshot
from .start import starting_points
from .threads import one_thread


class Batched:
    """Hand-batched networks, stepped as one population."""

    name = "batched"
    scalers = False
    portable = False
    arithmetic = TORCH

    def refusal(self, policy: Policy) -> str:
        """Its networks compute in float32, and what they are trained in is float32 too."""
        if policy == Policy():
            return ""
        return f"the {self.name} engine holds and computes everything in fp32, and this policy is {policy.text}"

    def networks(self) -> tuple[str, ...]:
        """All."""
        return tuple(NETWORKS)

    def check(self, spec: RunSpec, policy: Policy, network: NetworkInits) -> None:
        """Adds up what a cohort takes.

        Raises:
            InputError: for cohorts that do not fit into memory.
        """
        check_memory(spec, network, policy, get_network(network.network).parameters)

    def advance(self, spec: RunSpec, cohort: Cohort, policy: Policy, hyper: Sequence[Any]) -> Iterator[Snapshot]:
        """The cohort at each checkpoint in turn.

        Models that overflow go on: what became of them is in the snapshots. The bits depend on the cohort's size but
        not on which other cohorts run, and a padded last cohort has the same size as the others.

        Args:
            spec: of the run.
            cohort: which models.
            policy: in which formats; one that `refusal` has nothing against.
            hyper: a record per member of a family.
        """
        assert not self.refusal(policy), "choose_engine lets through only what the engine can run"
        family, device = spec.family, torch.device(spec.device)
        network = get_network(cohort.key.network)
        with one_thread():
            drawn = network.initial(spec.seed, cohort.inits).to(DTYPES[policy.params].torch)
            initial = starting_points(drawn, family, spec.seed, cohort.inits).to(device)
            params, grads = initial.clone(), torch.empty_like(initial)
            scales = torch.tensor([member.loss_factor for member in family], dtype=torch.float32, device=device)
            scales = scales.repeat(cohort.size)
            stream = network.stream(seed=spec.seed, inits=cohort.inits, device=device)
            population = Population(
                cohort.key.optimizer, [*hyper] * cohort.size, params, recipe=cohort.key.recipe, backend=spec.backend
            )
            for step in range(1, spec.steps + 1):
                batch = stream.batch(step)
                network.gradients(params, batch, scales, grads)
                if step not in spec.checkpoints:
                    population.step(grads)
                    continue
                before, losses, seen = params.clone(), network.losses(params, batch), grads.clone()
                population.step(grads)
                yield Snapshot(
                    step=step,
                    initial=initial,
                    before=before,
                    params=params,
                    grads=seen,
                    losses=losses,
                    state=population.state,
                )
