"""Lion (Chen et al. 2023, arXiv 2302.06675), the test of how little a new algorithm takes: this one file."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import Algorithm, Recipe, State, register
from kernels.rounding import arithmetic as ops
from kernels.rounding import reference as ref
from kernels.rounding.flags import DECAY, MAXIMIZE, mask


@dataclass(frozen=True, kw_only=True)
class LionHyperparameters:
    """Decay is decoupled; the step is the sign of an interpolated gradient."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    maximize: bool = False

    def __post_init__(self) -> None:
        if not self.lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {self.lr}")


@triton.jit
def _lion(
    p,
    g,
    m,
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
        p = ops.mul(p, ops.scalar(row, 0), DTYPE)
    direction = ops.lerp(m, g, ops.scalar(row, 1), DTYPE)
    sign = tl.where(direction > 0.0, 1.0, tl.where(direction < 0.0, -1.0, direction))
    m = ops.lerp(m, g, ops.scalar(row, 2), DTYPE)
    return ops.add_scaled(p, sign, ops.scalar(row, 3), DTYPE), m, s1, s2


def _lion_reference(p: Tensor, g: Tensor, m: Tensor, s1: Tensor, s2: Tensor, at: ref.Context) -> tuple[Tensor, ...]:
    decay, one_minus_beta1, one_minus_beta2, minus_lr = ref.narrow(at.row)
    if at.has(MAXIMIZE):
        g = ref.negate(g)
    if at.has(DECAY):
        p = ref.mul(p, decay, at.dtype)
    direction = ref.lerp(m, g, one_minus_beta1, at.dtype)
    # Not `Tensor.sign`, which makes +0 of -0.
    minus_one, one = -torch.ones_like(direction), torch.ones_like(direction)
    sign = torch.where(direction > 0, one, torch.where(direction < 0, minus_one, direction))
    m = ref.lerp(m, g, one_minus_beta2, at.dtype)
    return ref.add_scaled(p, sign, minus_lr, at.dtype), m, s1, s2


LION = register(
    Algorithm(
        name="lion",
        title="Lion",
        hyperparameters=LionHyperparameters,
        positional=("lr", "betas", "weight_decay"),
        states=(State(name="exp_avg", degree=1),),
        hyperparameter_degrees={"lr": 0, "betas": 0, "weight_decay": 0},
        flags=lambda hyper: mask(maximize=hyper.maximize, decay=hyper.weight_decay != 0),
        step_in_row=False,
        recipes={
            "native": Recipe(
                name="native",
                equals="itself on every backend (torch has no Lion)",
                rule=_lion,
                reference=_lion_reference,
                row=lambda hyper, step, first, powers: (
                    1 - hyper.lr * hyper.weight_decay,
                    1 - hyper.betas[0],
                    1 - hyper.betas[1],
                    -hyper.lr,
                ),
                columns=("decay", "1-beta1", "1-beta2", "-lr"),
            )
        },
    )
)
