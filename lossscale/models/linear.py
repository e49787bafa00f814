"""A Linear layer of many models: in a stated order by vector code on a CPU, where its sizes fit, else by torch.bmm."""

from __future__ import annotations

import functools
from typing import Protocol

import torch
from torch import Tensor

import kernels


class Linear(Protocol):
    """Weight [outputs, inputs] and after it the bias [outputs] of every model, in its parameters [models, n]."""

    @property
    def independent(self) -> bool:
        """Whether a model's bits do not depend on how many others are computed with it."""

    def forward(self, params: Tensor, x: Tensor, *, relu: bool) -> Tensor:
        """[models, outputs, samples] of x [models or families, inputs, samples]."""

    def gradients(self, upstream: Tensor, x: Tensor, out: Tensor) -> None:
        """Write the gradients of weight and bias to their places in ``out`` [models, n]."""

    def below(self, params: Tensor, upstream: Tensor, activation: Tensor) -> Tensor:
        """[models, inputs, samples]: what flows back through a ReLU, whose outputs are ``activation``."""


@functools.cache
def linear(inputs: int, outputs: int, start: int, samples: int, device: torch.device) -> Linear:
    """The layer whose weight begins at ``start`` of a model's parameters."""
    if kernels.resolve_backend("auto", device) == "simd" and kernels.MinibatchLinear.fits(inputs, samples):
        return kernels.MinibatchLinear(inputs, outputs, samples, start=start, backend="simd")
    return BatchedLinear(inputs, outputs, start)


class BatchedLinear:
    """By torch.bmm, on any device: the order of a sum is the library's.

    Args:
        inputs, outputs: sizes.
        start: where the weight begins.
    """

    independent = False

    def __init__(self, inputs: int, outputs: int, start: int) -> None:
        self._shape = (outputs, inputs)
        self._weight = slice(start, start + inputs * outputs)
        self._bias = slice(self._weight.stop, self._weight.stop + outputs)

    def forward(self, params: Tensor, x: Tensor, *, relu: bool) -> Tensor:
        """As `Linear.forward`."""
        z = torch.baddbmm(params[:, self._bias].unsqueeze(2), self._matrices(params), _per_model(x, len(params)))
        return z.relu_() if relu else z

    def gradients(self, upstream: Tensor, x: Tensor, out: Tensor) -> None:
        """As `Linear.gradients`."""
        found = torch.bmm(upstream, _per_model(x, len(out)).transpose(1, 2))
        out[:, self._weight] = found.view(len(out), -1)
        torch.sum(upstream, 2, out=out[:, self._bias])

    def below(self, params: Tensor, upstream: Tensor, activation: Tensor) -> Tensor:
        """As `Linear.below`."""
        below = torch.bmm(self._matrices(params).transpose(1, 2), upstream)
        # ReLU's backward, with its rule for NaN: the gradient passes unless the activation is <= 0.
        passed: Tensor = torch.ops.aten.threshold_backward(below, activation, 0.0)
        return passed

    def _matrices(self, params: Tensor) -> Tensor:
        """[models, outputs, inputs], a copy: every matrix then starts at the same alignment, as equal bits need."""
        return params[:, self._weight].contiguous().view(len(params), *self._shape)


def _per_model(shared: Tensor, models: int) -> Tensor:
    """[models, …] from [families, …]: each family's data once for every one of its models."""
    return shared if len(shared) == models else shared.repeat_interleave(models // len(shared), 0)
