"""From a run to launches: models gathered into blocks, samples and scalars laid out as the kernels read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..algorithm import Recipe
from ..launch.rows import RowTable
from ..rounding.dtypes import DTYPES
from ..rounding.flags import OPTIMISTIC, REUSED
from . import train_kernel, train_simd
from .network import Network
from .placement import Placement
from .policy import Policy

CHUNK = 1 << 26
"""Bytes of host scalars, of laid out samples or of kept gradients in one launch: a run with more is split."""
DEVICE_CHUNK = 1 << 30
"""The same on a GPU, where every further launch sends parameters and states through memory once more."""
_INTERPRETER_BLOCK = 4096
"""Models per program in the interpreter, which runs a program as whole numpy arrays."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything about a run but its samples.

    Attributes:
        network, policy, recipe, flags: what is computed.
        params: [models, n], updated in place.
        states: by the rule's place, [models, n] or None; updated in place.
        placement: where models lie.
        record_of: int32 [models], whose scalars a model has.
        loss_scale: float32 [models].
        families: how many see samples of their own; the models of one are next to each other.
        rows: the scalars of all records.
        first_step: number of the first step, from 1.
        ordinary: whether a first pass may be an optimistic one (`Recipe.ordinary`).
    """

    network: Network
    policy: Policy
    recipe: Recipe
    flags: int
    params: Tensor
    states: list[Tensor | None]
    placement: Placement
    record_of: Tensor
    loss_scale: Tensor
    families: int
    rows: RowTable
    first_step: int
    ordinary: bool = False

    @property
    def tensors(self) -> list[Tensor | None]:
        """Parameters, then states."""
        return [self.params, *self.states]

    @property
    def arms(self) -> int:
        """Models of a family."""
        return len(self.params) // self.families

    @property
    def states_mask(self) -> int:
        """Bit k is set where state k is kept."""
        return sum(1 << k for k, state in enumerate(self.states) if state is not None)

    def constants(self, *, keep_gradients: bool) -> dict[str, Any]:
        """Compile-time arguments of `train_kernel`."""
        return training_constants(
            self.network,
            self.policy,
            self.recipe,
            flags=self.flags,
            states=self.states_mask,
            shared=self.placement.shared,
            keep_gradients=keep_gradients,
        )


def training_constants(
    network: Network,
    policy: Policy,
    recipe: Recipe,
    *,
    flags: int,
    states: int,
    shared: bool,
    keep_gradients: bool = False,
    optimistic: bool = False,
    depends: tuple[str, ...] = (),
    block: int = train_kernel.BLOCK,
) -> dict[str, Any]:
    """The compile-time arguments of `train_kernel`, in its order.

    Args:
        network: which.
        policy: formats.
        recipe: whose rule.
        flags: bit mask of `kernels.rounding.flags`.
        states: bit k is set where state k is kept.
        shared: whether the models of a block have the same hyperparameters.
        keep_gradients: whether gradients are written.
        optimistic: whether it is the first of two passes.
        depends: where the scalars of each column are, of models with hyperparameters of their own (`Columns`).
        block: models per program.
    """
    numbers = network.parameters
    packed = policy.params == "fp32" and policy.state != "fp32" and states & 3 == 3
    # Packed states leave too few registers for a step without any branch.
    short = optimistic and network.head.short is not None and not packed
    return {
        **network.constants(),
        "HEAD": network.head.short if short else network.head.gradient,
        "RULE": recipe.rule,
        # A model divides all of its parameters by the root of one bias correction.
        "FLAGS": flags | REUSED.value | (OPTIMISTIC.value if optimistic else 0),
        "STATES": states,
        # Lanes are those of a [models, n] tensor: rows of any length are torch's unaligned path.
        "LANES": ("unaligned" if numbers % 4 else "aligned") if recipe.lanes else "",
        "COMPUTE": DTYPES[policy.compute].triton,
        "GRAD": DTYPES[policy.grads].triton,
        "PARAM": DTYPES[policy.params].triton,
        "STATE": DTYPES[policy.state].triton,
        # Two states of 16 bits lie in one register, where a step's old and new ones would not fit otherwise.
        "PACKED": packed,
        "COLUMNS": len(recipe.columns),
        "SHARED_ROWS": shared,
        "DEPENDS": depends,
        "PLACES": tuple(depends[:k].count(kind) for k, kind in enumerate(depends)),
        "BY_STEP": depends.count("by_step"),
        "BY_BOTH": depends.count("by_both"),
        "KEEP_GRADS": keep_gradients,
        "PASS": "first" if optimistic else "marked",
        "NUMBERS": numbers,
        "FEATURES": network.features,
        "LOG": width_log(numbers),
        "BLOCK": block,
    }


def training_arguments(policy: Policy) -> dict[str, str]:
    """Triton's type of every argument of `train_kernel` that is no constant, in order, under a policy."""
    kinds = {"model_of": "*i32", "row_of": "*i32", "marks": "*i32"}
    kinds |= dict.fromkeys(("rows", "by_model", "by_both"), "*fp64")
    kinds |= dict.fromkeys(("params", "grads"), f"*{policy.params}") | dict.fromkeys(
        ("s0", "s1", "s2"), f"*{policy.state}"
    )
    pointers = {f"{name}_ptr": kinds.get(name, "*fp32") for name in train_kernel.POINTERS}
    return pointers | dict.fromkeys(train_kernel.COUNTS, "i32")


def training_options() -> dict[str, Any]:
    """The compiler's options for `train_kernel`."""
    return dict(train_kernel.LAUNCH_OPTIONS)


def width_log(count: int) -> int:
    """The exponent of the smallest power of two that holds so many."""
    return (count - 1).bit_length()


def block_of(backend: str, models: int) -> int:
    """Models of a block on a backend."""
    if backend == "interpreter":
        return min(_INTERPRETER_BLOCK, 1 << max(0, models - 1).bit_length())
    return train_simd.WIDTH if backend == "simd" else train_kernel.BLOCK


def chunks(steps: int, bytes_per_step: int, most: int | None = None, *, alone: bool = False) -> Iterator[slice]:
    """Steps of one launch after another, of ``most`` bytes; ``alone`` gives the first a launch of its own."""
    longest = max(1, (CHUNK if most is None else most) // max(1, bytes_per_step))
    if alone and steps:
        yield slice(0, 1)
    for begin in range(int(alone), steps, longest):
        yield slice(begin, min(begin + longest, steps))
