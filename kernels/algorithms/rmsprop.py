"""RMSprop, plain or centered, with momentum and L2 decay.

torch has no fused RMSprop, and its for-loop and foreach agree bit for bit: one recipe under both names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..algorithm import Algorithm, Recipe, Row, State, register
from ..rounding import arithmetic as ops
from ..rounding import reference as ref
from ..rounding.flags import CENTERED, DECAY, MAXIMIZE, MOMENTUM, OPTIMISTIC, mask
from ..rounding.powers import PowerTable


@dataclass(frozen=True, kw_only=True)
class RMSpropHyperparameters:
    """torch.optim.RMSprop's hyperparameters, defaults and errors."""

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False
    maximize: bool = False

    def __post_init__(self) -> None:
        if not self.lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {self.lr}")
        if not self.eps >= 0.0:
            raise ValueError(f"Invalid epsilon value: {self.eps}")
        if not self.momentum >= 0.0:
            raise ValueError(f"Invalid momentum value: {self.momentum}")
        if not self.weight_decay >= 0.0:
            raise ValueError(f"Invalid weight_decay value: {self.weight_decay}")
        if not self.alpha >= 0.0:
            raise ValueError(f"Invalid alpha value: {self.alpha}")


def _flags(hyper: RMSpropHyperparameters) -> int:
    return mask(
        maximize=hyper.maximize, decay=hyper.weight_decay != 0, momentum=hyper.momentum > 0, centered=hyper.centered
    )


# row: weight_decay, alpha, 1 - alpha, eps, momentum, -lr


def _row(hyper: RMSpropHyperparameters, step: float, first: bool, powers: PowerTable) -> Row:
    return (hyper.weight_decay, hyper.alpha, 1 - hyper.alpha, hyper.eps, hyper.momentum, -hyper.lr)


def _ordinary(hyper: RMSpropHyperparameters) -> bool:
    """Without the options whose roots and quotients take the long way; scalars far from float32's ends."""
    lr = hyper.lr == 0 or 2.0**-60 <= hyper.lr <= 2.0**10
    plain = not hyper.centered and hyper.momentum == 0
    return lr and plain and 2.0**-76 <= hyper.eps <= 2.0**60 and 2.0**-20 <= hyper.alpha <= 1


@triton.jit
def _rmsprop(
    p,
    g,
    v,
    buf,
    mean,
    row,
    step,
    powers,
    lane,
    FLAGS: tl.constexpr,
    DTYPE: tl.constexpr,
    GRAD: tl.constexpr,
    STATE: tl.constexpr,
):
    weight_decay = ops.scalar(row, 0)
    alpha = ops.scalar(row, 1)
    one_minus_alpha = ops.scalar(row, 2)
    eps = ops.scalar(row, 3)
    momentum = ops.scalar(row, 4)
    minus_lr = ops.scalar(row, 5)
    if FLAGS & MAXIMIZE:
        g = ops.negate(g)
    if FLAGS & DECAY:
        g = ops.add_scaled(g, p, weight_decay, GRAD)
    v = ops.addcmul(ops.mul(v, alpha, STATE), g, g, one_minus_alpha, STATE, FLAGS & OPTIMISTIC)
    if FLAGS & CENTERED:
        mean = ops.lerp(mean, g, one_minus_alpha, STATE)
        # Can round negative; torch takes the root all the same, and so NaN.
        d = ops.sqrt(ops.addcmul(v, mean, mean, -1.0, STATE), STATE)
    else:
        d = ops.sqrt(v, STATE, FLAGS & OPTIMISTIC)
    d = ops.add_scalar(d, eps, STATE, FLAGS & OPTIMISTIC)
    if FLAGS & MOMENTUM:
        buf = ops.addcdiv(ops.mul(buf, momentum, STATE), g, d, 1.0, STATE)
        p = ops.add_scaled(p, buf, minus_lr, DTYPE)
    else:
        p = ops.addcdiv(p, g, d, minus_lr, DTYPE, FLAGS & OPTIMISTIC)
    return p, v, buf, mean


def _rmsprop_reference(
    p: Tensor, g: Tensor, v: Tensor, buf: Tensor, mean: Tensor, at: ref.Context
) -> tuple[Tensor, ...]:
    weight_decay, alpha, one_minus_alpha, eps, momentum, minus_lr = ref.narrow(at.row)
    if at.has(MAXIMIZE):
        g = ref.negate(g)
    if at.has(DECAY):
        g = ref.add_scaled(g, p, weight_decay, at.grad)
    v = ref.addcmul(ref.mul(v, alpha, at.state), g, g, one_minus_alpha, at.state)
    if at.has(CENTERED):
        mean = ref.lerp(mean, g, one_minus_alpha, at.state)
        d = ref.sqrt(ref.addcmul(v, mean, mean, -torch.ones_like(eps), at.state), at.state)
    else:
        d = ref.sqrt(v, at.state)
    d = ref.add_scalar(d, eps, at.state)
    if at.has(MOMENTUM):
        buf = ref.addcdiv(ref.mul(buf, momentum, at.state), g, d, torch.ones_like(eps), at.state)
        p = ref.add_scaled(p, buf, minus_lr, at.dtype)
    else:
        p = ref.addcdiv(p, g, d, minus_lr, at.dtype)
    return p, v, buf, mean


def _recipe(name: str, equals: str) -> Recipe:
    return Recipe(
        name=name,
        equals=equals,
        rule=_rmsprop,
        reference=_rmsprop_reference,
        row=_row,
        columns=("weight_decay", "alpha", "1-alpha", "eps", "momentum", "-lr"),
        in_place=name == "foreach",
        ordinary=_ordinary,
    )


def _denominator(state: Mapping[str, Tensor], hyper: Any, step: float) -> Tensor:
    """The root of the mean square, centered where the mean is kept."""
    mean = state.get("grad_avg")
    return torch.sqrt(state["square_avg"] if mean is None else state["square_avg"] - mean.square())


def _update(state: Mapping[str, Tensor], grad: Tensor | None, hyper: Any, step: Any) -> Tensor | None:
    """Of the buffer, or of the gradient over the root and eps."""
    rate = float(hyper.lr)
    if hyper.momentum > 0:
        return -rate * state["momentum_buffer"]
    return None if grad is None else -rate * grad / (_denominator(state, hyper, step) + hyper.eps)


RMSPROP = register(
    Algorithm(
        name="rmsprop",
        title="RMSprop",
        hyperparameters=RMSpropHyperparameters,
        positional=("lr", "alpha", "eps", "weight_decay", "momentum", "centered"),
        states=(
            State(name="square_avg", degree=2),
            # Accumulated after the division, so free of the loss's scale.
            State(name="momentum_buffer", degree=0, when=lambda hyper: hyper.momentum > 0),
            State(name="grad_avg", degree=1, when=lambda hyper: hyper.centered),
        ),
        hyperparameter_degrees={"lr": 0, "alpha": 0, "eps": 1, "weight_decay": 1, "momentum": 0},
        flags=_flags,
        denominator=_denominator,
        update=_update,
        step_in_row=False,
        recipes={
            "foreach": _recipe("foreach", "torch.optim.RMSprop(foreach=True) on CUDA"),
            "for-loop": _recipe("for-loop", "torch.optim.RMSprop(foreach=False) on CUDA"),
        },
    )
)
