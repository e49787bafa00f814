"""The networks under study, as populations: all models' parameters are one [models, n] tensor.

Forward and backward are batched over models (`linear`) and written by hand, because every operation of the backward
pass must be linear in the upstream gradient: then a loss multiplied by 2**k multiplies every gradient by 2**k, exactly,
whatever the order of a sum. Models of one population also run through the same code at the same shape and alignment,
so equal models give equal bits; `elementwise` sees to the one place where a CPU library would treat the last few models
differently.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

import kernels

from ..support.errors import check_choice
from .data import MINIBATCH, Batch, DigitsStream, Stream, UniformStream, uniforms
from .linear import Linear, linear

_LANES = 256
"""Elements that any CPU's vector loop takes in whole passes (four vectors of 16 floats, with room to spare)."""


_TOGETHER = 256
"""Models whose gradients are formed together where it makes no difference: activations stay in the second cache."""


def elementwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies a transcendental function so that an element's bits do not depend on its position.

    torch's CPU loops hand the elements after the last whole vector to a scalar routine that rounds differently; padding
    makes all vectors whole.
    """
    flat = x.reshape(-1)
    if flat.numel() % _LANES == 0:
        return function(flat).view(x.shape)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % _LANES))
    return function(padded)[: flat.numel()].view(x.shape)


class Head(Protocol):
    """What follows the last Linear layer: from its outputs z [models, outputs, samples] to the loss.

    Targets are [families, outputs, samples], shared by the models of a family.
    """

    def loss(self, z: Tensor, targets: Tensor) -> Tensor:
        """[models]: the loss, not scaled."""

    def gradient(self, z: Tensor, targets: Tensor, loss_scale: Tensor) -> Tensor:
        """[models, outputs, samples]: d(loss_scale · loss)/dz, linear in ``loss_scale`` [models, 1, 1]."""


class ExpSigmoid:
    """loss = label − exp(sigmoid(z)), one sample: the end of the article's network."""

    def loss(self, z: Tensor, targets: Tensor) -> Tensor:
        """[models]."""
        output = elementwise(torch.exp, elementwise(torch.sigmoid, z))
        return (targets.unsqueeze(1) - _by_family(output, targets)).view(len(z))

    def gradient(self, z: Tensor, targets: Tensor, loss_scale: Tensor) -> Tensor:
        """[models, 1, 1]; the products associate as autograd's do."""
        del targets  # the loss is linear in the label
        squashed = elementwise(torch.sigmoid, z)
        output = elementwise(torch.exp, squashed)
        return -loss_scale * output * (1.0 - squashed) * squashed


class CrossEntropy:
    """Mean cross-entropy over the samples."""

    def loss(self, z: Tensor, targets: Tensor) -> Tensor:
        """[models]."""
        shifted = z - z.amax(1, keepdim=True)
        log_total = elementwise(torch.log, elementwise(torch.exp, shifted).sum(1))
        by_family = _by_family(shifted, targets)
        chosen = torch.where(targets.unsqueeze(1) > 0, by_family, torch.zeros_like(by_family)).view(z.shape).sum(1)
        return (log_total - chosen).mean(1)

    def gradient(self, z: Tensor, targets: Tensor, loss_scale: Tensor) -> Tensor:
        """[models, classes, samples]."""
        probabilities = elementwise(torch.exp, z - z.amax(1, keepdim=True))
        probabilities.div_(probabilities.sum(1, keepdim=True))
        _by_family(probabilities, targets).sub_(targets.unsqueeze(1))
        return probabilities.mul_(loss_scale / z.shape[2])


def _by_family(rows: Tensor, targets: Tensor) -> Tensor:
    """[families, models of one, …], a view of [models, …]."""
    return rows.view(len(targets), -1, *rows.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Where one Linear layer lies in a model's n parameters: weight [outputs, inputs], then bias [outputs]."""

    inputs: int
    outputs: int
    start: int

    @property
    def weight(self) -> slice:
        """Columns of the weight, row by row."""
        return slice(self.start, self.start + self.inputs * self.outputs)

    @property
    def bias(self) -> slice:
        """Columns of the bias."""
        return slice(self.weight.stop, self.weight.stop + self.outputs)


@dataclass(frozen=True, kw_only=True)
class Network:
    """Linear layers with ReLU between them, and a head.

    Attributes:
        name: as in the pairs files; the widths are in it.
        widths: features of the input and of every layer's output.
        head: from the last layer's output to the loss.
        stream: ``stream(seed=…, inits=…, device=…)``: its data.
        squares_input: whether the first layer sees the input squared.
    """

    name: str
    widths: tuple[int, ...]
    head: Head
    stream: Callable[..., Stream]
    squares_input: bool = False

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The Linear layers, in torch's order of parameters."""
        layers: list[Layer] = []
        for inputs, outputs in itertools.pairwise(self.widths):
            start = layers[-1].bias.stop if layers else 0
            layers.append(Layer(inputs=inputs, outputs=outputs, start=start))
        return tuple(layers)

    @property
    def parameters(self) -> int:
        """n, the number of parameters of one model."""
        last = self.layers[-1]
        return last.start + (last.inputs + 1) * last.outputs

    def initial(self, seed: int, inits: Sequence[int]) -> Tensor:
        """[inits, n] float32 on the CPU, distributed as ``torch.nn.Linear`` does: uniform within ±1/sqrt(inputs)."""
        drawn = uniforms(seed, f"{self.name}/initial", inits, self.parameters).astype(np.float64)
        for layer in self.layers:
            bound = 1.0 / math.sqrt(layer.inputs)
            drawn[:, layer.start : layer.bias.stop] = drawn[:, layer.start : layer.bias.stop] * (2 * bound) - bound
        return torch.from_numpy(drawn.astype(np.float32))

    def losses(self, params: Tensor, batch: Batch) -> Tensor:
        """[models] float32: each model's loss on its family's batch, not scaled."""
        outputs = self._forward(params, batch)[-1]
        return self.head.loss(outputs, batch.targets)

    def gradients(self, params: Tensor, batch: Batch, loss_scale: Tensor, out: Tensor) -> None:
        """Writes each model's gradient of loss_scale · loss into ``out``.

        Args:
            params: [models, n] float32, the models of one family next to each other.
            batch: data of the families; models are a multiple of families.
            loss_scale: [models] float32.
            out: [models, n] float32, overwritten.
        """
        layers, families = self._linear(batch), len(batch.inputs)
        arms = len(params) // families
        together = families
        if all(layer.independent for layer in layers):
            together = max(1, _TOGETHER // arms)
        for first in range(0, families, together):
            some = slice(first, first + together)
            models = slice(first * arms, (first + together) * arms)
            piece = Batch(inputs=batch.inputs[some], targets=batch.targets[some])
            self._write_gradients(layers, params[models], piece, loss_scale[models].view(-1, 1, 1), out[models])

    def _write_gradients(
        self, layers: Sequence[Linear], params: Tensor, batch: Batch, loss_scale: Tensor, out: Tensor
    ) -> None:
        """`gradients` of models that are computed together."""
        *activations, z = self._forward(params, batch)
        upstream = self.head.gradient(z, batch.targets, loss_scale)
        for index, layer in reversed(list(enumerate(layers))):
            layer.gradients(upstream, activations[index], out)
            if index:
                upstream = layer.below(params, upstream, activations[index])

    def _forward(self, params: Tensor, batch: Batch) -> list[Tensor]:
        """Every layer's input and, last, the outputs of the last layer: [families, …], then [models, …, samples]."""
        values = [batch.inputs * batch.inputs if self.squares_input else batch.inputs]
        *hidden, last = self._linear(batch)
        for layer in hidden:
            values.append(layer.forward(params, values[-1], relu=True))
        return [*values, last.forward(params, values[-1], relu=False)]

    def _linear(self, batch: Batch) -> list[Linear]:
        """What computes the layers for a batch of this size."""
        samples, device = batch.inputs.shape[2], batch.inputs.device
        return [linear(layer.inputs, layer.outputs, layer.start, samples, device) for layer in self.layers]


def _uniform(*, seed: int, inits: Sequence[int], device: torch.device) -> Stream:
    return UniformStream(features=6, seed=seed, inits=inits, device=device)


NETWORKS: Final[Mapping[str, Network]] = MappingProxyType(
    {
        network.name: network
        for network in (
            Network(name="mlp-6-6-1", widths=(6, 6, 1), head=ExpSigmoid(), stream=_uniform, squares_input=True),
            Network(name="mlp-64-32-10", widths=(64, 32, 10), head=CrossEntropy(), stream=DigitsStream),
        )
    }
)
"""Every network, by name."""


def get_network(name: str) -> Network:
    """The network of that name; InputError if there is none."""
    return NETWORKS[check_choice("network", name, NETWORKS)]


def products_key(networks: Sequence[str], device: str) -> dict[str, str]:
    """What a run's bits hang on besides its machine: what forms the products of networks that vector code can train.

    ``products`` is empty where that is what is always taken, and what stands in for it on a CPU without.
    """
    layers = (layer for name in networks if name in NETWORKS for layer in NETWORKS[name].layers)
    if not any(kernels.MinibatchLinear.fits(layer.inputs, MINIBATCH) for layer in layers):
        return {}
    missing = device == "cpu" and kernels.resolve_backend("auto", torch.device(device)) != "simd"
    return {"products": "torch.bmm" if missing else ""}
