"""What an algorithm is to the rest of the package: one record, one registry.

An algorithm's file fills in an `Algorithm`; the drop-in optimizer class, the population step, the rescaling of
hyperparameters, the conformance cases, byte counts and benchmark rows are all derived from it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .names import check_name
from .rounding.powers import PowerTable

Row = tuple[float, ...]
"""The host scalars of one (hyperparameters, step): doubles, exactly those that torch hands to its kernels."""


def _always(hyper: Any) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class State:
    """One state tensor per parameter.

    Attributes:
        name: torch's name for it, such as ``exp_avg``.
        degree: how it scales with the loss: ``state(s·L) = s**degree · state(L)``.
        like: whose dtype it is made with, by torch's rule: ``param``, or ``grad`` where it begins as a copy of the
            gradient, after L2 decay has added the parameter to it.
        when: whether these hyperparameters keep it.
    """

    name: str
    degree: int
    like: str = "param"
    when: Callable[[Any], bool] = _always

    @property
    def always(self) -> bool:
        """Whether all hyperparameters keep it."""
        return self.when is _always


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to round an algorithm's update.

    Attributes:
        name: ``foreach``, ``for-loop``, ``fused``, ``cpu-fused``, ``native`` or a capturable variant.
        equals: what it is bit-identical to, in words.
        rule: the Triton function ``rule(p, g, s0, s1, s2, row, step, powers, lane, FLAGS, DTYPE, GRAD, STATE)``,
            returning the new ``(p, s0, s1, s2)`` in float32. The dtypes are the parameter's, and those to which lines
            of eager recipes round where they make a gradient or a state (`kernels.launch.dtypes.line_dtypes`).
        reference: the same in tensor operations, with the same arguments and result.
        row: ``row(hyper, step, first, powers)``: the host scalars, in double; ``first`` before the first update.
        mixed_row: the same where float32 parameters keep bfloat16 or float16 states, if they are others there.
        columns: the names of the row's entries.
        unscale: how a grad_scale is taken out: ``divide`` as torch's fused kernels do (the unrounded gradient is used),
            ``multiply`` by float32(1/scale) and round, as ``GradScaler.unscale_`` does.
        lanes: whether rounding depends on the element's position in the unrolled loop of torch's kernel.
        device_step: whether the rule reads the step from the device (then a step needs nothing new from the host).
        double: whether the rule computes in float64.
        in_place: whether torch adds into a list of gradients that it has made, as foreach does: their dtype then stays.
        ordinary: whether the rule's OPTIMISTIC form (`kernels.rounding.flags`) holds for a record, with float32
            parameters; None where it has no such form.
    """

    name: str
    equals: str
    rule: Any
    reference: Callable[..., tuple[Tensor, ...]]
    row: Callable[[Any, float, bool, PowerTable], Row]
    columns: tuple[str, ...]
    unscale: str = "multiply"
    lanes: bool = False
    device_step: bool = False
    double: bool = False
    in_place: bool = False
    mixed_row: Callable[[Any, float, bool, PowerTable], Row] | None = None
    ordinary: Callable[[Any], bool] | None = None

    def row_for(self, dtypes: tuple[torch.dtype | None, ...]) -> Callable[[Any, float, bool, PowerTable], Row]:
        """The function of the host scalars for tensors of these dtypes.

        Args:
            dtypes: of parameters, gradients, states and copies, as `Bucket.dtypes` has them.
        """
        param, _, state, _ = dtypes
        mixed = param == torch.float32 and state != torch.float32
        return self.mixed_row if mixed and self.mixed_row is not None else self.row


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """Everything the package knows about one optimizer.

    Attributes:
        name: lower-case key, such as ``adamw``.
        title: the class name of its drop-in, such as ``AdamW``.
        hyperparameters: frozen keyword-only dataclass with torch's names and defaults; validates itself.
        positional: constructor arguments that torch accepts by position, in order.
        states: its state tensors, in the order the rules take them.
        hyperparameter_degrees: degree of each hyperparameter under loss scaling, or a function of the record where it
            depends on another of them.
        flags: hyperparameters to the bit mask of `kernels.rounding.flags`.
        recipes: by name; the first is the default.
        fill: initial value of every state element.
        initial: hyperparameters that decide the initial state and nothing else.
        denominator: ``denominator(state, hyper, step)``: r, the root that divides the step with eps, from states in any
            precision; None for an algorithm without one.
        update: ``update(state, grad, hyper, step)``: the parameters' change before it is rounded, decoupled decay
            apart, from the states after the step and its gradient as the rule takes it up (``maximize`` and L2 decay in
            it); None where it needs a gradient and there is none. ``step`` may be a tensor, here and above.
        stateful_step: whether torch keeps a ``step`` tensor per parameter.
        eager_state: whether torch creates the state when the optimizer is constructed.
        step_in_row: whether host scalars depend on the step.
    """

    name: str
    title: str
    hyperparameters: type
    positional: tuple[str, ...]
    states: tuple[State, ...]
    hyperparameter_degrees: Mapping[str, int | Callable[[Any], int]]
    flags: Callable[[Any], int]
    recipes: Mapping[str, Recipe]
    fill: Callable[[Any], float] = lambda hyper: 0.0
    initial: tuple[str, ...] = ()
    denominator: Callable[[Mapping[str, Tensor], Any, Any], Tensor] | None = None
    update: Callable[[Mapping[str, Tensor], Tensor | None, Any, Any], Tensor | None] | None = None
    stateful_step: bool = True
    eager_state: bool = False
    step_in_row: bool = True

    @property
    def default_recipe(self) -> str:
        """The recipe used when none is named."""
        return next(iter(self.recipes))

    def rows_count(self, recipe: Recipe) -> bool:
        """Whether the host scalars of one of its recipes change with every step."""
        return self.step_in_row and not recipe.device_step

    @property
    def degrees(self) -> dict[str, int]:
        """Degree of every quantity under loss scaling, with default options."""
        return self.degrees_of(self.hyperparameters())

    def degrees_of(self, hyper: Any) -> dict[str, int]:
        """Degree of every quantity under loss scaling: parameters, gradient, states and hyperparameters."""
        return {
            "params": 0,
            "grad": 1,
            **{state.name: state.degree for state in self.states},
            **self._hyper_degrees(hyper),
        }

    def _hyper_degrees(self, hyper: Any) -> dict[str, int]:
        degrees = self.hyperparameter_degrees.items()
        return {name: degree(hyper) if callable(degree) else degree for name, degree in degrees}

    @functools.cached_property
    def hyperparameter_names(self) -> tuple[str, ...]:
        """Names of the hyperparameters, in the record's order."""
        return tuple(f.name for f in dataclasses.fields(self.hyperparameters))

    def recipe(self, name: str | None) -> Recipe:
        """The recipe of that name; of None and of an empty one, the default.

        Raises:
            TypeError: for what is no name.
            ValueError: if this algorithm has no such recipe.
        """
        if name is not None:
            check_name("recipe", name, f"choose one of {', '.join(self.recipes)}, or None")
        key = name or self.default_recipe
        if key not in self.recipes:
            raise ValueError(
                f"recipe {key!r}: {self.title} has none of that name; choose one of {', '.join(self.recipes)}"
            )
        return self.recipes[key]

    def state_names(self, hyper: Any) -> tuple[str, ...]:
        """Names of the state tensors that these hyperparameters keep, in rule order."""
        return tuple(state.name for state in self.states if state.when(hyper))

    def rescale(self, hyper: Any, scale: float) -> Any:
        """The hyperparameters under which a run on ``scale·L`` repeats the run of ``hyper`` on ``L``.

        Each value is multiplied by ``scale**degree``; with a power of two the two runs agree bit for bit as long as
        nothing overflows or turns subnormal.
        """
        degrees = self._hyper_degrees(hyper)
        changed = {name: getattr(hyper, name) * scale**degree for name, degree in degrees.items() if degree}
        return dataclasses.replace(hyper, **changed)


ALGORITHMS: dict[str, Algorithm] = {}
"""Every registered algorithm, by name."""


def register(algorithm: Algorithm) -> Algorithm:
    """Add an algorithm to the registry (its file's last line)."""
    ALGORITHMS[algorithm.name] = algorithm
    return algorithm


def get_algorithm(name: str) -> Algorithm:
    """The registered algorithm of that name.

    Raises:
        TypeError: for what is no name.
        ValueError: if there is none.
    """
    check_name("algorithm", name, f"choose one of {', '.join(sorted(ALGORITHMS))}")
    if name not in ALGORITHMS:
        raise ValueError(f"optimizer {name!r}: no such algorithm; choose one of {', '.join(sorted(ALGORITHMS))}")
    return ALGORITHMS[name]


__all__ = ["ALGORITHMS", "Algorithm", "Recipe", "Row", "State", "get_algorithm", "register"]
