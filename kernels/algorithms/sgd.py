"""SGD with momentum, dampening, Nesterov and L2 decay."""

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
from ..rounding.flags import DECAY, MAXIMIZE, MOMENTUM, NESTEROV, SCALED, mask
from ..rounding.powers import PowerTable


@dataclass(frozen=True, kw_only=True)
class SGDHyperparameters:
    """torch.optim.SGD's hyperparameters, defaults and errors."""

    lr: float = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False

    def __post_init__(self) -> None:
        if self.lr < 0.0:
            raise ValueError(f"Invalid learning rate: {self.lr}")
        if self.momentum < 0.0:
            raise ValueError(f"Invalid momentum value: {self.momentum}")
        if self.weight_decay < 0.0:
            raise ValueError(f"Invalid weight_decay value: {self.weight_decay}")
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")


def _flags(hyper: SGDHyperparameters) -> int:
    return mask(
        maximize=hyper.maximize, decay=hyper.weight_decay != 0, momentum=hyper.momentum != 0, nesterov=hyper.nesterov
    )


# Eager torch (for-loop and foreach agree): every line is one ATen operation and rounds to its result's dtype. Gradients
# of another dtype than the parameter's may be promoted where they meet it (GRAD), and the buffer begins as their copy.
# row: weight_decay, momentum, 1 - dampening, -lr, first


def _eager_row(hyper: SGDHyperparameters, step: float, first: bool, powers: PowerTable) -> Row:
    return (hyper.weight_decay, hyper.momentum, 1 - hyper.dampening, -hyper.lr, float(first))


@triton.jit
def _sgd_eager(
    p,
    g,
    buf,
    s1,
    s2,
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
    momentum = ops.scalar(row, 1)
    one_minus_dampening = ops.scalar(row, 2)
    minus_lr = ops.scalar(row, 3)
    first = ops.scalar(row, 4) != 0.0
    if FLAGS & MAXIMIZE:
        g = ops.negate(g)
    if FLAGS & DECAY:
        g = ops.add_scaled(g, p, weight_decay, GRAD)
    if FLAGS & MOMENTUM:
        # Two roundings, and the first step copies the gradient: dampening does not touch it.
        buf = tl.where(first, g, ops.add_scaled(ops.mul(buf, momentum, STATE), g, one_minus_dampening, STATE))
        if FLAGS & NESTEROV:
            g = ops.add_scaled(g, buf, momentum, GRAD)
        else:
            g = buf
    return ops.add_scaled(p, g, minus_lr, DTYPE), buf, s1, s2


def _sgd_eager_reference(
    p: Tensor, g: Tensor, buf: Tensor, s1: Tensor, s2: Tensor, at: ref.Context
) -> tuple[Tensor, ...]:
    weight_decay, momentum, one_minus_dampening, minus_lr, first = ref.narrow(at.row)
    if at.has(MAXIMIZE):
        g = ref.negate(g)
    if at.has(DECAY):
        g = ref.add_scaled(g, p, weight_decay, at.grad)
    if at.has(MOMENTUM):
        later = ref.add_scaled(ref.mul(buf, momentum, at.state), g, one_minus_dampening, at.state)
        buf = torch.where(first != 0, g, later)
        g = ref.add_scaled(g, buf, momentum, at.grad) if at.has(NESTEROV) else buf
    return ref.add_scaled(p, g, minus_lr, at.dtype), buf, s1, s2


# torch's fused CUDA kernel: float32 registers throughout, and 1 - dampening is formed in float32.
# row: weight_decay, momentum, dampening, lr, first


def _fused_row(hyper: SGDHyperparameters, step: float, first: bool, powers: PowerTable) -> Row:
    return (hyper.weight_decay, hyper.momentum, hyper.dampening, hyper.lr, float(first))


@triton.jit
def _sgd_fused(
    p,
    g,
    buf,
    s1,
    s2,
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
    momentum = ops.scalar(row, 1)
    one_minus_dampening = 1.0 - ops.scalar(row, 2)
    lr = ops.scalar(row, 3)
    first = ops.scalar(row, 4) != 0.0
    if FLAGS & MAXIMIZE:
        g = ops.negate(g)
    if FLAGS & DECAY:
        g = tl.fma(p, weight_decay, g)
    if FLAGS & MOMENTUM:
        later = tl.fma(one_minus_dampening, g, buf * momentum)
        if (FLAGS & MAXIMIZE) and not (FLAGS & DECAY) and not (FLAGS & SCALED):
            # On its aligned path (lanes 0-3) nvcc fused the other product here.
            later = tl.where(lane < 4, tl.fma(buf, momentum, one_minus_dampening * g), later)
        buf = tl.where(first, g, later)
        if FLAGS & NESTEROV:
            g = tl.fma(buf, momentum, g)
        else:
            g = buf
    new_p = tl.fma(g, ops.negate(lr), p)
    if (FLAGS & SCALED) and tl.float32 == DTYPE:
        # ... and here it left the first three elements of each aligned float4 unfused.
        new_p = tl.where(lane < 3, p - g * lr, new_p)
    return new_p, buf, s1, s2


def _sgd_fused_reference(
    p: Tensor, g: Tensor, buf: Tensor, s1: Tensor, s2: Tensor, at: ref.Context
) -> tuple[Tensor, ...]:
    weight_decay, momentum, dampening, lr, first = ref.narrow(at.row)
    one_minus_dampening = 1 - dampening
    if at.has(MAXIMIZE):
        g = ref.negate(g)
    if at.has(DECAY):
        g = ref.fma(p, weight_decay, g)
    if at.has(MOMENTUM):
        later = ref.fma(one_minus_dampening, g, buf * momentum)
        if at.has(MAXIMIZE) and not at.has(DECAY) and not at.has(SCALED):
            later = torch.where(at.lane < 4, ref.fma(buf, momentum, one_minus_dampening * g), later)
        buf = torch.where(first != 0, g, later)
        g = ref.fma(buf, momentum, g) if at.has(NESTEROV) else buf
    new_p = ref.fma(g, -lr, p)
    if at.has(SCALED) and at.dtype == torch.float32:
        new_p = torch.where(at.lane < 3, p - g * lr, new_p)
    return new_p, buf, s1, s2


# torch's fused CPU kernel: as the CUDA one, but 1 - dampening in double, and no lane dependence.
# row: weight_decay, momentum, 1 - dampening, -lr, first


@triton.jit
def _sgd_cpu_fused(
    p,
    g,
    buf,
    s1,
    s2,
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
    momentum = ops.scalar(row, 1)
    one_minus_dampening = ops.scalar(row, 2)
    minus_lr = ops.scalar(row, 3)
    first = ops.scalar(row, 4) != 0.0
    if FLAGS & MAXIMIZE:
        g = ops.negate(g)
    if FLAGS & DECAY:
        g = tl.fma(p, weight_decay, g)
    if FLAGS & MOMENTUM:
        buf = tl.where(first, g, tl.fma(g, one_minus_dampening, buf * momentum))
        if FLAGS & NESTEROV:
            g = tl.fma(buf, momentum, g)
        else:
            g = buf
    return tl.fma(g, minus_lr, p), buf, s1, s2


def _sgd_cpu_fused_reference(
    p: Tensor, g: Tensor, buf: Tensor, s1: Tensor, s2: Tensor, at: ref.Context
) -> tuple[Tensor, ...]:
    weight_decay, momentum, one_minus_dampening, minus_lr, first = ref.narrow(at.row)
    if at.has(MAXIMIZE):
        g = ref.negate(g)
    if at.has(DECAY):
        g = ref.fma(p, weight_decay, g)
    if at.has(MOMENTUM):
        buf = torch.where(first != 0, g, ref.fma(g, one_minus_dampening, buf * momentum))
        g = ref.fma(buf, momentum, g) if at.has(NESTEROV) else buf
    return ref.fma(g, minus_lr, p), buf, s1, s2


def _update(state: Mapping[str, Tensor], grad: Tensor | None, hyper: Any, step: Any) -> Tensor | None:
    """Of the buffer, of the gradient beside it with Nesterov momentum, or of the gradient alone."""
    rate = float(hyper.lr)
    if hyper.momentum != 0 and not hyper.nesterov:
        return -rate * state["momentum_buffer"]
    if grad is None or hyper.momentum == 0:
        return None if grad is None else -rate * grad
    return -rate * (grad + float(hyper.momentum) * state["momentum_buffer"])


_EAGER_COLUMNS = ("weight_decay", "momentum", "1-dampening", "-lr", "first")


def _eager(name: str, equals: str) -> Recipe:
    return Recipe(
        name=name,
        equals=equals,
        rule=_sgd_eager,
        reference=_sgd_eager_reference,
        row=_eager_row,
        columns=_EAGER_COLUMNS,
        in_place=name == "foreach",
    )


SGD = register(
    Algorithm(
        name="sgd",
        title="SGD",
        hyperparameters=SGDHyperparameters,
        positional=("lr", "momentum", "dampening", "weight_decay", "nesterov"),
        states=(State(name="momentum_buffer", degree=1, like="grad", when=lambda hyper: hyper.momentum != 0),),
        hyperparameter_degrees={"lr": -1, "momentum": 0, "dampening": 0, "weight_decay": 1},
        flags=_flags,
        update=_update,
        stateful_step=False,
        step_in_row=False,
        recipes={
            "foreach": _eager("foreach", "torch.optim.SGD(foreach=True) on CUDA and on the CPU"),
            "for-loop": _eager("for-loop", "torch.optim.SGD(foreach=False) on CUDA and on the CPU"),
            "fused": Recipe(
                name="fused",
                equals="torch.optim.SGD(fused=True) on CUDA",
                rule=_sgd_fused,
                reference=_sgd_fused_reference,
                row=_fused_row,
                columns=("weight_decay", "momentum", "dampening", "lr", "first"),
                unscale="divide",
                lanes=True,
            ),
            "cpu-fused": Recipe(
                name="cpu-fused",
                equals="torch.optim.SGD(fused=True) on the CPU, float32, sizes that are multiples of 64",
                rule=_sgd_cpu_fused,
                reference=_sgd_cpu_fused_reference,
                row=_eager_row,
                columns=_EAGER_COLUMNS,
                unscale="divide",
            ),
        },
    )
)
