"""The products of `linear_simd` as tensor operations over all models, on any device: the oracle.

Every sum is written out in the order of its index, with the fused multiply-add of `kernels.rounding.reference`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..rounding import reference as ref

_LANES = 16


def forward(weight: Tensor, bias: Tensor, x: Tensor, *, relu: bool) -> Tensor:
    """[models, outputs, samples] from [models, outputs, inputs], [models, outputs] and [models, inputs, samples]."""
    total = bias.unsqueeze(2).expand(*bias.shape, x.shape[2])
    for k in range(x.shape[1]):
        total = ref.fma(weight[:, :, k, None], x[:, None, k], total)
    return torch.where(total <= 0, 0.0, total) if relu else total.clone()


def weight_gradient(upstream: Tensor, x: Tensor) -> Tensor:
    """[models, outputs, inputs] from [models, outputs, samples] and [models, inputs, samples]."""
    total = upstream[:, :, 0, None] * x[:, None, :, 0]
    for k in range(1, x.shape[2]):
        total = ref.fma(upstream[:, :, k, None], x[:, None, :, k], total)
    return total


def bias_gradient(upstream: Tensor) -> Tensor:
    """[models, outputs]: samples 16 apart in their order, then the 16 in halves."""
    total = upstream[:, :, :_LANES]
    for first in range(_LANES, upstream.shape[2], _LANES):
        total = total + upstream[:, :, first : first + _LANES]
    while total.shape[2] > 1:
        half = total.shape[2] // 2
        total = total[:, :, :half] + total[:, :, half:]
    return total.squeeze(2)


def below(weight: Tensor, upstream: Tensor, activation: Tensor) -> Tensor:
    """[models, inputs, samples]: what flows back, where the activation is not at most 0."""
    total = weight[:, 0, :, None] * upstream[:, None, 0]
    for k in range(1, upstream.shape[1]):
        total = ref.fma(weight[:, k, :, None], upstream[:, None, k], total)
    return torch.where(activation <= 0, 0.0, total)
