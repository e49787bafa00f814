"""Elements of one parameter group, laid one after another: what numbers are counted over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from kernels import DTYPES, Algorithm

from . import steps
from .rounding import BY_TORCH, half_ulp

Array = np.ndarray
"""Of numpy."""

Format = Any
"""A record of kernels.DTYPES."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One parameter of a group.

    Attributes:
        name: its name in the model, or its place in the group.
        count: how many of its elements are looked at.
        size: how many it has.
        param: format of what is stepped: the parameter, or its float32 master.
        state: format of its second moment (of its first state, where there is none).
        compute: format in which root and eps are added.
    """

    name: str
    count: int
    size: int
    param: Format
    state: Format
    compute: Format


_ONE_THREAD: Final = 2048
"""As many numbers torch's slowest functions take in one thread."""
_WORTH_THREADS: Final = 2**15
"""From here on the others take several too."""


class Layers(tuple[Layer, ...]):
    """The layers of a group in their order, with what depends on them alone; a probe keeps them from look to look."""

    @cached_property
    def starts(self) -> Array:
        """[layers] int64: where each one's elements begin."""
        return np.cumsum([0, *(layer.count for layer in self[:-1])])

    @cached_property
    def counts(self) -> Array:
        """[layers] float64: how many elements each has here."""
        return np.array([layer.count for layer in self], dtype=np.float64)

    @cached_property
    def factors(self) -> Array:
        """[layers] float64: how many elements of its layer each element stands for."""
        return np.array([layer.size / layer.count for layer in self])

    @cached_property
    def weights(self) -> Tensor | None:
        """[n] float64: the same for each element; None where all stand for themselves."""
        return (
            None if all(layer.size == layer.count for layer in self) else torch.from_numpy(self._spread(self.factors))
        )

    def of(self, which: str, attribute: str) -> Any:
        """An attribute of the format ``param``, ``state`` or ``compute``: one where all have the same, else [n]."""
        key = (which, attribute)
        if key not in self._formats:
            values = [getattr(getattr(layer, which), attribute) for layer in self]
            self._formats[key] = values[0] if len(set(values)) == 1 else self._spread(np.array(values))
        return self._formats[key]

    @cached_property
    def _formats(self) -> dict[tuple[str, str], Any]:
        return {}

    def _spread(self, values: Array) -> Array:
        return np.repeat(values, [layer.count for layer in self])


@dataclass(frozen=True, kw_only=True)
class Elements:
    """Elements of the layers of one group; tensors are [n] float64 on the CPU, in the order of the layers.

    Attributes:
        algorithm: the optimizer's.
        hyper: the group's hyperparameters.
        step: how many steps the states have seen; one number, or one per element.
        layers: whose elements they are.
        states: after the step, by torch's names.
        v_before: the second moment before the step, None if it is not known.
        params: before the step (in a checkpoint: as they are), None if they are not known.
        grads: of the loss, not scaled; None if they are not known.
        backward_scale: what the loss was multiplied by in the backward pass.
        exact_sums: whether small updates are kept by a Kahan sum or by stochastic rounding.
    """

    algorithm: Algorithm
    hyper: Any
    step: float | Tensor
    layers: Layers
    states: Mapping[str, Tensor]
    v_before: Tensor | None = None
    params: Tensor | None = None
    grads: Tensor | None = None
    backward_scale: float = 1.0
    exact_sums: bool = False

    @property
    def count(self) -> int:
        """How many elements there are."""
        return sum(layer.count for layer in self.layers)

    @cached_property
    def weights(self) -> Tensor:
        """[n]: how many elements of its layer each one stands for."""
        known = self.layers.weights
        return torch.ones(self.count, dtype=torch.float64, device="cpu") if known is None else known

    @property
    def eps(self) -> float | None:
        """None where the algorithm has none."""
        return float(self.hyper.eps) if hasattr(self.hyper, "eps") else None

    @property
    def v(self) -> Tensor | None:
        """The second moment, None without one."""
        name = second_moment(self.algorithm)
        return self.states.get(name) if name else None

    @cached_property
    def r(self) -> Tensor | None:
        """The root that divides the step with eps."""
        return self._in_parts(
            lambda of: steps.root(self.algorithm, {k: of(v) for k, v in self.states.items()}, self.hyper, of(self.step))
        )

    @cached_property
    def update(self) -> Tensor | None:
        """The step's update; where it needs gradients that are not known, of gradients as large as r."""
        known = self._in_parts(
            lambda of: steps.update(
                self.algorithm,
                {name: of(state) for name, state in self.states.items()},
                self.hyper,
                of(self.step),
                grads=of(self.grads),
                params=of(self.params),
            )
        )
        if known is None and self.r is not None and self.algorithm.update is not None:
            return self.algorithm.update(self.states, self.r, self.hyper, self.step)
        return known

    @property
    def update_is_typical(self) -> bool:
        """Whether `update` is made of gradients as large as r."""
        return self.grads is None and self.update is not None and self._asks_for_gradients

    @property
    def _asks_for_gradients(self) -> bool:
        return steps.update(self.algorithm, self.states, self.hyper, self.step) is None

    def _in_parts(self, compute: Callable[[Callable[[Any], Any]], Tensor | None]) -> Tensor | None:
        """What ``compute`` makes of all elements, given a function that takes a part of each tensor.

        From 2,048 numbers on torch hands a root to all its threads, whose waking costs milliseconds on many cores.
        """
        if torch.get_num_threads() == 1 or not _ONE_THREAD < self.count <= _WORTH_THREADS:
            return compute(lambda value: value)
        parts = []
        for start in range(0, self.count, _ONE_THREAD):
            part = compute(partial(_part_of, slice(start, start + _ONE_THREAD)))
            if part is None:
                return None
            parts.append(part)
        return torch.cat(parts)

    def half_ulp(self, values: Tensor, which: str) -> Tensor:
        """Half the spacing at each value, in the format ``param``, ``state`` or ``compute`` of its layer."""
        bits, smallest = (self.layers.of(which, name) for name in ("significant_bits", "smallest"))
        several = isinstance(bits, np.ndarray) or isinstance(smallest, np.ndarray)
        if not several:
            return half_ulp(values, bits, smallest)
        return half_ulp(values, *(torch.from_numpy(np.asarray(found)) for found in (bits, smallest)))


def _part_of(here: slice, value: Any) -> Any:
    return value[here] if isinstance(value, Tensor) else value


def second_moment(algorithm: Algorithm) -> str | None:
    """The name of the state that averages (or sums) squared gradients."""
    return next((state.name for state in algorithm.states if state.degree == 2), None)


def format_of(tensor: Tensor) -> Format | None:
    """The format of a tensor, None where none of ours is."""
    return BY_TORCH.get(tensor.dtype)


def layer_of(name: str, count: int, size: int, param: Tensor, v: Tensor | None, *, fused: bool) -> Layer:
    """A layer's formats: fused kernels compute in float32 whatever they store, eager ones in the parameter's dtype."""
    kind = format_of(param)
    return Layer(
        name=name,
        count=count,
        size=size,
        param=kind,
        state=(format_of(v) if v is not None else None) or kind,
        compute=DTYPES["fp32"] if fused else kind,
    )


def steps_seen(kept: Sequence[Any], lengths: Sequence[int]) -> float | Tensor:
    """How many steps the states have seen, of each parameter's counter: one number, or one per element.

    Args:
        kept: the counters; None among them where the algorithm, as SGD does, keeps none.
        lengths: how many elements of each parameter there are.
    """
    if any(step is None for step in kept):
        return 1.0
    numbers = [float(step) for step in kept]
    if len(set(numbers)) == 1:
        return float(numbers[0])
    return torch.from_numpy(np.repeat(np.array(numbers), lengths))
