"""Adam and AdamW: AMSGrad, L2 or decoupled decay, the capturable variants, torch's fused kernels on CUDA and CPU."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..algorithm import Algorithm, Recipe, Row, State, register
from ..rounding import arithmetic as ops
from ..rounding import reference as ref
from ..rounding.flags import AMSGRAD, DECAY, DECOUPLED, MAXIMIZE, OPTIMISTIC, REUSED, SCALED, mask
from ..rounding.power import power, square_root
from ..rounding.powers import PowerTable, reciprocal


@dataclass(frozen=True, kw_only=True)
class AdamHyperparameters:
    """torch.optim.Adam's hyperparameters, defaults and errors."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    maximize: bool = False
    decoupled_weight_decay: bool = False

    def __post_init__(self) -> None:
        if not self.lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {self.lr}")
        if not self.eps >= 0.0:
            raise ValueError(f"Invalid epsilon value: {self.eps}")
        for index, beta in enumerate(self.betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        if not self.weight_decay >= 0.0:
            raise ValueError(f"Invalid weight_decay value: {self.weight_decay}")


@dataclass(frozen=True, kw_only=True)
class AdamWHyperparameters(AdamHyperparameters):
    """torch.optim.AdamW's: Adam's with decoupled weight decay, 0.01 by default."""

    weight_decay: float = 1e-2
    decoupled_weight_decay: bool = True


def _flags(hyper: AdamHyperparameters) -> int:
    return mask(
        maximize=hyper.maximize,
        decay=hyper.weight_decay != 0,
        decoupled=hyper.weight_decay != 0 and hyper.decoupled_weight_decay,
        amsgrad=hyper.amsgrad,
    )


def _decay(hyper: AdamHyperparameters) -> float:
    """What eager torch multiplies by: 1 - lr·wd on the parameter, or wd on its way into the gradient."""
    return 1 - hyper.lr * hyper.weight_decay if hyper.decoupled_weight_decay else hyper.weight_decay


def _ordinary(hyper: AdamHyperparameters) -> bool:
    """Weights that lerp and addcmul take the usual way, and scalars of root and step far from float32's ends."""
    beta1, beta2 = hyper.betas
    lr = hyper.lr == 0 or 2.0**-60 <= hyper.lr <= 2.0**10
    betas = 0.51 <= beta1 <= 1 - 2.0**-20 and 2.0**-20 <= beta2 <= 1 - 2.0**-40
    # The root of a zero, 2^-103 over that of the bias correction, is lost beside eps.
    return lr and betas and 2.0**-76 <= hyper.eps * math.sqrt(1 - beta2) <= 2.0**40


# ---- Eager torch: every line is one ATen operation and rounds to the parameter's dtype. ----
# row: decay, 1 - beta1, beta2, 1 - beta2, eps, then what the denominator and the step are scaled by


def _foreach_row(hyper: AdamHyperparameters, step: float, first: bool, powers: PowerTable) -> Row:
    beta1, beta2 = hyper.betas
    step_size = hyper.lr / (1 - power(beta1, step))
    return (_decay(hyper), 1 - beta1, beta2, 1 - beta2, hyper.eps, square_root(1 - power(beta2, step)), -step_size)


def _for_loop_row(hyper: AdamHyperparameters, step: float, first: bool, powers: PowerTable) -> Row:
    *head, divisor, minus_step_size = _foreach_row(hyper, step, first, powers)
    # The per-tensor division by a host scalar is a multiplication by its reciprocal, taken in double.
    return (*head, reciprocal(divisor), minus_step_size)


def _capturable_row(hyper: AdamHyperparameters, step: float, first: bool, powers: PowerTable) -> Row:
    beta1, beta2 = hyper.betas
    # foreach divides by lr through its reciprocal; the for-loop multiplies by lr.
    head = (_decay(hyper), 1 - beta1, beta2, 1 - beta2, hyper.eps, reciprocal(hyper.lr), hyper.lr)
    return (*head, *powers.place(beta1), *powers.place(beta2))


@triton.jit
def _adam_moments(p, g, m, v, vmax, row, FLAGS: tl.constexpr, DTYPE: tl.constexpr):
    decay = ops.scalar(row, 0)
    if FLAGS & MAXIMIZE:
        g = ops.negate(g)
    if FLAGS & DECAY:
        if FLAGS & DECOUPLED:
            p = ops.mul(p, decay, DTYPE)
        else:
            g = ops.add_scaled(g, p, decay, DTYPE)
    m = ops.lerp(m, g, ops.scalar(row, 1), DTYPE, FLAGS & OPTIMISTIC)
    v = ops.addcmul(ops.mul(v, ops.scalar(row, 2), DTYPE), g, g, ops.scalar(row, 3), DTYPE, FLAGS & OPTIMISTIC)
    if FLAGS & AMSGRAD:
        vmax = ops.maximum(vmax, v)
        d = ops.sqrt(vmax, DTYPE, FLAGS & OPTIMISTIC)
    else:
        d = ops.sqrt(v, DTYPE, FLAGS & OPTIMISTIC)
    return p, m, v, vmax, d


@triton.jit
def _adam_foreach(
    p,
    g,
    m,
    v,
    vmax,
    row,
    step,
    powers,
    lane,
    FLAGS: tl.constexpr,
    DTYPE: tl.constexpr,
    GRAD: tl.constexpr,
    STATE: tl.constexpr,
):
    p, m, v, vmax, d = _adam_moments(p, g, m, v, vmax, row, FLAGS, DTYPE)
    root = ops.scalar(row, 5)
    d = ops.div_by_scalar(d, root, (FLAGS & REUSED) or tl.float32 != DTYPE, FLAGS & OPTIMISTIC)
    d = ops.round_to(d, DTYPE)
    d = ops.add_scalar(d, ops.scalar(row, 4), DTYPE, FLAGS & OPTIMISTIC)
    return ops.addcdiv(p, m, d, ops.scalar(row, 6), DTYPE, FLAGS & OPTIMISTIC), m, v, vmax


@triton.jit
def _adam_for_loop(
    p,
    g,
    m,
    v,
    vmax,
    row,
    step,
    powers,
    lane,
    FLAGS: tl.constexpr,
    DTYPE: tl.constexpr,
    GRAD: tl.constexpr,
    STATE: tl.constexpr,
):
    p, m, v, vmax, d = _adam_moments(p, g, m, v, vmax, row, FLAGS, DTYPE)
    d = ops.add_scalar(ops.mul(d, ops.scalar(row, 5), DTYPE), ops.scalar(row, 4), DTYPE, FLAGS & OPTIMISTIC)
    return ops.addcdiv(p, m, d, ops.scalar(row, 6), DTYPE, FLAGS & OPTIMISTIC), m, v, vmax


@triton.jit
def _adam_foreach_capturable(
    p,
    g,
    m,
    v,
    vmax,
    row,
    step,
    powers,
    lane,
    FLAGS: tl.constexpr,
    DTYPE: tl.constexpr,
    GRAD: tl.constexpr,
    STATE: tl.constexpr,
):
    p, m, v, vmax, d = _adam_moments(p, g, m, v, vmax, row, FLAGS, DTYPE)
    bc1 = ops.negate(ops.bias_correction(powers, row, 7, step))
    minus_step_size = tl.div_rn(tl.full((), 1.0, tl.float32), bc1 * ops.scalar(row, 5))
    root = tl.sqrt_rn(ops.bias_correction(powers, row, 9, step))
    # 0-dim float32 tensors are cast to the parameter's dtype before they meet it.
    d = ops.round_to(ops.div_by_scalar(d, ops.round_to(root, DTYPE), (FLAGS & REUSED) or tl.float32 != DTYPE), DTYPE)
    d = ops.add_scalar(d, ops.scalar(row, 4), DTYPE)
    d = ops.div(d, ops.round_to(minus_step_size, DTYPE), DTYPE)
    return ops.addcdiv(p, m, d, 1.0, DTYPE), m, v, vmax


@triton.jit
def _adam_for_loop_capturable(
    p,
    g,
    m,
    v,
    vmax,
    row,
    step,
    powers,
    lane,
    FLAGS: tl.constexpr,
    DTYPE: tl.constexpr,
    GRAD: tl.constexpr,
    STATE: tl.constexpr,
):
    p, m, v, vmax, d = _adam_moments(p, g, m, v, vmax, row, FLAGS, DTYPE)
    bc1 = ops.bias_correction(powers, row, 7, step)
    one = tl.full((), 1.0, tl.float32)
    # A Python number over a tensor is reciprocal, then multiply.
    minus_step_size = ops.negate(tl.div_rn(one, bc1) * ops.scalar(row, 6))
    root = tl.sqrt_rn(ops.bias_correction(powers, row, 9, step))
    eps = tl.div_rn(one, minus_step_size) * ops.scalar(row, 4)
    d = ops.div(d, ops.round_to(root * minus_step_size, DTYPE), DTYPE)
    d = ops.add_scalar(d, ops.round_to(eps, DTYPE), DTYPE)
    return ops.addcdiv(p, m, d, 1.0, DTYPE), m, v, vmax


def _moments_reference(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, vmax: Tensor, scalars: tuple[Tensor, ...], at: ref.Context
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    decay, one_minus_beta1, beta2, one_minus_beta2 = scalars[:4]
    if at.has(MAXIMIZE):
        g = ref.negate(g)
    if at.has(DECAY):
        if at.has(DECOUPLED):
            p = ref.mul(p, decay, at.dtype)
        else:
            g = ref.add_scaled(g, p, decay, at.dtype)
    m = ref.lerp(m, g, one_minus_beta1, at.dtype)
    v = ref.addcmul(ref.mul(v, beta2, at.dtype), g, g, one_minus_beta2, at.dtype)
    if at.has(AMSGRAD):
        vmax = ref.maximum(vmax, v)
    return p, m, v, vmax, ref.sqrt(vmax if at.has(AMSGRAD) else v, at.dtype)


def _foreach_reference(p: Tensor, g: Tensor, m: Tensor, v: Tensor, vmax: Tensor, at: ref.Context) -> tuple[Tensor, ...]:
    scalars = ref.narrow(at.row)
    eps, root, minus_step_size = scalars[4:]
    p, m, v, vmax, d = _moments_reference(p, g, m, v, vmax, scalars, at)
    d = ref.add_scalar(ref.div(d, root, at.dtype), eps, at.dtype)
    return ref.addcdiv(p, m, d, minus_step_size, at.dtype), m, v, vmax


def _for_loop_reference(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, vmax: Tensor, at: ref.Context
) -> tuple[Tensor, ...]:
    scalars = ref.narrow(at.row)
    eps, inverse_root, minus_step_size = scalars[4:]
    p, m, v, vmax, d = _moments_reference(p, g, m, v, vmax, scalars, at)
    d = ref.add_scalar(ref.mul(d, inverse_root, at.dtype), eps, at.dtype)
    return ref.addcdiv(p, m, d, minus_step_size, at.dtype), m, v, vmax


def _corrections_reference(row: Tensor, column: int, at: ref.Context) -> tuple[Tensor, Tensor]:
    """The float32 bias corrections whose table places start at ``column``."""
    offset1, length1, offset2, length2 = row[column : column + 4].unbind(0)
    first = ref.bias_correction(at.powers, offset1, length1, at.step)
    return first, ref.bias_correction(at.powers, offset2, length2, at.step)


def _foreach_capturable_reference(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, vmax: Tensor, at: ref.Context
) -> tuple[Tensor, ...]:
    scalars = ref.narrow(at.row)
    eps, inverse_lr = scalars[4:6]
    bc1, bc2 = _corrections_reference(at.row, 7, at)
    p, m, v, vmax, d = _moments_reference(p, g, m, v, vmax, scalars, at)
    minus_step_size = 1 / (-bc1 * inverse_lr)
    d = ref.add_scalar(ref.div(d, ref.sqrt(bc2, at.dtype), at.dtype), eps, at.dtype)
    d = ref.div(d, ref.round_to(minus_step_size, at.dtype), at.dtype)
    return ref.addcdiv(p, m, d, torch.ones_like(eps), at.dtype), m, v, vmax


def _for_loop_capturable_reference(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, vmax: Tensor, at: ref.Context
) -> tuple[Tensor, ...]:
    scalars = ref.narrow(at.row)
    eps, _, lr = scalars[4:7]
    bc1, bc2 = _corrections_reference(at.row, 7, at)
    p, m, v, vmax, d = _moments_reference(p, g, m, v, vmax, scalars, at)
    minus_step_size = -((1 / bc1) * lr)
    d = ref.div(d, ref.round_to(ref.exact_sqrt(bc2) * minus_step_size, at.dtype), at.dtype)
    d = ref.add_scalar(d, ref.round_to((1 / minus_step_size) * eps, at.dtype), at.dtype)
    return ref.addcdiv(p, m, d, torch.ones_like(eps), at.dtype), m, v, vmax


# ---- torch's fused CUDA kernel: float32 registers throughout, rounded only when stored. ----
# row: lr, beta1, beta2, eps, weight_decay, then the places of the two bias-correction tables


def _fused_row(hyper: AdamHyperparameters, step: float, first: bool, powers: PowerTable) -> Row:
    beta1, beta2 = hyper.betas
    head = (hyper.lr, beta1, beta2, hyper.eps, hyper.weight_decay)
    return (*head, *powers.place(beta1), *powers.place(beta2))


def _fused_mixed_row(hyper: AdamHyperparameters, step: float, first: bool, powers: PowerTable) -> Row:
    """Of float32 parameters with bfloat16 states: there torch takes the bias corrections from a double pow."""
    beta1, beta2 = hyper.betas
    head = (hyper.lr, beta1, beta2, hyper.eps, hyper.weight_decay)
    return (*head, *powers.place_double(beta1), *powers.place_double_root(beta2))


@triton.jit
def _ema_fused(average, x, beta):
    """beta·average + (1 - beta)·x as torch's kernel contracts it: the inner product x - beta·x is one fma."""
    return tl.fma(beta, average, tl.fma(ops.negate(beta), x, x))


@triton.jit
def _adam_fused(
    p,
    g,
    m,
    v,
    vmax,
    row,
    step,
    powers,
    lane,
    FLAGS: tl.constexpr,
    DTYPE: tl.constexpr,
    GRAD: tl.constexpr,
    STATE: tl.constexpr,
):
    lr = ops.scalar(row, 0)
    beta1 = ops.scalar(row, 1)
    beta2 = ops.scalar(row, 2)
    eps = ops.scalar(row, 3)
    weight_decay = ops.scalar(row, 4)
    bc1 = ops.bias_correction(powers, row, 5, step)
    root = tl.sqrt_rn(ops.bias_correction(powers, row, 7, step))
    step_size = tl.div_rn(lr, bc1)
    if FLAGS & MAXIMIZE:
        g = ops.negate(g)
    if FLAGS & DECAY:
        if FLAGS & DECOUPLED:
            p = tl.fma(p, ops.negate(lr * weight_decay), p)
        elif (FLAGS & AMSGRAD) or (FLAGS & SCALED):
            g = tl.fma(p, weight_decay, g)
        elif FLAGS & MAXIMIZE:
            # nvcc left the L2 term unfused here, in every lane ...
            g = p * weight_decay + g
        else:
            # ... and in lane 0 only here, on both of its paths.
            g = tl.where(lane % 4 == 0, p * weight_decay + g, tl.fma(p, weight_decay, g))
    m = _ema_fused(m, g, beta1)
    v = _ema_fused(v, g * g, beta2)
    if FLAGS & AMSGRAD:
        # A NaN in v is not taken over, one in vmax stays.
        vmax = tl.where(vmax < v, v, vmax)
        d = ops.sqrt(vmax, tl.float32, FLAGS & OPTIMISTIC)
    else:
        d = ops.sqrt(v, tl.float32, FLAGS & OPTIMISTIC)
    d = ops.div_by_scalar(d, root, (FLAGS & REUSED) or tl.float32 != DTYPE, FLAGS & OPTIMISTIC)
    d = ops.add_scalar(d, eps, tl.float32, FLAGS & OPTIMISTIC)
    return p - ops.quotient(step_size * m, d, FLAGS & OPTIMISTIC), m, v, vmax


def _ema_fused_reference(average: Tensor, x: Tensor, beta: Tensor) -> Tensor:
    return ref.fma(beta, average, ref.fma(-beta, x, x))


def _fused_reference(p: Tensor, g: Tensor, m: Tensor, v: Tensor, vmax: Tensor, at: ref.Context) -> tuple[Tensor, ...]:
    lr, beta1, beta2, eps, weight_decay = ref.narrow(at.row[:5])
    bc1, bc2 = _corrections_reference(at.row, 5, at)
    if at.has(MAXIMIZE):
        g = ref.negate(g)
    if at.has(DECAY):
        contracted = ref.fma(p, weight_decay, g)
        if at.has(DECOUPLED):
            p = ref.fma(p, -(lr * weight_decay), p)
        elif at.has(AMSGRAD) or at.has(SCALED):
            g = contracted
        elif at.has(MAXIMIZE):
            g = p * weight_decay + g
        else:
            g = torch.where(at.lane % 4 == 0, p * weight_decay + g, contracted)
    m = _ema_fused_reference(m, g, beta1)
    v = _ema_fused_reference(v, g * g, beta2)
    if at.has(AMSGRAD):
        vmax = torch.where(vmax < v, v, vmax)
    d = ref.exact_sqrt(vmax if at.has(AMSGRAD) else v) / ref.exact_sqrt(bc2) + eps
    return p - ((lr / bc1) * m) / d, m, v, vmax


# ---- torch's fused CPU kernel: bias corrections in double, its own contractions. ----
# row: decay, 1 - beta1, beta2, 1 - beta2, eps, root of the second bias correction, -step size: as foreach


@triton.jit
def _lerp_cpu(x, end, weight):
    """Lerp as torch has it on the CPU: weight - 1 is subtracted in this order, which shows in a zero at weight 1."""
    near = tl.abs(weight) < 0.5
    return tl.fma(tl.where(near, weight, weight - 1.0), end - x, tl.where(near, x, end))


@triton.jit
def _adam_cpu_fused(
    p,
    g,
    m,
    v,
    vmax,
    row,
    step,
    powers,
    lane,
    FLAGS: tl.constexpr,
    DTYPE: tl.constexpr,
    GRAD: tl.constexpr,
    STATE: tl.constexpr,
):
    decay = ops.scalar(row, 0)
    if FLAGS & MAXIMIZE:
        g = ops.negate(g)
    if FLAGS & DECAY:
        if FLAGS & DECOUPLED:
            p = p * decay
        else:
            g = tl.fma(p, decay, g)
    m = _lerp_cpu(m, g, ops.scalar(row, 1))
    v = tl.fma(ops.scalar(row, 3) * g, g, v * ops.scalar(row, 2))
    if FLAGS & AMSGRAD:
        vmax = ops.maximum(vmax, v)
        d = tl.sqrt_rn(vmax)
    else:
        d = tl.sqrt_rn(v)
    d = tl.div_rn(d, ops.scalar(row, 5)) + ops.scalar(row, 4)
    return p + tl.div_rn(ops.scalar(row, 6) * m, d), m, v, vmax


def _lerp_cpu_reference(x: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    near = weight.abs() < 0.5
    return ref.fma(torch.where(near, weight, weight - 1), end - x, torch.where(near, x, end))


def _cpu_fused_reference(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, vmax: Tensor, at: ref.Context
) -> tuple[Tensor, ...]:
    decay, one_minus_beta1, beta2, one_minus_beta2, eps, root, minus_step_size = ref.narrow(at.row)
    if at.has(MAXIMIZE):
        g = ref.negate(g)
    if at.has(DECAY):
        if at.has(DECOUPLED):
            p = p * decay
        else:
            g = ref.fma(p, decay, g)
    m = _lerp_cpu_reference(m, g, one_minus_beta1)
    v = ref.fma(one_minus_beta2 * g, g, v * beta2)
    if at.has(AMSGRAD):
        vmax = ref.maximum(vmax, v)
    d = ref.exact_sqrt(vmax if at.has(AMSGRAD) else v) / root + eps
    return p + (minus_step_size * m) / d, m, v, vmax


_EAGER_HEAD = ("decay", "1-beta1", "beta2", "1-beta2", "eps")
_TABLES = ("powers1_offset", "powers1_length", "powers2_offset", "powers2_length")
_CAPTURABLE_COLUMNS = (*_EAGER_HEAD, "1/lr", "lr", *_TABLES)


def _recipes(title: str) -> dict[str, Recipe]:
    torch_name = f"torch.optim.{title}"
    recipes = (
        Recipe(
            name="foreach",
            equals=f"{torch_name}(foreach=True) on CUDA",
            rule=_adam_foreach,
            reference=_foreach_reference,
            row=_foreach_row,
            columns=(*_EAGER_HEAD, "bc2_sqrt", "-step_size"),
            ordinary=_ordinary,
        ),
        Recipe(
            name="for-loop",
            equals=f"{torch_name}(foreach=False) on CUDA",
            rule=_adam_for_loop,
            reference=_for_loop_reference,
            row=_for_loop_row,
            columns=(*_EAGER_HEAD, "1/bc2_sqrt", "-step_size"),
            ordinary=_ordinary,
        ),
        Recipe(
            name="fused",
            equals=f"{torch_name}(fused=True) on CUDA",
            rule=_adam_fused,
            reference=_fused_reference,
            row=_fused_row,
            mixed_row=_fused_mixed_row,
            columns=("lr", "beta1", "beta2", "eps", "weight_decay", *_TABLES),
            unscale="divide",
            lanes=True,
            device_step=True,
            ordinary=_ordinary,
        ),
        Recipe(
            name="cpu-fused",
            equals=f"{torch_name}(fused=True) on the CPU, float32, sizes that are multiples of 64",
            rule=_adam_cpu_fused,
            reference=_cpu_fused_reference,
            row=_foreach_row,
            columns=(*_EAGER_HEAD, "bc2_sqrt", "-step_size"),
            unscale="divide",
        ),
        Recipe(
            name="foreach-capturable",
            equals=f"{torch_name}(foreach=True, capturable=True) on CUDA",
            rule=_adam_foreach_capturable,
            reference=_foreach_capturable_reference,
            row=_capturable_row,
            columns=_CAPTURABLE_COLUMNS,
            device_step=True,
        ),
        Recipe(
            name="for-loop-capturable",
            equals=f"{torch_name}(foreach=False, capturable=True) on CUDA",
            rule=_adam_for_loop_capturable,
            reference=_for_loop_capturable_reference,
            row=_capturable_row,
            columns=_CAPTURABLE_COLUMNS,
            device_step=True,
        ),
    )
    return {recipe.name: recipe for recipe in recipes}


def _decay_degree(hyper: AdamHyperparameters) -> int:
    """L2 decay enters the gradient and scales with it; decoupled decay does not."""
    return 0 if hyper.decoupled_weight_decay else 1


def denominator(state: Mapping[str, Tensor], hyper: Any, step: float) -> Tensor:
    """The root of the bias-corrected second moment, or of the largest one with AMSGrad."""
    moment = state.get("max_exp_avg_sq", state["exp_avg_sq"])
    return torch.sqrt(moment / (1.0 - float(hyper.betas[1]) ** step))


def _update(state: Mapping[str, Tensor], grad: Tensor | None, hyper: Any, step: Any) -> Tensor:
    """Of the bias-corrected first moment, over the root and eps."""
    moment: Tensor = state["exp_avg"] / (1.0 - float(hyper.betas[0]) ** step)
    return -float(hyper.lr) * moment / (denominator(state, hyper, step) + float(hyper.eps))


_DEGREES: Mapping[str, int | Callable[[Any], int]] = {"lr": 0, "betas": 0, "eps": 1, "weight_decay": _decay_degree}

_STATES = (
    State(name="exp_avg", degree=1),
    State(name="exp_avg_sq", degree=2),
    State(name="max_exp_avg_sq", degree=2, when=lambda hyper: hyper.amsgrad),
)

ADAM = register(
    Algorithm(
        name="adam",
        title="Adam",
        hyperparameters=AdamHyperparameters,
        positional=("lr", "betas", "eps", "weight_decay", "amsgrad"),
        states=_STATES,
        hyperparameter_degrees=_DEGREES,
        flags=_flags,
        denominator=denominator,
        update=_update,
        recipes=_recipes("Adam"),
    )
)

ADAMW = register(
    Algorithm(
        name="adamw",
        title="AdamW",
        hyperparameters=AdamWHyperparameters,
        positional=("lr", "betas", "eps", "weight_decay", "amsgrad"),
        states=_STATES,
        hyperparameter_degrees=_DEGREES,
        flags=_flags,
        denominator=denominator,
        update=_update,
        recipes=_recipes("AdamW"),
    )
)
