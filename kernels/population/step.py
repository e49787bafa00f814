"""Optimizer steps of many models at once: parameters [models, n], every model with hyperparameters of its own.

A distinct hyperparameter record is a row of a table of scalars, and every element finds its model's: a population is
one launch of the same arithmetic, and a model steps to the same bits as it would alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..algorithm import get_algorithm
from ..backends import simd
from ..backends.dispatch import launch_block, resolve_backend
from ..backends.tensor_ops import lanes, reference_update
from ..launch.checks import check_tensor
from ..launch.rows import RowTable
from ..launch.tables import Tables, table_of
from ..rounding.flags import SCALED
from ..rounding.powers import power_table
from ..rounding.reference import Context
from .checks import check_restart, checked_counts, checked_records, per_model
from .step_kernel import launch_population

PerModel = float | Sequence[float] | Tensor
"""One number, or one per model, or one per arm in a number that divides the models."""

_PIECE = 65536
"""Elements stepped together by the reference, so that its temporaries stay in cache."""

_AHEAD = 512
"""Rows of scalars formed at once: a step of 64 models of 2,410 parameters takes 89 µs so, and 187 without (Zen 5)."""


@dataclass(frozen=True, kw_only=True)
class _Scalars:
    """What a step reads besides tensors.

    Attributes:
        rows: float64 [rows, columns], on the device.
        row_of: int64 [models].
        steps: float32 [models], or [1] where all have taken as many.
        scales: float32 [models], what gradients are divided by; None where they are not.
        skips: bool [models]; None where no model skips.
    """

    rows: Tensor
    row_of: Tensor
    steps: Tensor
    scales: Tensor | None
    skips: Tensor | None


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
        models = len(params)
        if models or hyperparameters not in ([], ()):
            hyperparameters = checked_records(algorithm, hyperparameters, models, finite=False)
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
        self.records, self.record_of = distinct, np.tile(record_of, models // max(1, len(record_of)))
        self._record_index = torch.from_numpy(self.record_of).to(params.device)
        self._skipped: Tensor | None = None
        self._powers = power_table(params.device)
        held = next((tensor.dtype for tensor in state.values()), None) if state else None
        self._dtypes = (params.dtype, params.dtype, state_dtype or held or params.dtype, None)
        self._rows_of = RowTable(self.recipe, self._dtypes, distinct, self._powers)
        names = self.algorithm.state_names(distinct[0]) if distinct else ()
        fills = torch.tensor([self.algorithm.fill(hyper) for hyper in distinct], dtype=torch.float64)
        self._fill = fills.to(params.device, self._dtypes[2])[self._record_index].unsqueeze(1)
        if state is None:
            self.state = {name: self._fill.expand(params.shape).clone() for name in names}
        elif set(state) != set(names):
            raise ValueError(f"state: {sorted(state)} given, these hyperparameters keep {sorted(names)}; give those")
        else:
            self.state = {name: state[name] for name in names}
            self._check_states()
        if steps is not None and models:
            taken = checked_counts(steps, models, params.device)
            self.step_count = int(taken.max())
            self._skipped = None if bool((taken == self.step_count).all()) else self.step_count - taken
        self._tables = Tables()
        self._ahead, self._ahead_from = np.empty((0, 0, 0)), 1

    @torch.no_grad()
    def restart(self, params: Tensor) -> None:
        """Begin again from other parameters, [models, n]: states and step count as they were at first."""
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
            ValueError: if they do not match the parameters, or a state was replaced by one that does not fit.
        """
        check_tensor(self.params, "params", "convert them", written=True)
        check_tensor(grads, "grads", "convert them", written=grad_scale is not None)
        if grads.shape != self.params.shape or grads.dtype != self.params.dtype or not grads.is_contiguous():
            raise ValueError(
                f"grads of shape {tuple(grads.shape)} and {grads.dtype}: give a contiguous tensor like the parameters, "
                f"{tuple(self.params.shape)} and {self.params.dtype}"
            )
        self._check_states()
        models, device = len(self.params), self.params.device
        scales = None if grad_scale is None else per_model("grad_scale", grad_scale, models, device)
        skips = None if found_inf is None else per_model("found_inf", found_inf, models, device) == 1
        self.step_count += 1
        if skips is not None and bool(skips.any()):
            self._skipped = skips + (0 if self._skipped is None else self._skipped)
        else:
            skips = None
        if not self.params.numel():
            return
        scalars = self._scalars(scales, skips)
        if self.backend == "reference":
            self._step_reference(grads, scalars)
            return
        (self._step_tables if self.backend == "simd" else self._step_kernel)(grads, scalars)
        # Autograd cannot see a kernel write: a backward pass through the old values must fail as it does in torch.
        written = [self.params, *self.state.values(), *([] if scales is None else [grads])]
        increment_version([tensor for tensor in written if not tensor.is_inference()])

    def _scalars(self, scales: Tensor | None, skips: Tensor | None) -> _Scalars:
        """What differs between models at this step."""
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
        sent = torch.from_numpy(rows).to(device, non_blocking=True)
        return _Scalars(rows=sent, row_of=row_of, steps=steps, scales=scales, skips=skips)

    def _rows(self, step: int) -> np.ndarray:
        """The scalars of all records at a step, of which those that follow are formed with it."""
        place = step - self._ahead_from
        if not 0 <= place < len(self._ahead):
            place, self._ahead_from = 0, step
            self._ahead = self._rows_of.rows(step, max(1, _AHEAD // max(1, len(self.records))))
        found: np.ndarray = self._ahead[place]
        return found

    def _slots(self) -> list[Tensor | None]:
        slots = [self.state.get(state.name) for state in self.algorithm.states]
        return [*slots, *[None] * (3 - len(slots))]

    def _check_states(self) -> None:
        """Refuse a state that was replaced by one that the kernels would read otherwise than it lies."""
        expected = self._dtypes[2]
        for name, state in self.state.items():
            check_tensor(state, f"state {name!r}", "convert it", written=True)
            if state.shape != self.params.shape or state.dtype != expected or not state.is_contiguous():
                raise ValueError(
                    f"state {name!r} of shape {tuple(state.shape)} and {state.dtype}: give a contiguous one of shape "
                    f"{tuple(self.params.shape)} and {expected}, or make the population with state_dtype="
                )

    def _step_reference(self, grads: Tensor, scalars: _Scalars) -> None:
        models, width = self.params.shape
        device = self.params.device
        slots = self._slots()
        # Rows whose width is a multiple of 4 are aligned as the first is; others take the unaligned path anyway.
        lane = lanes([t[0] for t in (self.params, grads, *slots) if t is not None], torch.arange(width, device=device))
        going = torch.arange(models, device=device) if scalars.skips is None else (~scalars.skips).nonzero().flatten()
        dtype = self.params.dtype
        tensors = [self.params, grads, *slots]
        for chosen in torch.split(going, max(1, _PIECE // width)):
            context = Context(
                row=scalars.rows[scalars.row_of[chosen]].t().unsqueeze(-1),
                step=scalars.steps if len(scalars.steps) == 1 else scalars.steps[chosen].unsqueeze(-1),
                powers=self._powers.values,
                lane=lane,
                flags=self.flags | (0 if scalars.scales is None else SCALED.value),
                dtype=dtype,
                grad=dtype,
                state=dtype,
            )
            scale = None if scalars.scales is None else scalars.scales[chosen].unsqueeze(-1)
            p, g, *states = (None if tensor is None else tensor[chosen] for tensor in tensors)
            assert p is not None and g is not None
            reference_update(self.recipe, context, p, g, states, scale)
            for tensor, values in zip(tensors, [p, g, *states], strict=True):
                if tensor is not None and values is not None and (tensor is not grads or scale is not None):
                    tensor[chosen] = values

    def _step_kernel(self, grads: Tensor, scalars: _Scalars) -> None:
        row_of = scalars.row_of if scalars.skips is None else torch.where(scalars.skips, -1, scalars.row_of)
        launch_population(
            self.recipe,
            self.flags | (0 if scalars.scales is None else SCALED.value),
            dtypes=self._dtypes,
            params=self.params,
            grads=grads,
            states=self._slots(),
            rows=scalars.rows,
            row_of=row_of.int(),
            steps=scalars.steps,
            powers=self._powers.values,
            grad_scale=scalars.scales,
            skips=scalars.skips is not None,
        )

    def _step_tables(self, grads: Tensor, scalars: _Scalars) -> None:
        """A model is a tensor of the vector backend's address table; one that skips is an empty one."""
        models, width = self.params.shape
        slots = self._slots()
        columns = [self.params, grads, *(slot for slot in slots if slot is not None)]
        offsets = np.arange(models, dtype=np.int64) * width
        addresses = [tensor.data_ptr() + offsets * tensor.element_size() for tensor in columns]
        widths = width if scalars.skips is None else np.where(scalars.skips.numpy(), 0, width)
        host = table_of(widths, scalars.row_of.numpy(), addresses)
        self._tables.update(host, self.params.device, launch_block(self.backend, host))
        simd.launch_tables(
            self._tables,
            self.recipe,
            self.flags | (0 if scalars.scales is None else SCALED.value),
            states=sum(1 << k for k, slot in enumerate(slots) if slot is not None),
            dtypes=self._dtypes,
            rows=scalars.rows,
            steps=scalars.steps.expand(models).contiguous(),
            powers=self._powers.values,
            grad_scale=scalars.scales,
            found_inf=None,
            lines=self.params.dtype,
        )
