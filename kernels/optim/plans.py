"""What an optimizer keeps between steps: its buckets, and how it notices that they no longer hold."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..algorithm import Row
from ..launch.buckets import Assembly
from ..launch.tables import Mirror, Tables

_SHAPE = operator.attrgetter("shape")
_DTYPE = operator.attrgetter("dtype")


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.device, tensor.shape, tensor.stride()


class LayoutChanged(Exception):
    """A tensor of a bucket got other memory of another layout (``tensor.data = other``): make the buckets anew."""


class WatchedTables(Tables):
    """Tables that look at the tensors again when a size or an address other than a gradient's is not what it was."""

    watched: list[Tensor]
    layouts: list[Any]

    def watch(self, tensors: list[Tensor]) -> None:
        """Expect these tensors to keep their layouts."""
        self.watched, self.layouts = tensors, list(map(_layout, tensors))

    def check(self) -> None:
        """Raises LayoutChanged if a layout is not what it was."""
        if list(map(_layout, self.watched)) != self.layouts:
            raise LayoutChanged

    def update(self, host: np.ndarray, device: torch.device, block: int) -> None:
        """As `Tables.update`, of the same tensors."""
        known = self.addresses.host
        # Sizes, parameters, states, copies; not row numbers and gradients. Bytes compare quickest for a single tensor.
        if known is not None and not all(known[k].tobytes() == host[k].tobytes() for k in (0, 2, *range(4, len(host)))):
            self.check()
        super().update(host, device, block)


@dataclass(kw_only=True, eq=False)
class Plan:
    """A bucket and what is kept for it between steps.

    ``steps`` holds the step number of every tensor; each ``state["step"]`` is a view of one of its elements, so that
    all of them advance in one operation. ``device_steps`` is the same tensor where the rule reads it, else zeros.
    ``owners`` are the model's parameters, ``positions`` their numbers among all of them (None where it has all).
    """

    assembly: Assembly
    owners: list[Tensor]
    positions: list[int] | None
    groups: np.ndarray
    steps: Tensor
    device_steps: Tensor
    first: np.ndarray
    any_first: bool
    tables: WatchedTables
    rows: Mirror = field(default_factory=Mirror)
    sent_rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        distinct, self._row_of_group = np.unique(self.groups, return_inverse=True)
        self.distinct_groups: list[int] = distinct.tolist()
        self.flags = self.assembly.flags
        self.bucket = self.assembly.bucket

    def rows_of(self, numbers: np.ndarray | None) -> tuple[list[tuple[int, float, bool]], np.ndarray]:
        """The distinct (group, step, first) among the tensors, and which of them each tensor has.

        Args:
            numbers: each tensor's step, or None where no host scalar depends on it.
        """
        if numbers is None or len(numbers) == 1 or (numbers == numbers[0]).all():
            number = 0.0 if numbers is None else float(numbers[0])
            if not self.any_first or self.first.all():
                return [(group, number, self.any_first) for group in self.distinct_groups], self._row_of_group
        if not self.any_first:
            self.first[:] = False
        steps = [0.0] * len(self.groups) if numbers is None else numbers.tolist()
        keys: dict[tuple[int, float, bool], int] = {}
        members = zip(self.groups.tolist(), steps, self.first.tolist(), strict=True)
        row_of = np.array([keys.setdefault(key, len(keys)) for key in members])
        return list(keys), row_of


@dataclass(kw_only=True)
class Known:
    """What the plans were made from: they hold as long as all of it is as it was.

    Attributes:
        params: of all groups, in order; ``lengths`` are the groups' sizes.
        grads: of ``params``, None where there is none; ``absent`` says where.
        layouts: shapes, strides and dtypes of the gradients that are there.
        entries: the values of ``Optimizer.state``; ``values`` are theirs.
        watched: tables whose tensors no launch looks at: stepped by the reference, or through stand-ins.
        hypers: one record a group.
    """

    params: list[Tensor]
    lengths: list[int]
    grads: list[Tensor | None]
    absent: list[bool]
    layouts: tuple[list[Any], ...]
    entries: list[dict[str, Any]]
    values: list[Any]
    watched: list[WatchedTables]
    hypers: list[Any]


def grad_layouts(grads: list[Tensor]) -> tuple[list[Any], ...]:
    """Shapes, strides and dtypes.

    Raises:
        RuntimeError: for a sparse gradient, which has no strides.
    """
    return list(map(_SHAPE, grads)), list(map(Tensor.stride, grads)), list(map(_DTYPE, grads))
