"""Whole training runs of many small models at once: forward, backward and optimizer step of every model, step by step.

`Trainer` is the host side: it checks what it is given, forms the optimizer's scalars for all steps and records, places
the models into blocks and launches. On the reference backend a run is made of `Population` steps fed with the gradients
of `network_reference`; that is the oracle of the other backends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends.dispatch import resolve_backend
from ..launch.rows import RowTable
from ..rounding.powers import power_table
from . import checks, network_reference
from .launches import Run, block_of
from .launches_simd import Packed
from .launches_triton import TritonLaunches
from .network import Network, get_network
from .placement import place
from .policy import Policy, get_policy
from .records import checked_records
from .step import Population


class Trainer:
    """A population of small models that trains in whole runs.

    Models of one family (those that see the same data) are next to each other. Where ``hyperparameters`` or
    ``loss_scale`` have fewer entries than there are models, model m has entry m modulo their number: one per arm.

    Args:
        algorithm: name in the registry, such as ``"adam"``.
        hyperparameters: one record (or mapping of its fields) per model, or per arm; options that select code agree.
        params: contiguous tensor [models, n] in the policy's parameter format; updated in place.
        network: name in `NETWORKS`, or a `Network`.
        policy: name in `POLICIES`, or a `Policy`.
        recipe: whose rounding; None for the algorithm's default.
        backend: ``auto``, ``triton``, ``simd``, ``interpreter`` or ``reference``.
        loss_scale: what each model's loss is multiplied by, positive: one number, or one per model or arm.

    Attributes:
        params: as given.
        state: the state tensors by name, each [models, n] in the policy's state format.
        step_count: steps taken.

    Raises:
        ValueError: for unknown names, lengths or shapes that do not fit, and hyperparameters out of range.
        TypeError: for a record of another algorithm, and values that are no numbers.
    """

    def __init__(
        self,
        algorithm: str,
        hyperparameters: Sequence[Any],
        params: Tensor,
        *,
        network: str | Network = "mlp-6-6-1",
        policy: str | Policy = "fp32",
        recipe: str | None = None,
        backend: str = "auto",
        loss_scale: float | Sequence[float] | Tensor = 1.0,
    ) -> None:
        self.network = get_network(network)
        self.policy = get_policy(policy)
        checks.check_params(params, self.network.parameters, self.policy)
        models = len(params)
        records = checked_records(algorithm, hyperparameters, models)
        self.backend = resolve_backend(backend, params.device)
        # Everything that a run of `Population` steps has: recipe, flags, states; and the oracle itself.
        self._population = Population(
            algorithm,
            records,
            params,
            recipe=recipe,
            backend="reference",
            state_dtype=self.policy.dtype("state"),
        )
        self._loss_scale = checks.checked_loss_scale(loss_scale, models, params.device)
        self._whole = True
        self._prepare()

    def _prepare(self) -> None:
        """Form what runs share, from what there is."""
        params, record_of = self.params, self._population.record_of
        self._record_of = torch.from_numpy(record_of).int().to(params.device)
        dtypes = (self.policy.dtype("params"), self.policy.dtype("grads"), self.policy.dtype("state"), None)
        self._rows = RowTable(self._population.recipe, dtypes, self._population.records, power_table(params.device))
        ordinary = self._population.recipe.ordinary
        self._ordinary = (
            self.backend in ("triton", "interpreter")
            and self.policy.params == "fp32"
            and ordinary is not None
            and self._rows.constant
            and all(map(ordinary, self._population.records))
        )
        self._launches = TritonLaunches()
        self._placed = place(record_of, block_of(self.backend, len(params)), params.device)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy, or a trainer that is read from a file, is made from: it goes on to the same bits."""
        kept = ("network", "policy", "backend", "_population", "_loss_scale", "_whole")
        return {name: vars(self)[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()

    @property
    def params(self) -> Tensor:
        """The parameters as given, changed in place by a run."""
        return self._population.params

    @property
    def state(self) -> dict[str, Tensor]:
        """The state tensors by name, each [models, n]; changed in place by a run."""
        return self._population.state

    @property
    def step_count(self) -> int:
        """Steps taken so far."""
        return self._population.step_count

    @torch.no_grad()
    def run(self, data: Tensor, steps: int | None = None, *, keep_gradients: bool = False) -> Tensor | None:
        """Train every model for some steps, in place on parameters and states.

        A second run goes on where the first ended: a run split in two has the same bits as in one.

        Args:
            data: float32 [at least steps, families, inputs + labels], a sample of every family for every step.
            steps: how many; None for all of the data.
            keep_gradients: whether to return what the optimizer was given.

        Returns:
            Gradients [steps, models, n] in the policy's gradient format if they were asked for, else None.

        Raises:
            ValueError: if the data's shape, dtype or device does not fit, there are fewer steps of it, memory does not
                hold their gradients, the data shares memory with parameters or states, or these were replaced by what
                does not fit.
        """
        models, device = self._population.layout.shape[0], self._population.layout.device
        count = checks.checked_steps(data, steps, models, self.network.features, device)
        self._check_whole()
        self._population.check_tensors(data=data)
        checks.check_flag("keep_gradients", keep_gradients)
        kept = None
        if keep_gradients:
            checks.check_kept(self.params, count)
            kept = self.params.new_empty(count, *self.params.shape)
        if not models or not count:
            return kept
        if self.backend == "reference":
            self._run_reference(data, count, kept)
        else:
            self._run_launches(data, count, kept)
        return kept

    @torch.no_grad()
    def walk(self, data: Tensor) -> Iterator[int]:
        """Train as `run` does, to the same bits, and stop after every step.

        While it stops only `params` is up to date, and nothing may be changed or trained; the states are up to date
        when the walk has ended, or was left. Cheaper than as many runs of one step, for what does not change between
        two steps is prepared once.

        Args:
            data: as in `run`.

        Yields:
            `step_count` after each step.

        Raises:
            ValueError: as `run`, and where something was changed while it stopped.
            RuntimeError: after a walk that was interrupted while the models trained; `run` says so too.
        """
        models, device = self._population.layout.shape[0], self._population.layout.device
        count = checks.checked_steps(data, None, models, self.network.features, device)
        self._check_whole()
        self._population.check_tensors(data=data)
        held, left = self._held(), None
        run = self._launched(data.shape[1]) if self.backend == "simd" and models and count else None
        packed = None if run is None else Packed(run, data.shape[1])
        try:
            for t in range(count):
                left = None
                if packed is None:
                    self.run(data[t : t + 1])
                else:
                    self._whole = False
                    packed.advance(data[t : t + 1])
                    self._whole = True
                    self._take(packed, [self.params, None, None, None])
                left = self._stamp()
                yield self.step_count
                if not self._untouched(held, left):
                    break
        finally:
            # What was changed is neither trained nor written over.
            if left is not None and not self._untouched(held, left):
                raise ValueError(
                    "walk: params, states or step count were changed while it stopped; end it or close it first"
                )
            if run is not None and packed is not None and self._whole:
                self._take(packed, run.tensors)

    def _held(self) -> list[Tensor]:
        return [self.params, *self.state.values()]

    def _stamp(self) -> list[int]:
        """What is another after a change: the count of steps, and of each tensor place, size and version."""
        stamp = [self.step_count]
        for tensor in self._held():
            stamp += [tensor.data_ptr(), tensor.numel(), 0 if tensor.is_inference() else tensor._version]
        return stamp

    def _untouched(self, held: list[Tensor], stamp: list[int]) -> bool:
        now = self._held()
        same = len(now) == len(held) and all(x is y for x, y in zip(now, held, strict=True))
        return same and self._stamp() == stamp

    def restart(self, params: Tensor) -> None:
        """Begin again from other parameters, [models, n]: states and step count as they were at first."""
        self._population.restart(params)
        self._whole = True

    def _check_whole(self) -> None:
        """Refuse to go on after a step of a walk that broke off."""
        if not self._whole:
            raise RuntimeError(
                "walk: it was interrupted while the models trained, and their states are lost; call restart, or make "
                "a new trainer"
            )

    def losses(self, data: Tensor) -> Tensor:
        """[models] float32: each model's loss on its family's sample, not scaled; ``data`` is [families, features]."""
        self._population.layout.check_params(self.params)
        checks.check_sample(data, len(self.params), self.network.features, self.params.device)
        sample = data.repeat_interleave(len(self.params) // len(data), 0)
        return network_reference.losses(self.network, self.params, sample, self.policy.dtype("compute"))

    def _run_reference(self, data: Tensor, steps: int, kept: Tensor | None) -> None:
        compute = self.policy.dtype("compute")
        for t in range(steps):
            sample = data[t].repeat_interleave(len(self.params) // data.shape[1], 0)
            grads = network_reference.gradients(self.network, self.params, sample, self._loss_scale, compute)
            grads = grads.to(self.params.dtype)
            if kept is not None:
                kept[t] = grads
            self._population.step(grads)

    def _run_launches(self, data: Tensor, steps: int, kept: Tensor | None) -> None:
        run = self._launched(data.shape[1])
        data = data if steps == len(data) else data[:steps]
        if self.backend == "simd":
            packed = Packed(run, data.shape[1])
            packed.advance(data, kept)
            self._take(packed, run.tensors)
            return
        self._launches(run, data, kept)
        self._population.step_count += steps

    def _take(self, packed: Packed, tensors: Sequence[Tensor | None]) -> None:
        """Take over what models have become and how many steps that took: all of it, if an interrupt comes too."""
        try:
            packed.unpack(tensors)
        except BaseException:
            packed.unpack(tensors)
            raise
        finally:
            self._population.step_count = packed.taken

    def _launched(self, families: int) -> Run:
        """The run from here on, as launches take it."""
        population = self._population
        states = [self.state.get(state.name) for state in population.algorithm.states]
        return Run(
            network=self.network,
            policy=self.policy,
            recipe=population.recipe,
            flags=population.flags,
            params=self.params,
            states=[*states, *[None] * (3 - len(states))],
            placement=self._placed,
            record_of=self._record_of,
            loss_scale=self._loss_scale,
            families=families,
            rows=self._rows,
            first_step=population.step_count + 1,
            ordinary=self._ordinary,
        )
