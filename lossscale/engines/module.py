"""The module engine: any ``torch.nn`` module as a population, in any policy, on any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

import kernels
from kernels import Population

from ..design.grid import NetworkInits
from ..design.policies import Policy
from ..design.spec import Cohort, RunSpec
from ..models.copies import Copies
from ..models.modules import MODULES, get_module
from .arithmetic import ORDERED
from .formats import population_refusal
from .memory import check_memory
from .observer import Snapshot
from .scaler import GROWTHS, Scalers
from .start import starting_points
from .threads import one_thread


class Module:
    """Modules by ``torch.func``, stepped as one population.

    Forward and backward are torch's own operations in the policy's format, batched as ``vmap`` batches them: in 16 bits
    a Linear rounds its products and then their sum with the bias. Float16 products on a CPU are float32 products of
    the same numbers, rounded once.
    """

    name = "module"
    scalers = True
    portable = False
    arithmetic = ORDERED

    def refusal(self, policy: Policy) -> str:
        """Gradients have the parameters' format, as every optimizer wants them."""
        return population_refusal(self.name, policy)

    def networks(self) -> tuple[str, ...]:
        """All."""
        return tuple(MODULES)

    def check(self, spec: RunSpec, policy: Policy, network: NetworkInits) -> None:
        """Runs one call of the network, and adds up what a cohort takes.

        Raises:
            InputError: for a module that cannot be run, with the reason, and for cohorts that do not fit into memory.
        """
        device = torch.device(spec.device)
        with one_thread():
            copies = self._copies(spec, network.network, range(min(2, network.inits)), policy, members=1)
            params = copies.initial.to(device, kernels.DTYPES[policy.params].torch)
            stream = get_module(network.network).stream(seed=spec.seed, inits=range(1), device=device)
            copies.check(params, stream.batch(1))
        check_memory(spec, network, policy, copies.initial.shape[1], call_bytes=copies.call_bytes)

    def advance(self, spec: RunSpec, cohort: Cohort, policy: Policy, hyper: Sequence[Any]) -> Iterator[Snapshot]:
        """The cohort at each checkpoint in turn; arguments as `Batched.advance`.

        Every call of forward and backward has the same size, so that the bits depend on neither the cohort's size nor
        its other models. With GradScalers a model whose gradients overflow skips the step alone.
        """
        assert not self.refusal(policy), "choose_engine lets through only what the engine can run"
        family, device = spec.family, torch.device(spec.device)
        network = get_module(cohort.key.network)
        with one_thread():
            copies = self._copies(spec, network.name, cohort.inits, policy, members=len(family))
            drawn = copies.initial.to(kernels.DTYPES[policy.params].torch)
            initial = starting_points(drawn, family, spec.seed, cohort.inits).to(device)
            params, grads = initial.clone(), torch.empty_like(initial)
            scales = torch.tensor([member.loss_factor for member in family], dtype=torch.float32, device=device)
            scales = scales.repeat(cohort.size)
            stream = network.stream(seed=spec.seed, inits=cohort.inits, device=device)
            copies.check(params, stream.batch(1))
            population = Population(
                cohort.key.optimizer,
                [*hyper] * cohort.size,
                params,
                recipe=cohort.key.recipe,
                backend=spec.backend,
                state_dtype=kernels.DTYPES[policy.state].torch,
            )
            scalers: Scalers | None = None
            if spec.scaler and policy.takes_scaler:
                scalers = Scalers(copies.models, GROWTHS[spec.scaler], device=device)
            for step in range(1, spec.steps + 1):
                factors = scales if scalers is None else scales * scalers.scale
                losses = copies.gradients(params, stream.batch(step), factors, grads, step=step)
                shown = step in spec.checkpoints
                before = params.clone() if shown else params
                if scalers is None:
                    population.step(grads)
                else:
                    found = scalers.found_inf(grads)
                    population.step(grads, grad_scale=scalers.scale, found_inf=found)
                    scalers.update(found)
                if not shown:
                    continue
                yield Snapshot(
                    step=step,
                    initial=initial,
                    before=before,
                    params=params,
                    grads=grads,
                    losses=losses,
                    state=population.state,
                    taken=None if scalers is None else population.steps,
                )

    def _copies(self, spec: RunSpec, network: str, inits: Sequence[int], policy: Policy, *, members: int) -> Copies:
        return Copies(
            get_module(network),
            seed=spec.seed,
            inits=inits,
            members=members,
            compute=kernels.DTYPES[policy.compute].torch,
            device=torch.device(spec.device),
        )
