"""Adam-atan2 (Everett et al. 2024, arXiv 2407.05872): Adam without eps, the control that no loss scale can touch.

The update is ``lr · atan2(m_hat, sqrt(v_hat))``. torch has no such optimizer, so the rounding is our own (``native``),
chosen to be computable bit for bit everywhere: the arc tangent is a fixed polynomial in fused multiply-adds.
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
from ..rounding.flags import DECAY, MAXIMIZE, mask
from ..rounding.power import power, square_root
from ..rounding.powers import PowerTable
from .adam import denominator


@dataclass(frozen=True, kw_only=True)
class AdamAtan2Hyperparameters:
    """Adam's hyperparameters without eps; decay is decoupled."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    maximize: bool = False

    def __post_init__(self) -> None:
        if not self.lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {self.lr}")
        for index, beta in enumerate(self.betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        if not self.weight_decay >= 0.0:
            raise ValueError(f"Invalid weight_decay value: {self.weight_decay}")


def _flags(hyper: AdamAtan2Hyperparameters) -> int:
    decay = hyper.weight_decay != 0
    return mask(maximize=hyper.maximize, decay=decay, decoupled=decay)


# row: 1 - lr·wd, 1 - beta1, beta2, 1 - beta2, 1/bc1, 1/sqrt(bc2), -lr


def _row(hyper: AdamAtan2Hyperparameters, step: float, first: bool, powers: PowerTable) -> Row:
    beta1, beta2 = hyper.betas
    decay = 1 - hyper.lr * hyper.weight_decay
    corrections = 1 / (1 - power(beta1, step)), 1 / square_root(1 - power(beta2, step))
    return (decay, 1 - beta1, beta2, 1 - beta2, *corrections, -hyper.lr)


# atan(x)/x on [0, 1] as a polynomial in x^2, highest power first: minimax fit by reweighted least squares,
# relative error 1.6e-8 before rounding.
_COEFFICIENTS = (
    0.0028500077314674854,
    -0.01606913097202778,
    0.0426923967897892,
    -0.07504376024007797,
    0.10640977323055267,
    -0.142036572098732,
    0.1999262124300003,
    -0.3333307206630707,
    1.0,
)
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8 = (tl.constexpr(c) for c in _COEFFICIENTS)
_HALF_PI = tl.constexpr(1.5707963705062866)


@triton.jit
def _atan2(y, x):
    """atan2(y, x) for x >= 0, in float32: one quotient, an eight-fma polynomial, one reflection; 0 where both are 0."""
    size = tl.abs(y)
    steep = size > x
    large = tl.where(steep, size, x)
    quotient = tl.where(large == 0.0, large, tl.div_rn(tl.where(steep, x, size), large))
    square = quotient * quotient
    series = square * 0.0 + _C0
    series = tl.fma(series, square, _C1)
    series = tl.fma(series, square, _C2)
    series = tl.fma(series, square, _C3)
    series = tl.fma(series, square, _C4)
    series = tl.fma(series, square, _C5)
    series = tl.fma(series, square, _C6)
    series = tl.fma(series, square, _C7)
    series = tl.fma(series, square, _C8)
    angle = series * quotient
    angle = tl.where(steep, _HALF_PI - angle, angle)
    return tl.where(y < 0.0, ops.negate(angle), angle)


@triton.jit
def _adam_atan2(
    p,
    g,
    m,
    v,
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
        p = p * ops.scalar(row, 0)
    m = ops.lerp(m, g, ops.scalar(row, 1), tl.float32)
    v = tl.fma(g * g, ops.scalar(row, 3), v * ops.scalar(row, 2))
    angle = _atan2(m * ops.scalar(row, 4), tl.sqrt_rn(v) * ops.scalar(row, 5))
    return tl.fma(angle, ops.scalar(row, 6), p), m, v, s2


def _atan2_reference(y: Tensor, x: Tensor) -> Tensor:
    size = y.abs()
    steep = size > x
    large = torch.where(steep, size, x)
    quotient = torch.where(large == 0, large, torch.where(steep, x, size) / large)
    square = quotient * quotient
    series = square * 0 + _COEFFICIENTS[0]
    for coefficient in _COEFFICIENTS[1:]:
        series = ref.fma(series, square, torch.full_like(square, coefficient))
    angle = series * quotient
    angle = torch.where(steep, _HALF_PI.value - angle, angle)
    return torch.where(y < 0, -angle, angle)


def _reference(p: Tensor, g: Tensor, m: Tensor, v: Tensor, s2: Tensor, at: ref.Context) -> tuple[Tensor, ...]:
    decay, one_minus_beta1, beta2, one_minus_beta2, inverse_bc1, inverse_root, minus_lr = ref.narrow(at.row)
    if at.has(MAXIMIZE):
        g = ref.negate(g)
    if at.has(DECAY):
        p = p * decay
    m = ref.lerp(m, g, one_minus_beta1, torch.float32)
    v = ref.fma(g * g, one_minus_beta2, v * beta2)
    angle = _atan2_reference(m * inverse_bc1, ref.exact_sqrt(v) * inverse_root)
    return ref.fma(angle, minus_lr, p), m, v, s2


def _update(state: Mapping[str, Tensor], grad: Tensor | None, hyper: Any, step: Any) -> Tensor:
    """The angle between the bias-corrected first moment and the root."""
    moment = state["exp_avg"] / (1.0 - float(hyper.betas[0]) ** step)
    return -float(hyper.lr) * torch.atan2(moment, denominator(state, hyper, step))


ADAM_ATAN2 = register(
    Algorithm(
        name="adam_atan2",
        title="AdamAtan2",
        hyperparameters=AdamAtan2Hyperparameters,
        positional=("lr", "betas", "weight_decay"),
        states=(State(name="exp_avg", degree=1), State(name="exp_avg_sq", degree=2)),
        hyperparameter_degrees={"lr": 0, "betas": 0, "weight_decay": 0},
        flags=_flags,
        denominator=denominator,
        update=_update,
        recipes={
            "native": Recipe(
                name="native",
                equals="itself on every backend (torch has no Adam-atan2)",
                rule=_adam_atan2,
                reference=_reference,
                row=_row,
                columns=("decay", "1-beta1", "beta2", "1-beta2", "1/bc1", "1/bc2_sqrt", "-lr"),
                unscale="divide",
            )
        },
    )
)
