"""Numbers of many records or steps in the place of one: what an algorithm's function of scalars is called with.

On the host they are numpy's, on a device torch's. Sums, products, quotients and roots of doubles are rounded alike
there; powers are `rounding.power`'s, taken on the host once for each distinct number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..rounding.power import power_grid
from ..rounding.powers import PowerTable


class Column(np.ndarray):
    """A hyperparameter of many records, or step numbers [steps, 1]; powers are `power`'s, one per distinct pair."""

    def __pow__(self, exponent: Any, modulo: Any = None) -> Column:
        values, inverse = np.unique(self, return_inverse=True)
        raised = power_grid(values, np.asarray(exponent).reshape(-1))
        return raised[:, inverse.reshape(-1)].view(Column)

    def __rpow__(self, base: Any, modulo: Any = None) -> Column:
        raised = power_grid(np.array([base], np.float64), np.asarray(self).reshape(-1))
        return raised.reshape(self.shape).view(Column)

    def root(self) -> Column:
        """Correctly rounded."""
        roots: Column = np.sqrt(np.asarray(self)).view(Column)
        return roots


def sent(array: np.ndarray, device: torch.device) -> Tensor:
    """An array of the host on a device. Nobody waits: memory that is not pinned has been read when the call returns."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


class DeviceColumn(Tensor):
    """The same on a device, where a column of the host that it meets is sent.

    One that came from the host knows its numbers; those of others the host waits for.
    """

    _host: Column | None = None

    def __pow__(self, exponent: Any) -> Any:
        return on_device(self._numbers() ** _numbers(exponent), self.device)

    def __rpow__(self, base: Any) -> Any:
        return on_device(base ** self._numbers(), self.device)

    def root(self) -> Any:
        """Correctly rounded, as not every root of torch's is."""
        return on_device(self._numbers().root(), self.device)

    def __add__(self, other: Any) -> Any:
        return super().__add__(on_device(other, self.device))

    def __radd__(self, other: Any) -> Any:
        return super().__radd__(on_device(other, self.device))

    def __sub__(self, other: Any) -> Any:
        return super().__sub__(on_device(other, self.device))

    def __rsub__(self, other: Any) -> Any:
        return super().__rsub__(on_device(other, self.device))

    def __mul__(self, other: Any) -> Any:
        return super().__mul__(on_device(other, self.device))

    def __rmul__(self, other: Any) -> Any:
        return super().__rmul__(on_device(other, self.device))

    # torch multiplies by a reciprocal where one operand of a quotient is a number, which rounds twice.
    def __truediv__(self, other: Any) -> Any:
        return torch.div(self, self._like(other))

    def __rtruediv__(self, other: Any) -> Any:
        return torch.div(self._like(other), self)

    def _like(self, other: Any) -> Any:
        other = on_device(other, self.device)
        return other if isinstance(other, Tensor) else self.new_full((1,), other)

    def _numbers(self) -> Column:
        return self.as_subclass(Tensor).numpy(force=True).view(Column) if self._host is None else self._host


def _numbers(value: Any) -> Any:
    return value._numbers() if isinstance(value, DeviceColumn) else value


def on_device(value: Any, device: torch.device) -> Any:
    """A column of numbers on a device; anything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    column = sent(value, device).as_subclass(DeviceColumn)
    column._host = value.view(Column)
    return column


def mapped(together: Any, change: Callable[[np.ndarray], Any]) -> Any:
    """A record of columns with every column changed; plain numbers stay."""

    def of(field: Any) -> Any:
        if isinstance(field, tuple):
            return tuple(map(of, field))
        return change(field) if isinstance(field, np.ndarray) else field

    return SimpleNamespace(**{name: of(field) for name, field in vars(together).items()})


class Places:
    """`PowerTable` for a column of betas: the places of each."""

    def __init__(self, powers: PowerTable) -> None:
        self.place = _of_each(powers.place)
        self.place_double = _of_each(powers.place_double)
        self.place_double_root = _of_each(powers.place_double_root)


def _of_each(place: Callable[[float], tuple[float, float]]) -> Callable[[Any], tuple[Any, Any]]:
    def of(betas: Any) -> tuple[Any, Any]:
        if isinstance(betas, DeviceColumn):
            offset, length = of(betas._numbers())
            return on_device(offset, betas.device), on_device(length, betas.device)
        if not isinstance(betas, Column):
            return place(betas)
        values, inverse = np.unique(betas, return_inverse=True)
        offset, length = np.array([place(value) for value in values.tolist()], np.float64).T
        return offset[inverse], length[inverse]

    return of


def columns_of(records: Sequence[Any]) -> Any:
    """A record whose numbers are columns; numbers that agree stay numbers. None where other fields differ."""
    fields: dict[str, Any] = {}
    for name in vars(records[0]):
        values = [getattr(record, name) for record in records]
        if isinstance(values[0], tuple):
            fields[name] = tuple(_column(list(column)) for column in zip(*values, strict=True))
        else:
            fields[name] = _column(values)
        if any(column is None for column in (fields[name] if isinstance(fields[name], tuple) else [fields[name]])):
            return None
    return SimpleNamespace(**fields)


def _column(values: list[Any]) -> Any:
    # Tensors change, and numbers narrower than a double are reckoned with as such alone, as double in a column.
    if any(not isinstance(value, int | float) and isinstance(value, Tensor | Real) for value in values):
        return None
    if all(value == values[0] for value in values) and not _has_both_zeros(values):
        return values[0]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return None
    return np.array(values, np.float64).view(Column)


def _has_both_zeros(equal: list[Any]) -> bool:
    """Whether equal numbers are 0.0 and -0.0, whose products are others."""
    if not isinstance(equal[0], int | float) or equal[0] != 0:
        return False
    return len({math.copysign(1.0, value) for value in equal}) > 1
