"""A plan: one launch's tensors, what is kept for it between steps, and how it takes a step."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .. import backends
from ..algorithm import Algorithm, Recipe
from ..backends.dispatch import carries, launch_block
from ..launch.buckets import Assembly
from ..launch.carried import Carried, carried
from ..launch.checks import bytes_spanned
from ..launch.rows import host_rows
from ..launch.tables import GRAD, Mirror, Tables, address_table, table_of
from ..rounding.powers import power_table
from .counters import Counters
from .looks import looks_at
from .shards import is_dtensor


@dataclass(kw_only=True, eq=False)
class Plan:
    """A bucket and what is kept for it between steps.

    Attributes:
        algorithm, recipe: what is computed.
        backend: what executes it, resolved.
        assembly: the bucket, and where its tensors come from.
        owners: the model's parameters; ``positions`` are their numbers among all of them (None where it has all).
        groups: number of each tensor's parameter group.
        counters: the tensors' steps, each a ``state["step"]``; None for an algorithm without them.
        first: which tensors are before their first update; ``any_first`` says whether there is one.
        taken: whether it has taken a step since somebody set this to False.
        native: what looks at many tensors at once, see `native`; None for torch's methods.
        rows, tables: what the device reads.
    """

    algorithm: Algorithm
    recipe: Recipe
    backend: str
    assembly: Assembly
    owners: list[Tensor]
    positions: list[int] | None
    groups: np.ndarray
    counters: Counters | None
    first: np.ndarray
    any_first: bool
    taken: bool = False
    native: ModuleType | None = None
    tables: Tables = field(default_factory=Tables)
    rows: Mirror = field(default_factory=Mirror)

    def __post_init__(self) -> None:
        distinct, self._row_of_group = np.unique(self.groups, return_inverse=True)
        self.distinct_groups: list[int] = distinct.tolist()
        self.flags = self.assembly.flags
        self.bucket = bucket = self.assembly.bucket
        self.device = bucket.device
        self._powers = power_table(self.device)
        # Those that the places in its host scalars are places in, and those that a capture of somebody's reads.
        self._power_values = self._powers.values
        self._captured_values: Tensor | None = None
        # Where the rule reads no step, the kernel is given zeros.
        self._reads_steps = self.recipe.device_step
        self._no_steps = torch.zeros(0 if self._reads_steps else len(self.owners), device=self.device)
        self._rows_count = self.algorithm.rows_count(self.recipe)
        self._sent_for: Any = None
        self._carries = self._rows_count and carries(self.backend)
        self._written = bucket.params if bucket.copies is None else bucket.copies
        # The version that autograd looks at is a DTensor's own.
        self._written = [*self._written, *filter(is_dtensor, self.owners)]
        self._by_address = self.backend != "reference"
        self.copies_around = bool(self.assembly.stand_ins or self.assembly.grad_stand_ins)
        self._look_around()
        self.is_plain = self._by_address and not self.copies_around

    # -- before a step -----------------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Remember how its tensors lie: a step looks at those that stand-ins are copied from, not at the stand-ins."""
        bucket, assembly = self.bucket, self.assembly
        sources = {id(dense): source for source, dense in assembly.stand_ins}
        #: All but the gradients, in the order of the address table.
        fixed = [*bucket.params, *chain.from_iterable(filter(None, bucket.states)), *(bucket.copies or ())]
        # A stand-in is ours and stays where it is.
        self._dense = {place: tensor.data_ptr() for place, tensor in enumerate(fixed) if id(tensor) in sources}
        self._grad_dense = {place: dense.data_ptr() for place, dense in assembly.grad_stand_ins.items()}
        counters = self.counters.tensors if self.counters is not None else []
        looked_at = [*(sources.get(id(tensor), tensor) for tensor in fixed), *counters]
        self._fixed = len(fixed)
        self._written_to = looked_at[: len(fixed)]
        self.moved = False
        self._looks = looks_at(looked_at, written=True, native=self.native)
        self._grad_looks = looks_at(assembly.sources, native=self.native)
        self._looked_at = self._looks.arrange(looked_at)
        self._addresses = self._looks.addresses()

    def holds(self) -> bool:
        """Whether its tensors are as they were; tensors that moved are taken over where their layout is the same.

        A tensor may keep its address and be resized, read its elements negated, or have its memory shrunk under it.
        """
        grads = self._grad_looks
        self.moved = False
        if not self._looks.hold(self._looked_at) or not grads.hold(grads.arrange(self.assembly.sources)):
            return False
        if self._looks.moved:
            before, self._addresses = self._addresses, self._looks.addresses()
            if (before[self._fixed :] != self._addresses[self._fixed :]).any():
                # Which counters are elements of one chunk has to be asked again.
                return False
            self.moved = True
            self.tables.current = False
        if grads.moved and self.tables.current and self._by_address:
            self.tables.addresses.send_row(GRAD, _with(grads.addresses(), self._grad_dense))
        return True

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the tensors that it writes begin, and how many bytes each spans, as the last look found them."""
        return self._addresses[: self._fixed], self._spans

    @functools.cached_property
    def _spans(self) -> np.ndarray:
        return np.array(list(map(bytes_spanned, self._written_to)), np.int64)

    def _bring_tables(self) -> None:
        """The address table as the device has it, up to the bucket's tensors."""
        bucket, known = self.bucket, self.tables.addresses.host
        if known is None or known.shape[1] != len(bucket.params):
            host = address_table(bucket.columns(), bucket.row_of)
        else:
            fixed = _with(self._addresses[: self._fixed], self._dense)
            params, *others = fixed.reshape(-1, len(bucket.params))
            columns = [params, _with(self._grad_looks.addresses(), self._grad_dense), *others]
            host = table_of(np.fromiter(map(Tensor.numel, bucket.params), np.int64), bucket.row_of, columns)
        self.tables.update(host, self.device, launch_block(self.backend, host))
        self.tables.current = True

    # -- a step ------------------------------------------------------------------------------------------------------

    def step(self, hypers: list[Any], grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """One optimizer step of the bucket, in place.

        Args:
            hypers: one record a group; the same list as long as none changed.
            grad_scale: as in `kernels.backends.step_bucket`.
            found_inf: likewise.
        """
        if self.copies_around:
            self.assembly.load()
        self._advance(1)
        self.tables.running = None
        try:
            rows = self.bring_up(hypers)
            backends.step_bucket(
                self.recipe,
                self.flags,
                self.bucket,
                rows=rows,
                steps=self._device_steps(),
                powers=self._power_values,
                grad_scale=grad_scale,
                found_inf=found_inf,
                backend=self.backend,
                tables=self.tables,
            )
        except BaseException:
            if self.tables.ran:
                # An interrupt is raised when vector code has ended: this step was taken.
                self._store(grad_scale, found_inf)
            else:
                self._advance(-1)
            raise
        self._store(grad_scale, found_inf)

    def _store(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """What follows a launch."""
        self.taken = True
        if self.copies_around:
            self.assembly.store(scaled=grad_scale is not None)
        self._finish()
        if found_inf is not None and self.counters is not None:
            self.counters.skip(found_inf)

    def _finish(self) -> None:
        # Autograd cannot see a kernel write: a backward pass through the old values must fail as it does in torch.
        increment_version(self._written)
        self.any_first = False
        self.assembly.release()

    def bring_up(self, hypers: list[Any]) -> Tensor | Carried:
        """Send what a launch reads and has changed: host scalars, which are returned, and addresses."""
        rows = self.send_rows(hypers)
        if self._by_address and not self.tables.current:
            self._bring_tables()
        if self._reads_steps and self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            # A replay reads them where they are, as long as the graph lives.
            self._captured_values = self._power_values
        return rows

    def refresh(self, hypers: list[Any]) -> None:
        """Send changed host scalars for launches that were captured; a RuntimeError where those cannot read them."""
        self.send_rows(hypers)
        if self._captured_values is not None and self._captured_values is not self._power_values:
            raise RuntimeError(
                "refresh: the tables of bias corrections have moved since the step was captured, after very many "
                "betas; capture it again"
            )

    # -- as a graph ----------------------------------------------------------------------------------------------------

    @property
    def is_capturable(self) -> bool:
        """Whether a launch needs nothing from the host that is another at every step."""
        on_host = self.counters is not None and self.counters.on_host
        return not self._rows_count and not (self._reads_steps and on_host)

    @property
    def copies_captured(self) -> int:
        """Copies to the device that were recorded into somebody's graph."""
        return self.rows.captured + self.tables.addresses.captured

    def launched_with(self) -> list[Tensor]:
        """The tensors whose addresses a launch is given, or whose counts it advances."""
        given = [self.tables.addresses.device, self.tables.chunks, self.rows.device, self._power_values]
        counters = [] if self.counters is None else self.counters.on_device_alone()
        return [tensor for tensor in (*given, *counters) if tensor is not None]

    def replayed(self) -> None:
        """What the host does in a step whose launch a graph has made."""
        if self.counters is not None and self.counters.on_host:
            self.counters.advance(1)
        self._finish()

    # -- what a launch needs from the host -----------------------------------------------------------------------------

    def _advance(self, by: int) -> None:
        if self.counters is not None:
            self.counters.advance(by)

    def _device_steps(self) -> Tensor:
        if not self._reads_steps:
            return self._no_steps
        assert self.counters is not None
        return self.counters.on_device(self.device)

    def send_rows(self, hypers: list[Any]) -> Tensor | Carried:
        """The host scalars of this step, on the device; few that change at every step go with the launch instead."""
        kept = self.rows.device
        if self._sent_for is hypers and not self._rows_count and kept is not None:
            return kept
        numbers: np.ndarray | None = None
        if self._rows_count:
            if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    f"CUDA graph capture of {self.algorithm.title} with recipe {self.recipe.name!r}, whose step is "
                    "counted on the host; use recipe='fused', or capturable=True where torch has it"
                )
            numbers = self.counters.numbers() if self.counters is not None else None
        keys, row_of = self._rows_of(numbers)
        if row_of is not self.bucket.row_of:
            self.bucket.row_of = row_of
            self.tables.current = False
        named = [(hypers[k], n, first) for k, n, first in keys]
        given = (self.recipe, self.bucket.dtypes, named, self._powers)
        if self._reads_steps:
            rows, self._power_values = self._powers.formed(functools.partial(host_rows, *given))
        else:
            rows = host_rows(*given)
        going_along = carried(rows) if self._carries else None
        if going_along is not None:
            return going_along
        if self._rows_count and self.backend == "simd":
            # Vector code reads them where they are.
            return torch.from_numpy(np.array(rows, np.float64))
        sent = self.rows.send(np.array(rows, np.float64), self.device)
        # While a tensor is before its first update the next rows differ for another reason than hyperparameters.
        self._sent_for = None if self.any_first else hypers
        return sent

    def _rows_of(self, numbers: np.ndarray | None) -> tuple[list[tuple[int, float, bool]], np.ndarray]:
        """The distinct (group, step, first) among the tensors, and which of them each tensor has.

        Args:
            numbers: each tensor's step, or None where no host scalar depends on it.
        """
        if numbers is None or len(numbers) == 1 or (numbers == numbers[0]).all():
            number = 0.0 if numbers is None else float(numbers.item(0))
            if not self.any_first or self.first.all():
                return [(group, number, self.any_first) for group in self.distinct_groups], self._row_of_group
        if not self.any_first:
            self.first[:] = False
        steps = [0.0] * len(self.groups) if numbers is None else numbers.tolist()
        keys: dict[tuple[int, float, bool], int] = {}
        members = zip(self.groups.tolist(), steps, self.first.tolist(), strict=True)
        row_of = np.array([keys.setdefault(key, len(keys)) for key in members])
        return list(keys), row_of


def _with(addresses: np.ndarray, dense: dict[int, int]) -> np.ndarray:
    """Addresses, with those of stand-ins in their places."""
    for place, address in dense.items():
        addresses[place] = address
    return addresses
