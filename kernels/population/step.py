"""Optimizer steps of many models at once: parameters [models, n], every model with hyperparameters of its own.

A distinct hyperparameter record is a row of a table of scalars, and every element finds its model's: a population is
one launch of the same arithmetic, and a model steps to the same bits as it would alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..algorithm import get_algorithm
from ..backends import simd
from ..backends.dispatch import launch_block, resolve_backend
from ..backends.tensor_ops import lanes, reference_update
from ..launch.checks import check_tensor
from ..launch.rows import RowTable
from ..launch.tables import Tables, table_of
from ..rounding.powers import power_table
from ..rounding.reference import Context
from .step_kernel import launch_population

_PIECE = 65536
"""Elements stepped together by the reference, so that its temporaries stay in cache."""


class Population:
    """The optimizer of a population of models.

    Args:
        algorithm: name in the registry, such as ``"adam"``.
        hyperparameters: one record per model, or one per arm (model m has record m modulo their number);
            options that select code (amsgrad, momentum or not, ...) must agree.
        params: float32, bfloat16 or float16 tensor [models, n], contiguous; updated in place.
        recipe: whose rounding; None for the algorithm's default.
        backend: ``auto``, ``triton``, ``simd``, ``interpreter`` or ``reference``.
        state_dtype: of the states; None for the parameters' dtype.

    Attributes:
        state: the state tensors by name, each [models, n].
        records: the distinct records; ``record_of`` [models] says which one a model has.
        step_count: steps taken.

    Raises:
        ValueError: for an unknown algorithm, recipe or backend, unfit records, or parameters of another shape.
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
    ) -> None:
        self.algorithm = get_algorithm(algorithm)
        self.recipe = self.algorithm.recipe(recipe)
        check_tensor(params, "params", "convert them")
        if params.dim() != 2 or not params.is_contiguous():
            raise ValueError(f"params of shape {tuple(params.shape)}: give a contiguous tensor [models, parameters]")
        models, given = len(params), len(hyperparameters)
        if models and (not given or models % given):
            raise ValueError(
                f"hyperparameters: {given} records for {models} models; give one per model, or one per arm in a number "
                "that divides the models"
            )
        distinct = list(dict.fromkeys(hyperparameters))
        flags = {self.algorithm.flags(hyper) for hyper in distinct}
        if len(flags) > 1:
            raise ValueError(
                "hyperparameters: options that select code differ between models; make one population each"
            )
        self.params = params
        self.flags = flags.pop() if flags else 0
        self.backend = resolve_backend(backend, params.device)
        self.step_count = 0
        number = {hyper: k for k, hyper in enumerate(distinct)}
        # Model m has record m modulo their number.
        record_of = np.array([number[hyper] for hyper in hyperparameters], np.int64)
        self.records, self.record_of = distinct, np.tile(record_of, models // max(1, given))
        self._row_of = self.record_of
        self._row_index = torch.from_numpy(self._row_of).to(params.device)
        self._powers = power_table(params.device)
        self._dtypes = (params.dtype, params.dtype, state_dtype or params.dtype, None)
        self._rows_of = RowTable(self.recipe, self._dtypes, distinct, self._powers)
        names = self.algorithm.state_names(distinct[0]) if distinct else ()
        fills = torch.tensor([self.algorithm.fill(hyper) for hyper in distinct], dtype=torch.float64)
        self._fill = fills.to(params.device, self._dtypes[2])[self._row_index].unsqueeze(1)
        self.state = {name: self._fill.expand(params.shape).clone() for name in names}
        self._tables = Tables()

    @torch.no_grad()
    def restart(self, params: Tensor) -> None:
        """Begin again from other parameters, [models, n]: states and step count as they were at first."""
        self.params.copy_(params)
        for state in self.state.values():
            state.copy_(self._fill)
        self.step_count = 0

    def _rows(self) -> Tensor:
        rows = torch.from_numpy(self._rows_of.rows(self.step_count, 1)[0])
        return rows.to(self.params.device, non_blocking=True)

    def _slots(self) -> list[Tensor | None]:
        return [self.state.get(state.name) for state in self.algorithm.states] + [None] * (
            3 - len(self.algorithm.states)
        )

    @torch.no_grad()
    def step(self, grads: Tensor) -> None:
        """One optimizer step of every model, in place.

        Args:
            grads: [models, n], the parameters' dtype, contiguous.

        Raises:
            ValueError: if the gradients do not match the parameters, or a state was replaced by one that does not fit.
        """
        check_tensor(grads, "grads", "convert them")
        if grads.shape != self.params.shape or grads.dtype != self.params.dtype or not grads.is_contiguous():
            raise ValueError(
                f"grads of shape {tuple(grads.shape)} and {grads.dtype}: give a contiguous tensor like the parameters, "
                f"{tuple(self.params.shape)} and {self.params.dtype}"
            )
        self._check_states()
        self.step_count += 1
        if not self.params.numel():
            return
        if self.backend == "reference":
            self._step_reference(grads)
        elif self.backend == "simd":
            self._step_tables(grads)
        else:
            self._step_kernel(grads)

    def _check_states(self) -> None:
        """Refuse a state that was replaced by one that the kernels would read otherwise than it lies."""
        expected = self._dtypes[2]
        for name, state in self.state.items():
            check_tensor(state, f"state {name!r}", "convert it")
            if state.shape != self.params.shape or state.dtype != expected or not state.is_contiguous():
                raise ValueError(
                    f"state {name!r} of shape {tuple(state.shape)} and {state.dtype}: give a contiguous one of shape "
                    f"{tuple(self.params.shape)} and {expected}, or make the population with state_dtype="
                )

    def _step_reference(self, grads: Tensor) -> None:
        models, width = self.params.shape
        rows = self._rows()[self._row_index]
        step = torch.tensor(float(self.step_count), dtype=torch.float32, device=self.params.device)
        element = torch.arange(width, device=self.params.device)
        slots = self._slots()
        # Rows whose width is a multiple of 4 are aligned as the first is; others take the unaligned path anyway.
        lane = lanes([t[0] for t in (self.params, grads, *slots) if t is not None], element)
        stride = max(1, _PIECE // width)
        for begin in range(0, models, stride):
            piece = slice(begin, begin + stride)
            row = rows[piece].t().unsqueeze(-1)
            dtype = self.params.dtype
            context = Context(
                row=row,
                step=step,
                powers=self._powers.values,
                lane=lane,
                flags=self.flags,
                dtype=dtype,
                grad=dtype,
                state=dtype,
            )
            states = [None if slot is None else slot[piece] for slot in slots]
            reference_update(self.recipe, context, self.params[piece], grads[piece], states)

    def _step_kernel(self, grads: Tensor) -> None:
        launch_population(
            self.recipe,
            self.flags,
            dtypes=self._dtypes,
            params=self.params,
            grads=grads,
            states=self._slots(),
            rows=self._rows(),
            row_of=self._row_index.int(),
            step=torch.full((1,), float(self.step_count), dtype=torch.float32, device=self.params.device),
            powers=self._powers.values,
        )

    def _step_tables(self, grads: Tensor) -> None:
        """A model is a tensor of the vector backend's address table."""
        models, width = self.params.shape
        slots = self._slots()
        columns = [self.params, grads, *(slot for slot in slots if slot is not None)]
        offsets = np.arange(models, dtype=np.int64) * width
        addresses = [tensor.data_ptr() + offsets * tensor.element_size() for tensor in columns]
        host = table_of(width, self._row_of, addresses)
        self._tables.update(host, self.params.device, launch_block(self.backend, host))
        simd.launch_tables(
            self._tables,
            self.recipe,
            self.flags,
            states=sum(1 << k for k, slot in enumerate(slots) if slot is not None),
            dtypes=self._dtypes,
            rows=self._rows(),
            steps=torch.full((models,), float(self.step_count), dtype=torch.float32, device=self.params.device),
            powers=self._powers.values,
            grad_scale=None,
            found_inf=None,
        )
