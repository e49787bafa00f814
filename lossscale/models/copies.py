"""Forward and backward of many models of one module at once, by ``torch.func``.

A call takes a fixed number of models (`ModuleNetwork.together`) through ``vmap`` of ``functional_call`` and
differentiates the losses, each multiplied by its model's loss scale. The loss is formed in float32 whatever the format,
so the scale enters as the float32 gradient of the loss. Every parameter of a call starts on a cache line of its own:
matrix products may round otherwise at another alignment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.func import vmap

from kernels import bits

from .data import Batch
from .dropout import Masks
from .modules import ModuleNetwork
from .products import products
from .prototype import Prototype, trained

_LINE: Final = 64
"""Numbers between the starts of parameters: a cache line of the widest format and more of the others."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a parameter lies: in a model's n numbers, and in the numbers of a call."""

    name: str
    shape: torch.Size
    columns: slice
    padded: slice


def _places(parameters: Mapping[str, nn.Parameter]) -> list[_Place]:
    places: list[_Place] = []
    start = padded = 0
    for name, parameter in parameters.items():
        count = parameter.numel()
        columns, in_call = slice(start, start + count), slice(padded, padded + count)
        places.append(_Place(name=name, shape=parameter.shape, columns=columns, padded=in_call))
        start, padded = start + count, padded + _rounded(count)
    return places


def _rounded(count: int) -> int:
    """Up to whole lines."""
    return -(-count // _LINE) * _LINE


class Copies:
    """The models of several families, on one device and in one format.

    Args:
        network: the module, its loss and how many run together.
        seed: of the run.
        inits: of the families.
        members: models of a family, which are next to each other.
        compute: the format of forward and backward.
        device: where.

    Attributes:
        initial: [inits, n] float32 on the CPU, every family's parameters.
        models: of all families.
        call_bytes: what a call keeps between its forward and the end of its backward, about.

    Raises:
        InputError: for a module that cannot be run so, with the reason.
    """

    def __init__(
        self,
        network: ModuleNetwork,
        *,
        seed: int,
        inits: Sequence[int],
        members: int,
        compute: torch.dtype,
        device: torch.device,
    ) -> None:
        self._network = network
        self._compute = compute
        self._device = device
        self._together = network.together
        self._members = members
        self.models = len(inits) * members
        modules = [network.built(seed, init) for init in inits]
        sample = network.stream(seed=seed, inits=inits[:1], device=device).batch(1)
        self._prototype = Prototype(network, modules, sample, compute=compute, device=device)
        self.initial = self._prototype.initial
        self._places = _places(trained(self._prototype.module))
        self._masks = Masks(self._prototype.dropouts, seed=seed, inits=inits, dtype=compute, device=device)
        width = _rounded(self._places[-1].padded.stop)
        self._numbers = torch.zeros(self._together, width, dtype=compute, device=device)
        self.call_bytes = self._together * 2 * (self._prototype.saved_bytes + self._numbers[0].nbytes)
        # The last call is filled up with models that repeat the last one.
        calls = -(-self.models // self._together)
        model = torch.arange(calls * self._together).clamp(max=self.models - 1)
        self._model_of = model.view(calls, self._together)
        self._family_of = (self._model_of // members).to(device)
        self._own = {
            name: values[torch.div(model, members, rounding_mode="floor").to(device)]
            for name, values in self._prototype.own.items()
        }

    def gradients(self, params: Tensor, batch: Batch, loss_scale: Tensor, out: Tensor, *, step: int) -> Tensor:
        """Writes each model's gradient of loss_scale · loss into ``out``; buffers that forward changes move on.

        Args:
            params: [models, n], in any format.
            batch: data of the families.
            loss_scale: [models] float32.
            out: [models, n], overwritten with the gradients in its format.
            step: counted from 1; decides the masks of dropout.

        Returns:
            [models] float32: the losses, not scaled.
        """
        masks = self._masks.of(step)
        losses = []
        with products(self._compute, self._device):
            for call, models in enumerate(self._model_of):
                first = call * self._together
                kept = min(self._together, self.models - first)
                whole = kept == self._together
                leaves = self._leaves(params[first : first + kept] if whole else params[models])
                loss = self._forward(leaves, self._family_of[call], batch, masks, slice(first, first + self._together))
                grads = self._backward(leaves, loss, loss_scale[first : first + kept] if whole else loss_scale[models])
                for place, grad in zip(self._places, grads, strict=True):
                    out[first : first + kept, place.columns] = grad.reshape(self._together, -1)[:kept]
                losses.append(loss.detach()[:kept])
        return torch.cat(losses)

    def check(self, params: Tensor, batch: Batch) -> None:
        """Refuse a module that ``vmap`` cannot map, or of which equal models in different places get unequal bits.

        Args:
            params: [models, n]; the first is put into every place.
            batch: data of the families; the first's.
        """
        masks, saved = self._masks.of(1), self._own
        self._own = {
            name: values[:1].expand(self._together, *values.shape[1:]).clone() for name, values in saved.items()
        }
        family = torch.zeros_like(self._family_of[0])
        leaves = self._leaves(params[:1].expand(self._together, -1))
        try:
            with products(self._compute, self._device):
                loss = self._forward(leaves, family, batch, masks, slice(0, self._together))
                grads = self._backward(leaves, loss, torch.ones_like(loss))
        except RuntimeError as error:  # a single model was run before
            first = str(error).strip().partition("\n")[0]
            raise self._prototype.refused(f"many models at once are too much for it ({first})") from error
        finally:
            self._own = saved
        names = ["loss", *(place.name for place in self._places)]
        for name, values in zip(names, [loss.detach(), *grads], strict=True):
            if bits.mismatches(values, values[:1].expand_as(values)):
                raise self._prototype.refused(
                    f"equal models differ in {name} by their place among the {self._together} of a call, for what is "
                    "left over after whole vectors rounds otherwise; give it together=64"
                )

    def _leaves(self, params: Tensor) -> list[Tensor]:
        leaves = []
        for place in self._places:
            numbers = self._numbers[:, place.padded]
            numbers.copy_(params[:, place.columns])
            leaves.append(numbers.view(self._together, *place.shape).detach().requires_grad_())
        return leaves

    def _forward(
        self, leaves: list[Tensor], family: Tensor, batch: Batch, masks: Mapping[str, tuple[Tensor, ...]], models: slice
    ) -> Tensor:
        named = {place.name: leaf for place, leaf in zip(self._places, leaves, strict=True)}
        own = {name: values[models].clone() for name, values in self._own.items()}
        inputs = self._prototype.converted(batch.inputs[family])
        chosen = {name: tuple(mask[family] for mask in uses) for name, uses in masks.items()}
        losses, changed = vmap(self._prototype, randomness="error")(named, own, inputs, batch.targets[family], chosen)
        for name, values in changed.items():
            self._own[name][models] = values.detach()
        return losses

    def _backward(self, leaves: list[Tensor], losses: Tensor, loss_scale: Tensor) -> Sequence[Tensor]:
        grads: Sequence[Tensor] = torch.autograd.grad((losses * loss_scale).sum(), leaves)
        return grads
