"""Whole training runs of many small models at once: forward, backward and optimizer step of every model, step by step.

`Trainer` is the host side: it checks what it is given, forms the optimizer's scalars for all steps and records, places
the models into blocks and launches. On the reference backend a run is made of `Population` steps fed with the gradients
of `network_reference`; that is the oracle of the other backends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backends import interpreter
from ..backends.dispatch import resolve_backend
from ..launch.rows import RowTable
from ..rounding.dtypes import DTYPES
from ..rounding.powers import power_table
from . import checks, network_reference
from .network import Network, get_network
from .placement import Placement, place
from .policy import Policy, get_policy
from .step import Population
from .train_kernel import BLOCK, LAUNCH_OPTIONS, train_kernel

_ROWS = 1 << 23
"""Host scalars of one launch (64 MiB): a run with more is split into launches."""
_INTERPRETER_BLOCK = 4096
"""Models per program in the interpreter, which runs a program as whole numpy arrays."""
_SLOTS = ("s0", "s1", "s2")


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
        backend: ``auto``, ``triton``, ``interpreter`` or ``reference``.
        loss_scale: what each model's loss is multiplied by: one number, or one per model or arm.

    Attributes:
        params: as given.
        state: the state tensors by name, each [models, n] in the policy's state format.
        step_count: steps taken.

    Raises:
        ValueError: for unknown names, lengths or shapes that do not fit, and hyperparameters out of range.
        TypeError: for a record of another algorithm.
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
        self.network = get_network(network) if isinstance(network, str) else network
        self.policy = get_policy(policy)
        checks.check_params(params, self.network.parameters, self.policy)
        models = len(params)
        records = checks.checked_records(algorithm, hyperparameters, models)
        self.backend = resolve_backend(backend, params.device)
        # Everything that a run of `Population` steps has: recipe, flags, states; and the oracle itself.
        self._population = Population(
            algorithm,
            [records[m % len(records)] for m in range(models)],
            params,
            recipe=recipe,
            backend="reference",
            state_dtype=self.policy.dtype("state"),
        )
        self.params = params
        self._loss_scale = checks.per_model("loss_scale", loss_scale, models, params.device)
        distinct = list(dict.fromkeys(records))
        number = {record: k for k, record in enumerate(distinct)}
        record_of = np.array([number[record] for record in records], np.int64)
        self._record_of = np.tile(record_of, models // max(1, len(records)))
        dtypes = (self.policy.dtype("params"), self.policy.dtype("grads"), self.policy.dtype("state"), None)
        self._rows = RowTable(self._population.recipe, dtypes, distinct, power_table(params.device))
        self._records = len(distinct)
        self._placement: Placement | None = None

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
            ValueError: if the data's shape, dtype or device does not fit, or there are fewer steps of it.
        """
        models = len(self.params)
        count = checks.checked_steps(data, steps, models, self.network.features, self.params.device)
        kept = None
        if keep_gradients:
            kept = self.params.new_empty(count, *self.params.shape)
        if not models or not count:
            return kept
        if self.backend == "reference":
            self._run_reference(data, count, kept)
        else:
            self._run_kernel(data, count, kept)
        return kept

    def losses(self, data: Tensor) -> Tensor:
        """[models] float32: each model's loss on its family's sample, not scaled; ``data`` is [families, features]."""
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

    def _run_kernel(self, data: Tensor, steps: int, kept: Tensor | None) -> None:
        device, models = self.params.device, len(self.params)
        block = _INTERPRETER_BLOCK if self.backend == "interpreter" else BLOCK
        if self.backend == "interpreter":
            block = min(block, 1 << (models - 1).bit_length())
        if self._placement is None:
            self._placement = place(self._record_of, block, device)
        placed = self._placement
        log, log_data = (_log(self.network.parameters), _log(self.network.features))
        slots = len(placed.model_of)
        recipe = self._population.recipe
        powers = power_table(device)
        row_of = torch.from_numpy(self._record_of).to(device)[placed.model_of].int()
        family = (placed.model_of // (models // data.shape[1])).int()
        scale = self._loss_scale[placed.model_of]
        params = placed.gather(self.params, 1 << log)
        states = [self.state.get(state.name) for state in self._population.algorithm.states]
        packed = [None if state is None else placed.gather(state, 1 << log) for state in states]
        packed += [None] * (len(_SLOTS) - len(packed))
        mask = sum(1 << k for k, state in enumerate(packed) if state is not None)
        numbers = self.network.parameters
        constants = {
            **self.network.constants(),
            "RULE": recipe.rule,
            "FLAGS": self._population.flags,
            "STATES": mask,
            "LANES": ("unaligned" if numbers % 4 else "aligned") if recipe.lanes else "",
            "COMPUTE": DTYPES[self.policy.compute].triton,
            "GRAD": DTYPES[self.policy.grads].triton,
            "PARAM": DTYPES[self.policy.params].triton,
            "STATE": DTYPES[self.policy.state].triton,
            "COLUMNS": len(recipe.columns),
            "SHARED_ROWS": placed.shared,
            "KEEP_GRADS": kept is not None,
            "NUMBERS": numbers,
            "LOG": log,
            "LOG_DATA": log_data,
            "BLOCK": block,
        }
        longest = max(1, _ROWS // (self._records * len(recipe.columns)))
        for begin in range(0, steps, longest):
            chunk = min(longest, steps - begin)
            first_step = self._population.step_count + 1
            rows = torch.from_numpy(self._rows.rows(first_step, chunk)).to(device)
            grads = params.new_empty(chunk, slots, 1 << log) if kept is not None else params
            arguments = (
                params,
                *(params if state is None else state for state in packed),
                grads,
                _padded(data[begin : begin + chunk], 1 << log_data),
                family,
                scale,
                rows,
                row_of,
                powers.values,
                data.shape[1],
                self._records,
                first_step,
                chunk,
            )
            _launch(self.backend, (slots // block, 1, 1), arguments, constants, device)
            if kept is not None:
                kept[begin : begin + chunk] = grads[:, placed.slot_of, :numbers]
            self._population.step_count += chunk
        placed.scatter(params, self.params)
        for state, values in zip(states, packed, strict=False):
            if state is not None and values is not None:
                placed.scatter(values, state)


def _launch(
    backend: str, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: Mapping[str, Any], device: torch.device
) -> None:
    if backend == "interpreter":
        interpreter.launch(train_kernel, grid, arguments, dict(constants))
        return
    with torch.cuda.device(device):
        train_kernel[grid](*arguments, **constants, **LAUNCH_OPTIONS)


def _log(count: int) -> int:
    """The smallest power of two that holds so many, as its exponent."""
    return (count - 1).bit_length()


def _padded(data: Tensor, width: int) -> Tensor:
    """Samples as rows of a power of two."""
    if data.shape[2] == width and data.is_contiguous():
        return data
    return torch.nn.functional.pad(data, (0, width - data.shape[2])).contiguous()
