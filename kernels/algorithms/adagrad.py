"""Adagrad with lr_decay, an initial accumulator and L2 decay."""

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
from ..rounding.flags import DECAY, MAXIMIZE, OPTIMISTIC, mask
from ..rounding.powers import PowerTable


@dataclass(frozen=True, kw_only=True)
class AdagradHyperparameters:
    """torch.optim.Adagrad's hyperparameters, defaults and errors."""

    lr: float = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    maximize: bool = False

    def __post_init__(self) -> None:
        if not self.lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {self.lr}")
        if not self.lr_decay >= 0.0:
            raise ValueError(f"Invalid lr_decay value: {self.lr_decay}")
        if not self.weight_decay >= 0.0:
            raise ValueError(f"Invalid weight_decay value: {self.weight_decay}")
        if not self.initial_accumulator_value >= 0.0:
            raise ValueError(f"Invalid initial_accumulator_value value: {self.initial_accumulator_value}")
        if not self.eps >= 0.0:
            raise ValueError(f"Invalid epsilon value: {self.eps}")


def _flags(hyper: AdagradHyperparameters) -> int:
    return mask(maximize=hyper.maximize, decay=hyper.weight_decay != 0)


# Eager torch. row: weight_decay, eps, -lr / (1 + (step - 1) lr_decay)


def _eager_row(hyper: AdagradHyperparameters, step: float, first: bool, powers: PowerTable) -> Row:
    return (hyper.weight_decay, hyper.eps, -(hyper.lr / (1 + (step - 1) * hyper.lr_decay)))


def _ordinary(hyper: AdagradHyperparameters) -> bool:
    """Scalars far from float32's ends."""
    return hyper.lr <= 2.0**10 and 2.0**-76 <= hyper.eps <= 2.0**60


@triton.jit
def _adagrad_denominator(p, g, total, row, FLAGS: tl.constexpr, GRAD: tl.constexpr, STATE: tl.constexpr):
    if FLAGS & MAXIMIZE:
        g = ops.negate(g)
    if FLAGS & DECAY:
        g = ops.add_scaled(g, p, ops.scalar(row, 0), GRAD)
    total = ops.addcmul(total, g, g, 1.0, STATE)
    d = ops.add_scalar(ops.sqrt(total, STATE, FLAGS & OPTIMISTIC), ops.scalar(row, 1), STATE, FLAGS & OPTIMISTIC)
    return g, total, d


@triton.jit
def _adagrad_for_loop(
    p,
    g,
    total,
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
    g, total, d = _adagrad_denominator(p, g, total, row, FLAGS, GRAD, STATE)
    return ops.addcdiv(p, g, d, ops.scalar(row, 2), DTYPE), total, s1, s2


@triton.jit
def _adagrad_foreach(
    p,
    g,
    total,
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
    g, total, d = _adagrad_denominator(p, g, total, row, FLAGS, GRAD, STATE)
    # The step size enters the numerator, rounded, before the division.
    return ops.addcdiv(p, ops.mul(g, ops.scalar(row, 2), GRAD), d, 1.0, DTYPE, FLAGS & OPTIMISTIC), total, s1, s2


def _denominator_reference(
    p: Tensor, g: Tensor, total: Tensor, weight_decay: Tensor, eps: Tensor, at: ref.Context
) -> tuple[Tensor, Tensor, Tensor]:
    if at.has(MAXIMIZE):
        g = ref.negate(g)
    if at.has(DECAY):
        g = ref.add_scaled(g, p, weight_decay, at.grad)
    total = ref.addcmul(total, g, g, torch.ones_like(eps), at.state)
    return g, total, ref.add_scalar(ref.sqrt(total, at.state), eps, at.state)


def _for_loop_reference(
    p: Tensor, g: Tensor, total: Tensor, s1: Tensor, s2: Tensor, at: ref.Context
) -> tuple[Tensor, ...]:
    weight_decay, eps, minus_clr = ref.narrow(at.row)
    g, total, d = _denominator_reference(p, g, total, weight_decay, eps, at)
    return ref.addcdiv(p, g, d, minus_clr, at.dtype), total, s1, s2


def _foreach_reference(
    p: Tensor, g: Tensor, total: Tensor, s1: Tensor, s2: Tensor, at: ref.Context
) -> tuple[Tensor, ...]:
    weight_decay, eps, minus_clr = ref.narrow(at.row)
    g, total, d = _denominator_reference(p, g, total, weight_decay, eps, at)
    return ref.addcdiv(p, ref.mul(g, minus_clr, at.grad), d, torch.ones_like(eps), at.dtype), total, s1, s2


# torch's fused CUDA kernel computes in double. row: lr, lr_decay, weight_decay, eps


def _fused_row(hyper: AdagradHyperparameters, step: float, first: bool, powers: PowerTable) -> Row:
    return (hyper.lr, hyper.lr_decay, hyper.weight_decay, hyper.eps)


@triton.jit
def _adagrad_fused(
    p,
    g,
    total,
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
    lr = ops.scalar64(row, 0)
    lr_decay = ops.scalar64(row, 1)
    weight_decay = ops.scalar64(row, 2)
    eps = ops.scalar64(row, 3)
    one = tl.full((), 1.0, tl.float64)
    clr = lr / tl.fma((step - 1.0).to(tl.float64), lr_decay, one)
    if FLAGS & MAXIMIZE:
        g = ops.negate(g)
    if FLAGS & DECAY:
        g = tl.fma(p.to(tl.float64), weight_decay, g.to(tl.float64)).to(tl.float32)
    total = tl.fma(g, g, total)
    d = tl.sqrt_rn(total).to(tl.float64) + eps
    p = (p.to(tl.float64) - (g.to(tl.float64) * clr) / d).to(tl.float32)
    return p, total, s1, s2


def _fused_reference(
    p: Tensor, g: Tensor, total: Tensor, s1: Tensor, s2: Tensor, at: ref.Context
) -> tuple[Tensor, ...]:
    lr, lr_decay, weight_decay, eps = at.row.unbind(0)
    clr = lr / ref.fma((at.step - 1).double(), lr_decay, torch.ones_like(lr))
    if at.has(MAXIMIZE):
        g = ref.negate(g)
    if at.has(DECAY):
        g = ref.fma(p.double(), weight_decay, g.double()).float()
    total = ref.fma(g, g, total)
    d = ref.exact_sqrt(total).double() + eps
    return (p.double() - (g.double() * clr) / d).float(), total, s1, s2


# torch's fused CPU kernel. row: weight_decay, eps, lr / (1 + (step - 1) lr_decay)


def _cpu_fused_row(hyper: AdagradHyperparameters, step: float, first: bool, powers: PowerTable) -> Row:
    return (hyper.weight_decay, hyper.eps, hyper.lr / (1 + (step - 1) * hyper.lr_decay))


@triton.jit
def _adagrad_cpu_fused(
    p,
    g,
    total,
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
    if FLAGS & MAXIMIZE:
        g = ops.negate(g)
    if FLAGS & DECAY:
        g = tl.fma(p, ops.scalar(row, 0), g)
    total = tl.fma(g, g, total)
    d = tl.sqrt_rn(total) + ops.scalar(row, 1)
    return p - tl.div_rn(g * ops.scalar(row, 2), d), total, s1, s2


def _cpu_fused_reference(
    p: Tensor, g: Tensor, total: Tensor, s1: Tensor, s2: Tensor, at: ref.Context
) -> tuple[Tensor, ...]:
    weight_decay, eps, clr = ref.narrow(at.row)
    if at.has(MAXIMIZE):
        g = ref.negate(g)
    if at.has(DECAY):
        g = ref.fma(p, weight_decay, g)
    total = ref.fma(g, g, total)
    d = ref.exact_sqrt(total) + eps
    return p - (g * clr) / d, total, s1, s2


_EAGER_COLUMNS = ("weight_decay", "eps", "-clr")


def _denominator(state: Mapping[str, Tensor], hyper: Any, step: float) -> Tensor:
    """The root of the sum of squares."""
    return torch.sqrt(state["sum"])


def _update(state: Mapping[str, Tensor], grad: Tensor | None, hyper: Any, step: Any) -> Tensor | None:
    """Of the gradient over the root and eps, with the decayed learning rate."""
    if grad is None:
        return None
    slowed: Tensor = grad / (1.0 + (step - 1.0) * hyper.lr_decay)
    return -float(hyper.lr) * slowed / (_denominator(state, hyper, step) + float(hyper.eps))


ADAGRAD = register(
    Algorithm(
        name="adagrad",
        title="Adagrad",
        hyperparameters=AdagradHyperparameters,
        positional=("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"),
        states=(State(name="sum", degree=2),),
        hyperparameter_degrees={"lr": 0, "lr_decay": 0, "weight_decay": 1, "initial_accumulator_value": 2, "eps": 1},
        flags=_flags,
        initial=("initial_accumulator_value",),
        denominator=_denominator,
        update=_update,
        fill=lambda hyper: float(hyper.initial_accumulator_value),
        eager_state=True,
        recipes={
            "foreach": Recipe(
                name="foreach",
                equals="torch.optim.Adagrad(foreach=True) on CUDA",
                rule=_adagrad_foreach,
                reference=_foreach_reference,
                row=_eager_row,
                columns=_EAGER_COLUMNS,
                in_place=True,
                ordinary=_ordinary,
            ),
            "for-loop": Recipe(
                name="for-loop",
                equals="torch.optim.Adagrad(foreach=False) on CUDA",
                rule=_adagrad_for_loop,
                reference=_for_loop_reference,
                row=_eager_row,
                columns=_EAGER_COLUMNS,
            ),
            "fused": Recipe(
                name="fused",
                equals="torch.optim.Adagrad(fused=True) on CUDA (torch 2.13 and later; torch._fused_adagrad_ before)",
                rule=_adagrad_fused,
                reference=_fused_reference,
                row=_fused_row,
                columns=("lr", "lr_decay", "weight_decay", "eps"),
                unscale="divide",
                device_step=True,
                double=True,
            ),
            "cpu-fused": Recipe(
                name="cpu-fused",
                equals="torch.optim.Adagrad(fused=True) on the CPU, float32, sizes that are multiples of 64",
                rule=_adagrad_cpu_fused,
                reference=_cpu_fused_reference,
                row=_cpu_fused_row,
                columns=("weight_decay", "eps", "clr"),
                unscale="divide",
            ),
        },
    )
)
