"""Whether an optimizer's plans still hold: every step looks at everything that may have changed since the last."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import chain, repeat
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..launch.apart import runs_apart
from .plans import Plan
from .shards import Shards

if TYPE_CHECKING:
    from .optimizer import StepOptimizer

_GRAD = operator.attrgetter("grad")
_PARAMS = operator.itemgetter("params")
_PLAIN = frozenset({float, int, bool})


class Known:
    """What plans were made from; they hold as long as all of it is as it was.

    Written with C-level maps: with 10,000 parameters every Python-level loop here is a millisecond of each step.

    Attributes:
        plans: one per launch.
        hypers: one record a group; another list when a value has changed.
        quiet: whether a step of these plans can only compute: launches alone, nothing that could be taken back.
    """

    def __init__(
        self,
        optimizer: StepOptimizer,
        params: list[Tensor],
        plans: list[Plan],
        hypers: list[Any],
        native: ModuleType | None,
    ) -> None:
        self.plans = plans
        self.hypers = hypers
        self._params = tuple(params)
        self._lengths = [len(group["params"]) for group in optimizer.param_groups]
        self._take_values(optimizer)
        self._keys, self._entries = tuple(optimizer.state), tuple(optimizer.state.values())
        self._names, self._values = _names_and_values(self._entries)
        self._state = (self._keys, self._entries, self._names, self._values)
        self._native = native
        self._shards = Shards([*params, *self._values])
        self._absent = list(map(operator.is_, self._grads_of(optimizer), repeat(None)))
        self._absent_bytes = bytes(self._absent)
        self.quiet = False

    def holds(self, optimizer: StepOptimizer) -> bool:
        """Whether the plans can take a step, with moved tensors and new gradients taken over."""
        return (
            self._groups_hold(optimizer)
            and self._states_hold(optimizer)
            and self._shards.hold()
            and self._grads_hold(optimizer)
            and all(plan.holds() for plan in self.plans)
            and self._all_apart()
            and self._settle()
        )

    @property
    def first_steps(self) -> bool:
        """Whether a tensor is before its first update, which has its own host scalars and may be taken back."""
        return any(plan.any_first for plan in self.plans)

    def _settle(self) -> bool:
        self.quiet = all(plan.is_plain for plan in self.plans) and not self.first_steps
        return True

    def _all_apart(self) -> bool:
        """Whether what moved has memory of its own still; False also where that takes a closer look."""
        if not any(plan.moved for plan in self.plans):
            return True
        begins, sizes = zip(*(plan.runs() for plan in self.plans), strict=True)
        return runs_apart(np.concatenate(begins), np.concatenate(sizes))

    # -- hyperparameters and groups ----------------------------------------------------------------------------------

    def _take_values(self, optimizer: StepOptimizer) -> None:
        """Remember the groups' values as they are, unless one of them can change in place."""
        values = list(map(optimizer.values_of, optimizer.param_groups))
        plain = all(map(_is_plain, chain.from_iterable(values)))
        self._group_values = values if plain else None

    def _groups_hold(self, optimizer: StepOptimizer) -> bool:
        groups = optimizer.param_groups
        if not self._same_values(list(map(optimizer.values_of, groups))) and not self._take_hypers(optimizer):
            return False
        members = list(map(_PARAMS, groups))
        if list(map(len, members)) != self._lengths:
            return False
        if self._native is not None and len(members) == 1 and type(members[0]) is list:
            return bool(self._native.same_objects(members[0], self._params))
        params = members[0] if len(members) == 1 else chain.from_iterable(members)
        return all(map(operator.is_, params, self._params))

    def _same_values(self, values: list[Any]) -> bool:
        """Whether the very values are in place: a tensor or an array can equal a number that it rounds."""
        kept = self._group_values
        if kept is None or len(values) != len(kept):
            return False
        return all(map(operator.is_, chain.from_iterable(values), chain.from_iterable(kept)))

    def _take_hypers(self, optimizer: StepOptimizer) -> bool:
        """Take changed hyperparameters over; False if they select other code or states."""
        if len(optimizer.param_groups) != len(self.hypers):
            return False
        hypers = [optimizer.hyper_of(group) for group in optimizer.param_groups]
        # Equal is not the same: the sign of a zero reaches bits.
        if not all(map(operator.is_, hypers, self.hypers)):
            flags = optimizer.algorithm.flags
            if any(flags(hypers[group]) != plan.flags for plan in self.plans for group in plan.distinct_groups):
                return False
            self.hypers = hypers
        self._take_values(optimizer)
        return True

    # -- states ------------------------------------------------------------------------------------------------------

    def _states_hold(self, optimizer: StepOptimizer) -> bool:
        """Whether the same state tensors are in place, for the same parameters and under the same names."""
        if self._native is not None and isinstance(optimizer.state, dict):
            return bool(self._native.same_entries(optimizer.state, *self._state))
        entries, values = optimizer.state.values(), self._values
        if len(entries) != len(self._entries) or not all(map(operator.is_, entries, self._entries)):
            return False
        if not all(map(operator.is_, optimizer.state, self._keys)):
            return False
        try:
            if sum(map(len, entries)) != len(values):
                return False
            return all(map(operator.is_, chain.from_iterable(map(dict.values, entries)), values)) and all(
                map(operator.is_, chain.from_iterable(entries), self._names)
            )
        except TypeError:
            # A foreign entry of the state that is no dict: not worth more than a slower step.
            return False

    # -- gradients ---------------------------------------------------------------------------------------------------

    def _grads_of(self, optimizer: StepOptimizer) -> list[Any]:
        return optimizer.local_grads(self._params) if self._shards else list(map(_GRAD, self._params))

    def _present_grads(self, optimizer: StepOptimizer) -> list[Any] | None:
        """The gradients; None if others are absent than were."""
        if self._native is not None and not self._shards:
            found: list[Any] | None = self._native.gradients(self._params, self._absent_bytes)
            return found
        grads = self._grads_of(optimizer)
        return grads if list(map(operator.is_, grads, repeat(None))) == self._absent else None

    def _grads_hold(self, optimizer: StepOptimizer) -> bool:
        """Take this step's gradients over, for the plans to look at; False if others are absent than were.

        No reference is kept beyond the step: gradients that are set to None are free for the next backward pass.
        """
        grads = self._present_grads(optimizer)
        if grads is None:
            return False
        for plan in self.plans:
            plan.assembly.take(grads if plan.positions is None else list(map(grads.__getitem__, plan.positions)))
        return True


def _names_and_values(entries: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    dicts = [entry for entry in entries if isinstance(entry, dict)]
    return tuple(chain.from_iterable(dicts)), tuple(chain.from_iterable(map(dict.values, dicts)))


def _is_plain(value: Any) -> bool:
    """Whether a hyperparameter is a number, or a tuple of numbers, that cannot change in place."""
    if type(value) is tuple:
        return _PLAIN.issuperset(map(type, value))
    return type(value) in _PLAIN
