"""Optimizer steps of many models at once: parameters [models, n], every model with hyperparameters of its own.

A distinct hyperparameter record is a row of a table of scalars, and every element finds its model's: a population is
one launch of the same arithmetic, and a model steps to the same bits as it would alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..algorithm import get_algorithm
from ..backends.dispatch import resolve_backend
from ..launch.checks import check_tensor
from ..launch.rows import RowTable
from ..launch.tables import Tables
from ..rounding.flags import SCALED
from ..rounding.powers import power_table
from .checks import (
    check_memory,
    check_restart,
    check_state,
    check_state_dtype,
    checked_counts,
    checked_flags,
    checked_scales,
)
from .held import Layout
from .records import checked_records, told_apart
from .step_backends import Step, by_kernel, by_reference, by_tables

PerModel = float | Sequence[float] | Tensor
"""One number, or one per model, or one per arm in a number that divides the models."""

_AHEAD = 512
"""Rows of scalars formed at once: a step of 64 models of 2,410 parameters takes 89 µs so, and 187 without (Zen 5)."""


class Population:
    """The optimizer of a population of models.

    Args:
        algorithm: name in the registry, such as ``"adam"``.
        hyperparameters: one record per model, or one per arm (model m has record m modulo their number), or a mapping
            of its fields; options that select code (amsgrad, momentum or not, ...) must agree.
        params: float32, bfloat16 or float16 tensor [models, n], contiguous; updated in place.
        recipe: whose rounding; None for the algorithm's default.
        backend: ``auto``, ``triton``, ``simd``, ``interpreter`` or ``reference``.
        state_dtype: of the states; None for the parameters' dtype.
        state: states to go on from, by torch's names, [models, n] of one dtype, contiguous; updated in place. None for
            new ones.
        steps: how many steps have been taken before, one number or one per model or arm; None for none.

    Attributes:
        state: the state tensors by name, each [models, n].
        records: the distinct records; ``record_of`` [models] says which one a model has.
        layout: how params and states must lie at every step.
        step_count: calls of `step`; `steps` has each model's own, without those that it skipped.

    Raises:
        TypeError: for records of another algorithm.
        ValueError: for an unknown algorithm, recipe or backend, unfit records (the model is named), or parameters of
            another shape.
    """

    def __init__(
        self,
        algorithm: str,
        hyperparameters: Sequence[Any],
        params: Tensor,
        *,
        recipe: str | None = None,
        backend: str = "auto",
        state_dtype: torch.dtype | None = None,
        state: Mapping[str, Tensor] | None = None,
        steps: PerModel | None = None,
    ) -> None:
        self.algorithm = get_algorithm(algorithm)
        self.recipe = self.algorithm.recipe(recipe)
        check_tensor(params, "params", "convert them", written=True)
        if params.dim() != 2 or not params.is_contiguous():
            raise ValueError(f"params of shape {tuple(params.shape)}: give a contiguous tensor [models, parameters]")
        check_state_dtype(state_dtype)
        check_state(state)
        models = len(params)
        if models or hyperparameters not in ([], ()):
            hyperparameters = checked_records(algorithm, hyperparameters, models, finite=False)
        keys = list(map(told_apart, hyperparameters))
        number = {key: k for k, key in enumerate(dict.fromkeys(keys))}
        distinct = [hyper for hyper, _ in number]
        flags = {self.algorithm.flags(hyper) for hyper in distinct}
        if len(flags) > 1:
            raise ValueError(
                "hyperparameters: options that select code differ between models; make one population each"
            )
        self.params = params
        self.flags = flags.pop() if flags else 0
        self.backend = resolve_backend(backend, params.device)
        self.step_count = 0
        # Model m has record m modulo their number.
        record_of = np.array(list(map(number.__getitem__, keys)), np.int64)
        self.records, self.record_of = distinct, np.tile(record_of, models // max(1, len(record_of)))
        self._record_index = torch.from_numpy(self.record_of).to(params.device)
        self._skipped: Tensor | None = None
        self._powers = power_table(params.device)
        held = next((tensor.dtype for tensor in state.values()), None) if state else None
        self._dtypes = (params.dtype, params.dtype, state_dtype or held or params.dtype, None)
        self._rows_of = RowTable(self.recipe, self._dtypes, distinct, self._powers)
        names = self.algorithm.state_names(distinct[0]) if distinct else ()
        self.layout = Layout(
            shape=params.shape, dtype=params.dtype, state_dtype=self._dtypes[2], device=params.device, names=names
        )
        fills = torch.tensor([self.algorithm.fill(hyper) for hyper in distinct], dtype=torch.float64)
        self._fill = fills.to(params.device, self._dtypes[2])[self._record_index].unsqueeze(1)
        if state is None:
            check_memory(params, self._dtypes[2], len(names))
            self.state = {name: self._fill.expand(params.shape).clone() for name in names}
        else:
            self.layout.check(params, state, {})
            self.state = {name: state[name] for name in names}
        if steps is not None and models:
            taken = checked_counts(steps, models, params.device)
            self.step_count = int(taken.max())
            self._skipped = None if bool((taken == self.step_count).all()) else self.step_count - taken
        self._tables = Tables()
        self._ahead, self._ahead_from = np.empty((0, 0, 0)), 1

    def __getstate__(self) -> dict[str, Any]:
        """What a copy, or a population that is read from a file, is made from: it goes on to the same bits."""
        return {
            "algorithm": self.algorithm.name,
            "hyperparameters": [self.records[k] for k in self.record_of],
            "params": self.params,
            "recipe": self.recipe.name,
            "backend": self.backend,
            "state_dtype": self.layout.state_dtype,
            "state": self.state,
            "step_count": self.step_count,
            "skipped": self._skipped,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        step_count, skipped = state.pop("step_count"), state.pop("skipped")
        vars(self).update(vars(type(self)(state.pop("algorithm"), state.pop("hyperparameters"), **state)))
        self.step_count, self._skipped = step_count, skipped

    @torch.no_grad()
    def restart(self, params: Tensor) -> None:
        """Begin again from other parameters, [models, n]: states and step count as they were at first."""
        self.check_tensors()
        check_restart(params, self.params)
        self.params.copy_(params)
        for state in self.state.values():
            state.copy_(self._fill)
        self.step_count, self._skipped = 0, None

    @property
    def steps(self) -> Tensor:
        """int64 [models]: the steps that each model has taken; one that skipped a step has taken fewer."""
        taken = torch.full((len(self.params),), self.step_count, dtype=torch.int64, device=self.params.device)
        return taken if self._skipped is None else taken - self._skipped

    @torch.no_grad()
    def step(self, grads: Tensor, *, grad_scale: PerModel | None = None, found_inf: PerModel | None = None) -> None:
        """One optimizer step of every model, in place.

        Args:
            grads: [models, n], the parameters' dtype, contiguous. Written only with ``grad_scale``.
            grad_scale: one number, or one per model or arm: gradients are unscaled first and written back.
            found_inf: likewise: nothing of a model is changed where it is 1, and its count of steps does not advance.
                The host waits for it.

        Raises:
            TypeError: for gradients, scales or flags that are no tensors or numbers.
            ValueError: if they do not match the parameters, or share memory with them or the states, or these were
                replaced by what does not fit.
        """
        check_tensor(grads, "grads", "convert them", written=grad_scale is not None)
        self.check_tensors(grads=grads)
        if grads.shape != self.params.shape or grads.dtype != self.params.dtype or not grads.is_contiguous():
            raise ValueError(
                f"grads of shape {tuple(grads.shape)} and {grads.dtype}: give a contiguous tensor like the parameters, "
                f"{tuple(self.params.shape)} and {self.params.dtype}"
            )
        models, device = len(self.params), self.params.device
        scales = None if grad_scale is None else checked_scales(grad_scale, models, device)
        skips = None if found_inf is None else checked_flags(found_inf, models, device)
        before = self.step_count, self._skipped
        self.step_count += 1
        if skips is not None:
            self._skipped = skips + (0 if self._skipped is None else self._skipped)
        if not self.params.numel():
            return
        self._tables.running = None
        try:
            self._launch(self._as_launched(grads, scales, skips))
        except BaseException:
            # An interrupt is raised when vector code has ended: then the step was taken.
            if not self._tables.ran:
                self.step_count, self._skipped = before
            raise

    def _launch(self, step: Step) -> None:
        if self.backend == "reference":
            by_reference(step)
            return
        # Autograd cannot see a kernel write: a backward pass through the old values must fail as it does in torch.
        written = [self.params, *self.state.values(), *([] if step.scales is None else [step.grads])]
        try:
            by_tables(step, self._tables) if self.backend == "simd" else by_kernel(step)
        finally:
            increment_version([tensor for tensor in written if not tensor.is_inference()])

    def _scalars(self) -> tuple[Tensor, np.ndarray, Tensor]:
        """Step numbers, the rows of host scalars, and which of them each model has."""
        device = self.params.device
        if self._skipped is None:
            steps = torch.full((1,), float(self.step_count), dtype=torch.float32, device=device)
            rows, row_of = self._rows(self.step_count), self._record_index
        else:
            taken = self.steps
            steps = taken.float()
            # The rows of every count that there is; a model that has never stepped skips this one too.
            counts, which = torch.unique(taken.clamp(min=1), return_inverse=True)
            rows = np.concatenate([self._rows_of.rows(count, 1)[0] for count in counts.tolist()])
            row_of = self._record_index + which * len(self.records)
        return steps, rows, row_of

    def _as_launched(self, grads: Tensor, scales: Tensor | None, skips: Tensor | None) -> Step:
        """The step as backends take it, with what differs between models."""
        (steps, rows, row_of), powers = self._powers.formed(self._scalars)
        return Step(
            recipe=self.recipe,
            flags=self.flags | (0 if scales is None else SCALED.value),
            dtypes=self._dtypes,
            params=self.params,
            grads=grads,
            states=self._slots(),
            rows=torch.from_numpy(rows).to(self.params.device, non_blocking=True),
            row_of=row_of,
            steps=steps,
            powers=powers,
            scales=scales,
            skips=skips,
        )

    def _rows(self, step: int) -> np.ndarray:
        """The scalars of all records at a step, of which those that follow are formed with it."""
        if not self._rows_of.constant:
            formed: np.ndarray = self._rows_of.rows(step, 1)[0]
            return formed
        place = step - self._ahead_from
        if not 0 <= place < len(self._ahead):
            place, self._ahead_from = 0, step
            self._ahead = self._rows_of.rows(step, max(1, _AHEAD // max(1, len(self.records))))
        found: np.ndarray = self._ahead[place]
        return found

    def _slots(self) -> list[Tensor | None]:
        slots = [self.state.get(state.name) for state in self.algorithm.states]
        return [*slots, *[None] * (3 - len(slots))]

    def check_tensors(self, **read: Tensor) -> None:
        """Refuse parameters and states that were replaced or resized to what the kernels would read otherwise.

        Args:
            read: what is read beside them, by name: it may not share their memory.

        Raises:
            TypeError, ValueError: the tensor is named.
        """
        self.layout.check(self.params, self.state, read)
