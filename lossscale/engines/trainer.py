"""The trainer engine: whole stretches of training in one launch, any policy, the same bits on every machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

import kernels

from ..design.grid import NetworkInits
from ..design.policies import Policy
from ..design.spec import Cohort, RunSpec
from ..models.data import Stream
from ..models.networks import get_network
from .arithmetic import ORDERED
from .formats import population_refusal
from .memory import check_memory
from .observer import Snapshot
from .start import starting_points
from .threads import one_thread

_CHUNK: Final = 1 << 22
"""Numbers of samples that are laid out at a time (16 MiB)."""


@dataclass(frozen=True)
class Trainer:
    """Small networks that train in whole runs, from checkpoint to checkpoint.

    Attributes:
        chunk: numbers of samples that are laid out at a time; the bits do not depend on it.
    """

    chunk: int = _CHUNK
    name = "trainer"
    scalers = False
    portable = True
    arithmetic = ORDERED

    def refusal(self, policy: Policy) -> str:
        """Gradients have the parameters' format, as every optimizer wants them."""
        return population_refusal(self.name, policy)

    def networks(self) -> tuple[str, ...]:
        """Those that are written for it."""
        return tuple(kernels.NETWORKS)

    def check(self, spec: RunSpec, policy: Policy, network: NetworkInits) -> None:
        """Adds up what a cohort takes.

        Raises:
            InputError: for cohorts that do not fit into memory.
        """
        check_memory(spec, network, policy, get_network(network.network).parameters)

    def advance(self, spec: RunSpec, cohort: Cohort, policy: Policy, hyper: Sequence[Any]) -> Iterator[Snapshot]:
        """The cohort at each checkpoint in turn; arguments as `Batched.advance`.

        The bits depend on neither the cohort's size nor the backend, device, threads or machine.
        """
        assert not self.refusal(policy), "choose_engine lets through only what the engine can run"
        family, device = spec.family, torch.device(spec.device)
        network = get_network(cohort.key.network)
        with one_thread():
            drawn = network.initial(spec.seed, cohort.inits).to(kernels.DTYPES[policy.params].torch)
            initial = starting_points(drawn, family, spec.seed, cohort.inits)
            trainer = kernels.Trainer(
                cohort.key.optimizer,
                hyper,
                initial.to(device, copy=True),
                network=network.name,
                policy=kernels.Policy(**vars(policy)),
                recipe=cohort.key.recipe,
                backend=spec.backend,
                loss_scale=[member.loss_factor for member in family],
            )
            stream = network.stream(seed=spec.seed, inits=cohort.inits, device=device)
            for checkpoint in sorted(spec.checkpoints):
                self._run(trainer, stream, checkpoint - 1, cohort.size)
                last = samples(stream, range(checkpoint, checkpoint + 1))
                before, losses = trainer.params.clone(), trainer.losses(last[0])
                grads = trainer.run(last, keep_gradients=True)
                assert grads is not None, "they were asked for"
                # Measured on the CPU, wherever it trained: the same numbers.
                yield Snapshot(
                    step=checkpoint,
                    initial=initial,
                    before=before.cpu(),
                    params=trainer.params.cpu(),
                    grads=grads[0].cpu(),
                    losses=losses.cpu(),
                    state={name: tensor.cpu() for name, tensor in trainer.state.items()},
                )

    def _run(self, trainer: kernels.Trainer, stream: Stream, until: int, families: int) -> None:
        """Trains up to that step, a chunk of samples at a time."""
        at_once = max(1, self.chunk // (families * trainer.network.features))
        while trainer.step_count < until:
            first = trainer.step_count + 1
            trainer.run(samples(stream, range(first, min(first + at_once, until + 1))))


def samples(stream: Stream, steps: range) -> Tensor:
    """[steps, families, inputs + labels] of a stream with one sample per step, as `kernels.Trainer.run` takes them."""
    batches = map(stream.batch, steps)
    return torch.stack([torch.cat((batch.inputs, batch.targets), 1).squeeze(2) for batch in batches])
