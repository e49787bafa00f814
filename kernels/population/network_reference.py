"""The gradients of `network.py` as tensor operations over all models: the oracle, on any device.

Nothing here is shared with the Triton source but the numbers that define exp: every sum is written out in the order
that `network.py` states, with the fused multiply-add of `kernels.rounding.reference`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..rounding import reference as ref
from ..rounding.elementary import exp_reference, sigmoid_reference

if TYPE_CHECKING:
    from .network import Network


def exp_sigmoid_gradient(z: Tensor, labels: Tensor, loss_scale: Tensor, dtype: torch.dtype) -> Tensor:
    """[models, 1]: d/dz of loss_scale · (label − exp(sigmoid(z)))."""
    del labels  # the loss is linear in the label
    squashed = ref.round_to(sigmoid_reference(z), dtype)
    output = ref.round_to(exp_reference(squashed), dtype)
    upstream = ref.round_to(-loss_scale.unsqueeze(1) * output, dtype)
    upstream = ref.round_to(upstream * ref.round_to(1 - squashed, dtype), dtype)
    return ref.round_to(upstream * squashed, dtype)


def exp_sigmoid_loss(z: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """[models]: label − exp(sigmoid(z))."""
    squashed = ref.round_to(sigmoid_reference(z), dtype)
    return (labels - ref.round_to(exp_reference(squashed), dtype)).squeeze(1)


def gradients(network: Network, params: Tensor, sample: Tensor, loss_scale: Tensor, compute: torch.dtype) -> Tensor:
    """Gradients of loss_scale · loss, [models, n] float32 holding numbers of the compute format.

    Args:
        network: which.
        params: [models, n], of any format.
        sample: [models, inputs + labels] float32, each model's own copy of its family's.
        loss_scale: [models] float32.
        compute: the format of forward and backward.
    """
    inputs, outputs, weights = _forward(network, params, sample, compute)
    labels = sample[:, network.widths[0] :]
    delta = network.head.reference(outputs, labels, loss_scale, compute)
    found: list[Tensor] = []
    for layer in reversed(range(len(weights))):
        weight_gradient = ref.round_to(delta.unsqueeze(2) * inputs[layer].unsqueeze(1), compute)
        found = [weight_gradient.flatten(1), delta, *found]
        if layer:
            weight = weights[layer]
            total = delta[:, :1] * weight[:, 0]
            for o in range(1, delta.shape[1]):
                total = ref.fma(delta[:, o : o + 1].expand_as(total), weight[:, o], total)
            blocked = inputs[layer] <= 0
            delta = torch.where(blocked, torch.zeros_like(total), ref.round_to(total, compute))
    return torch.cat(found, 1)


def losses(network: Network, params: Tensor, sample: Tensor, compute: torch.dtype) -> Tensor:
    """[models] float32: each model's loss, not scaled; arguments as in `gradients`."""
    outputs = _forward(network, params, sample, compute)[1]
    loss: Tensor = network.head.loss(outputs, sample[:, network.widths[0] :], compute)
    return loss


def _forward(
    network: Network, params: Tensor, sample: Tensor, compute: torch.dtype
) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Each layer's inputs [models, inputs], the last outputs, and each layer's weight [models, outputs, inputs]."""
    cast = ref.round_to(params.float(), compute)
    values = ref.round_to(sample[:, : network.widths[0]], compute)
    if network.squares_input:
        values = ref.round_to(values * values, compute)
    inputs, weights = [values], []
    last = len(network.starts) - 1
    for layer, start in enumerate(network.starts):
        width, out = network.widths[layer : layer + 2]
        weight = cast[:, start : start + width * out].reshape(-1, out, width)
        total = cast[:, start + width * out : start + (width + 1) * out]
        for i in range(width):
            total = ref.fma(weight[:, :, i], inputs[-1][:, i : i + 1].expand_as(total), total)
        total = ref.round_to(total, compute)
        weights.append(weight)
        if layer < last:
            inputs.append(torch.where(total <= 0, torch.zeros_like(total), total))
    return inputs, total, weights
