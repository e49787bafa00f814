"""The host scalars of a launch: one row of doubles per distinct (hyperparameters, step, first)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..algorithm import Recipe, Row
from ..rounding.powers import PowerTable
from .dtypes import Dtypes
from .numbers import Column, Places, columns_of, mapped, on_device, sent

_FEW = 64
"""Records up to which a device's rows are formed on the host and sent."""
_KEPT = 1 << 27
"""Bytes of scalars on a device that are kept for another run over the same steps."""
_CONSTANT = (bool, int, float, str, type(None), np.generic, np.ndarray)
"""What a field of the records together is, if nothing that happens elsewhere changes it."""

Key = tuple[Any, float, bool]
"""Hyperparameters, step number, and whether the states hold nothing yet."""


def host_rows(recipe: Recipe, dtypes: Dtypes, keys: Iterable[Key], powers: PowerTable) -> list[Row]:
    """The rows of these keys, in order.

    Args:
        recipe: whose scalars.
        dtypes: of the launch: float32 parameters with narrower states can have scalars of their own.
        keys: what the scalars depend on.
        powers: the device's tables of bias corrections.
    """
    row = recipe.row_for(dtypes)
    return [row(hyper, number, first, powers) for hyper, number, first in keys]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Host scalars, each column once for what it depends on.

    Attributes:
        depends: of each column, which of the others holds it; none where each is whole rows [steps, records, columns].
        by_step: float64 [steps, columns].
        by_model: float64 [columns, records].
        by_both: float64 [steps, columns, records].
    """

    depends: tuple[str, ...]
    by_step: Tensor
    by_model: Tensor
    by_both: Tensor


class RowTable:
    """The rows of many records over many steps: those of `host_rows`, bit for bit.

    All are formed at once, by the algorithm's own function on columns of numbers: elementwise double arithmetic is the
    same in numpy as in Python, and powers are `rounding.power`'s, once for each distinct number. A function of plain
    numbers only (it branches on one, or calls math) is called for every record and step.

    Args:
        recipe: whose scalars.
        dtypes: of the launch.
        records: hyperparameters, of one algorithm and with the same flags.
        powers: the device's tables of bias corrections.

    Attributes:
        constant: whether the rows of a step are the same whenever they are formed.
    """

    def __init__(self, recipe: Recipe, dtypes: Dtypes, records: Sequence[Any], powers: PowerTable) -> None:
        self._recipe = recipe
        self._dtypes = dtypes
        self._records = list(records)
        self._powers = powers
        self._kept: dict[Any, Any] = {}
        self._last: tuple[Any, Columns] | None = None
        self._changed: tuple[bool, ...] | None = None
        self._together = columns_of(self._records) if self._records else None
        if self._together is not None:
            try:
                self._entries(_numbers_from(2, 2), first=False)
            except (TypeError, ValueError):
                self._together = None
        # A record that holds a tensor is another one when that has changed.
        self.constant = all(map(_constant, self._records if self._together is None else [self._together]))

    @property
    def bytes_per_step(self) -> int:
        """Memory of one step's rows."""
        return 8 * len(self._records) * len(self._recipe.columns)

    def rows(self, first_step: int, steps: int) -> np.ndarray:
        """float64 [steps, records, columns], from step number ``first_step`` (counted from 1) on."""
        table = np.empty((steps, len(self._records), len(self._recipe.columns)))
        # Whether it is the first step is no number: where scalars know of it, that one is formed alone.
        alone = min(steps, 1) if first_step == 1 and self._first_matters else 0
        self._fill(table[:alone], first_step, first=True)
        self._fill(table[alone:], first_step + alone, first=False)
        return table

    def on(self, first_step: int, steps: int, device: torch.device, *, apart: bool) -> Columns:
        """The rows on a device, where kernels read them; those of the same steps once more are kept.

        Args:
            first_step: number of the first step, from 1.
            steps: how many.
            device: where the rows go.
            apart: whether each column is to be held once for what it depends on, where it can be formed so.
        """
        # Places in tables that were begun anew are others.
        key = first_step, steps, device, apart, self._powers.generation
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        self._last = None
        columns = self.columns_on(first_step, steps, device) if apart else None
        if columns is None:
            rows = self.tensor(first_step, steps, device)
            columns = Columns(depends=(), by_step=rows, by_model=rows, by_both=rows)
        if self.constant and max(columns.by_step.nbytes, columns.by_both.nbytes) <= _KEPT:
            self._last = key, columns
        return columns

    def tensor(self, first_step: int, steps: int, device: torch.device) -> Tensor:
        """`rows` on a device; those of many records are formed there, by the same operations on doubles."""
        if device.type == "cpu" or self._together is None or len(self._records) < _FEW:
            return sent(self.rows(first_step, steps), device)
        return self.formed_on(first_step, steps, device)

    def formed_on(self, first_step: int, steps: int, device: torch.device) -> Tensor:
        """`rows` by torch's operations on a device: a double's sum, product, quotient and root are rounded alike."""
        alone = min(steps, 1) if first_step == 1 and self._first_matters else 0
        parts = ((first_step, alone, True), (first_step + alone, steps - alone, False))
        every = range(len(self._recipe.columns))
        formed = [self._form(begin, count, first, device, every) for begin, count, first in parts if count]
        return torch.cat([torch.stack(columns, -1) for columns in formed])

    def _form(self, begin: int, count: int, first: bool, device: torch.device, chosen: Iterable[int]) -> list[Tensor]:
        """The chosen columns [count, records] of some steps; what depends on steps alone is formed on the host."""
        fields = self._kept.get(device)
        if fields is None:
            fields = mapped(self._together, lambda field: on_device(field, device))
            if self.constant:
                self._kept[device] = fields
        entries = self._entries(_numbers_from(begin, count), first, fields)
        columns = []
        for k in chosen:
            entry = on_device(entries[k], device)
            if isinstance(entry, Tensor):
                entry = entry.as_subclass(Tensor).to(device, torch.float64)
            else:
                entry = torch.full((), float(entry), dtype=torch.float64, device=device)
            columns.append(entry.expand(count, len(self._records)))
        return columns

    def _fill(self, table: np.ndarray, first_step: int, *, first: bool) -> None:
        numbers = _numbers_from(first_step, len(table))
        if not len(numbers):
            return
        if self._together is None:
            for t, number in enumerate(numbers.tolist()):
                keys = ((record, number, first) for record in self._records)
                table[t] = host_rows(self._recipe, self._dtypes, keys, self._powers)
            return
        for column, entry in enumerate(self._entries(numbers, first)):
            table[:, :, column] = entry

    def _entries(self, numbers: np.ndarray, first: bool, together: Any = None) -> Row:
        row: Callable[..., Row] = self._recipe.row_for(self._dtypes)
        step = numbers.reshape(-1, 1).view(Column)
        with np.errstate(all="ignore"):
            return row(together or self._together, step, first, Places(self._powers))

    def __len__(self) -> int:
        """How many records."""
        return len(self._records)

    def columns_on(self, first_step: int, steps: int, device: torch.device) -> Columns | None:
        """The columns of `rows` on a device, by what they depend on; None where they cannot be formed together.

        What depends on steps or on records alone comes from the host; the rest is formed there, by the same operations
        on doubles.

        Args:
            first_step: number of the first step, from 1.
            steps: how many.
            device: where the columns go.
        """
        if self._together is None:
            return None
        apart = first_step == 1 and self._first_matters
        parts = [(first_step, 1, True), (first_step + 1, steps - 1, False)] if apart else [(first_step, steps, False)]
        parts = [part for part in parts if part[1]]
        # Two records tell what depends on them, and are soon formed.
        two = mapped(self._together, lambda field: np.resize(field, 2).view(Column))
        formed = [self._entries(_numbers_from(begin, count), first, two) for begin, count, first in parts]
        changed = self._changed_by_first if apart else (False,) * len(formed[-1])
        depends = tuple(map(_dependence_of_parts, changed, *formed))
        of_steps = [
            np.concatenate([np.full(count, entries[k]) if np.ndim(entries[k]) == 0 else np.ravel(entries[k])
                            for entries, (_, count, _) in zip(formed, parts, strict=True)])
            for k, kind in enumerate(depends) if kind == "by_step"
        ]  # fmt: skip
        by_step = np.stack(of_steps, 1) if of_steps else np.empty((steps, 0))
        return Columns(
            depends=depends,
            by_step=sent(by_step, device),
            by_model=self._by_model(depends, device),
            by_both=self._by_both(depends, parts, device),
        )

    @property
    def _first_matters(self) -> bool:
        """Whether scalars know that a step is the first."""
        return any(self._changed_by_first)

    @property
    def _changed_by_first(self) -> tuple[bool, ...]:
        """Of each column, whether any record's scalar knows that a step is the first."""
        if self._changed is not None:
            return self._changed

        def columns(first: bool) -> Iterable[Any]:
            if self._together is not None:
                return self._entries(_numbers_from(2, 1), first)
            keys = ((record, 2.0, first) for record in self._records)
            return zip(*host_rows(self._recipe, self._dtypes, keys, self._powers), strict=True)

        changed = tuple(not np.array_equal(x, y) for x, y in zip(columns(True), columns(False), strict=True))
        if self.constant:
            self._changed = changed
        return changed

    def _by_model(self, depends: tuple[str, ...], device: torch.device) -> Tensor:
        """Columns [columns, records] that no step changes; kept, for every run wants them."""
        key = depends, device
        found: Tensor
        generation, found = self._kept.get(key, (-1, None))
        if generation != self._powers.generation:
            entries = self._entries(_numbers_from(2, 1), False)
            chosen = [np.asarray(entries[k]) for k, kind in enumerate(depends) if kind == "by_model"]
            found = sent(np.array(chosen, np.float64), device)
            if self.constant:
                self._kept[key] = self._powers.generation, found
        return found

    def _by_both(self, depends: tuple[str, ...], parts: list[tuple[int, int, bool]], device: torch.device) -> Tensor:
        """Columns [steps, columns, records]."""
        chosen = [k for k, kind in enumerate(depends) if kind == "by_both"]
        if not chosen:
            return torch.empty(0, dtype=torch.float64, device=device)
        formed = [self._form(begin, count, first, device, chosen) for begin, count, first in parts]
        if len(formed) == len(chosen) == 1:
            return formed[0][0].unsqueeze(1).contiguous()
        return torch.cat([torch.stack(columns, 1) for columns in formed])

    def columns(self, first_step: int, steps: int) -> list[np.ndarray]:
        """The columns of `rows` by what they depend on: [steps, 1], [1, records] or [steps, records].

        Args:
            first_step: number of the first step; step 1 stands alone.
            steps: how many.
        """
        assert first_step > 1 or steps == 1
        if self._together is None:
            return list(self.rows(first_step, steps).transpose(2, 0, 1))
        numbers = _numbers_from(first_step, steps)
        entries = [np.asarray(entry) for entry in self._entries(numbers, first_step == 1)]
        return [
            np.full((steps, 1), entry)
            if entry.ndim == 0
            else entry.reshape(-1 if entry.ndim == 2 else 1, entry.shape[-1])
            for entry in entries
        ]


def _constant(record: Any) -> bool:
    numbers = (part for field in vars(record).values() for part in (field if isinstance(field, tuple) else (field,)))
    return all(isinstance(number, _CONSTANT) for number in numbers)


def _dependence(entry: Any) -> str:
    """What an entry formed for two records and some steps [steps, 1] depends on."""
    shape = np.shape(entry)
    return "by_step" if not shape or shape[-1] == 1 else "by_model" if len(shape) == 1 else "by_both"


def _dependence_of_parts(changed: bool, *entries: Any) -> str:
    """The same of a column whose entries are formed apart for the first step, which ``changed`` it or not."""
    kinds = set(map(_dependence, entries))
    if kinds == {"by_step"} or (len(kinds) == 1 and not changed):
        return kinds.pop()
    return "by_both"


def _numbers_from(first_step: int, steps: int) -> np.ndarray:
    return np.arange(first_step, first_step + steps, dtype=np.float64)
