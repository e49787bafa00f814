"""One model of a module, as all of them are run: what is refused, and what becomes of its buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from kernels import bits

from ..support.errors import InputError
from .data import Batch
from .dropout import Dropout, seeded
from .modules import ModuleNetwork

Named = Mapping[str, Tensor]


class Prototype:
    """The function of one model that `copies.Copies` maps over many.

    Args:
        network: the module's entry.
        modules: of every initialisation, as they were built; the first is taken over.
        sample: data of at least one family, for a trial pass.
        compute: the format of parameters and buffers.
        device: where.

    Attributes:
        module: the first, in that format, its dropout replaced.
        initial: [inits, n] float32 on the CPU, the trained parameters of every initialisation.
        dropouts: by name, with the shapes of their inputs.
        own: buffers and frozen parameters that families do not share, [inits, …]: those that forward changes, and those
            that were drawn.
        saved_bytes: what one model's forward keeps for its backward.

    Raises:
        InputError: for a module that cannot be run as a population, with the reason.
    """

    def __init__(
        self,
        network: ModuleNetwork,
        modules: Sequence[nn.Module],
        sample: Batch,
        *,
        compute: torch.dtype,
        device: torch.device,
    ) -> None:
        self._network = network
        self._compute = compute
        self.module = modules[0]
        for name, parameter in self.module.named_parameters():
            if isinstance(parameter, nn.parameter.UninitializedParameter) or parameter.dtype != torch.float32:
                raise self.refused(f"its parameter {name} is no float32 tensor of a size; make it so")
        if not any(parameter.numel() for parameter in trained(self.module).values()):
            raise self.refused("it has no parameter to train")
        for init, other in enumerate(modules):
            self._check_like(other, init)
        flat = [torch.cat([p.reshape(-1) for p in trained(module).values()]) for module in modules]
        self.initial = torch.stack(flat).detach()
        try:
            self.dropouts: dict[str, Dropout] = seeded(self.module)
        except ValueError as error:
            raise self.refused(str(error)) from None
        for module in modules:
            module.to(device, compute)
        self.saved_bytes = 0
        changed = self._trial(sample)
        self.own: dict[str, Tensor] = {}
        self._shared: dict[str, Tensor] = {}
        self._changed = tuple(changed)
        for name, first in _constants(self.module).items():
            alike = [dict(_constants(module))[name] for module in modules]
            if name in changed:
                alike = [changed[name], *alike[1:]]
            if name in changed or any(not _same(first, other) for other in alike):
                self.own[name] = torch.stack(alike)
            else:
                self._shared[name] = first

    def __call__(
        self, parameters: Named, own: Named, inputs: Tensor, targets: Tensor, masks: Mapping[str, Sequence[Tensor]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one model, in float32, and the buffers that its forward changed."""
        for name, dropout in self.dropouts.items():
            dropout.begin(masks[name])
        numbers = {**parameters, **self._shared, **own}  # buffers that forward changes or replaces come back in it
        outputs = functional_call(self.module, numbers, (inputs,))
        return self._network.loss(outputs.float(), targets), {name: numbers[name] for name in self._changed}

    def converted(self, inputs: Tensor) -> Tensor:
        """Inputs as the module takes them: floating ones in its format."""
        return inputs.to(self._compute) if inputs.is_floating_point() else inputs

    def refused(self, reason: str) -> InputError:
        """Why the module cannot be run."""
        return InputError("--network", self._network.name, f"the module engine cannot run it: {reason}")

    def _check_like(self, other: nn.Module, init: int) -> None:
        """Refuse a module of another initialisation whose tensors are not those of the first."""
        ours, theirs = _tensors(self.module), _tensors(other)
        for name in dict.fromkeys((*ours, *theirs)):
            if ours.get(name) != theirs.get(name):
                first, second = ("missing" if kind is None else kind for kind in (ours.get(name), theirs.get(name)))
                raise self.refused(
                    f"its models disagree: {name} is {first} in the first and {second} in model {init}; make all alike"
                )
        kept, beside = _kept(self.module), _kept(other)
        seen = _registered(self.module) | _registered(other)
        for name in dict.fromkeys((*kept, *beside)):
            if not _alike(kept.get(name), beside.get(name), seen):
                raise self.refused(
                    f"its models disagree: {name}, which is neither a parameter nor a buffer, is another in model "
                    f"{init} than in the first, whose would be taken for all; register it as a buffer"
                )

    def _trial(self, sample: Batch) -> dict[str, Tensor]:
        """Two passes of one model: the module's own, and a functional one.

        Returns:
            The buffers that forward changes, as they were before.
        """
        inputs, targets = self.converted(sample.inputs[0]), sample.targets[0]
        before = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        passed = {name: buffer.clone() for name, buffer in before.items()}
        with torch.random.fork_rng(devices=()):
            for dropout in self.dropouts.values():
                dropout.begin(None)
            try:
                with torch.no_grad():
                    outputs = self.module(inputs)
            except Exception as error:
                first = str(error).strip().partition("\n")[0]
                raise self.refused(
                    f"a pass of one model in {self._compute} fails ({type(error).__name__}: {first})"
                ) from error
            if not isinstance(outputs, Tensor):
                raise self.refused(f"its forward returns a {type(outputs).__name__}; return one tensor")
            for dropout in self.dropouts.values():
                dropout.begin([inputs.new_ones(shape, dtype=self._compute) for shape in dropout.shapes])
            with torch.autograd.graph.saved_tensors_hooks(self._count, lambda kept: kept):
                again = functional_call(self.module, passed, (inputs,))
                loss = self._network.loss(again.float(), targets)
        if not _same(outputs, again):
            raise self.refused(
                "two passes of the same numbers differ: it draws random numbers (masks come from nn.Dropout modules "
                "alone), keeps something besides its buffers, or changes its input"
            )
        if loss.dim() or not loss.requires_grad:
            raise self.refused(f"its loss has shape {tuple(loss.shape)}; give one number that depends on parameters")
        parameters = trained(self.module)
        grads = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
        for name, grad in zip(parameters, grads, strict=True):
            if grad is None:
                raise self.refused(f"its parameter {name} takes no part in the loss; set requires_grad=False")
            if grad.layout != torch.strided:
                raise self.refused(f"the gradient of {name} is sparse; make it dense")
        for name, value in before.items():
            now = passed[name]
            if now.shape != value.shape or _kind(now) != _kind(value):
                raise self.refused(
                    f"its buffer {name} is {tuple(value.shape)} of {value.dtype} before a pass and {tuple(now.shape)} "
                    f"of {now.dtype} after it; keep shape and kind"
                )
        return {name: value for name, value in before.items() if not _same(value, passed[name])}

    def _count(self, kept: Tensor) -> Tensor:
        self.saved_bytes += kept.numel() * kept.element_size()
        return kept


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name; those that are tied once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _tensors(module: nn.Module) -> dict[str, str]:
    """Parameters and buffers by name: which they are, of what shape and dtype."""
    every = (("parameter", module.named_parameters()), ("buffer", module.named_buffers()))
    return {
        name: f"a {what} of shape {tuple(tensor.shape)} and {tensor.dtype}" + " to train" * tensor.requires_grad
        for what, tensors in every
        for name, tensor in tensors
    }


def _constants(module: nn.Module) -> dict[str, Tensor]:
    """Buffers and frozen parameters by name."""
    frozen = ((name, p.detach()) for name, p in module.named_parameters() if not p.requires_grad)
    return dict(chain(module.named_buffers(), frozen))


def _kept(module: nn.Module) -> dict[str, Any]:
    """What a module and those inside it keep besides parameters, buffers and modules, by name."""
    own = vars(nn.Module())
    return {
        f"{prefix}.{name}".removeprefix("."): value
        for prefix, child in module.named_modules()
        for name, value in vars(child).items()
        if name not in own
    }


def _registered(module: nn.Module) -> set[int]:
    """Parameters, buffers and modules, by identity: they are compared by their own names."""
    return {id(part) for part in chain(module.modules(), module.parameters(), module.buffers())}


def _alike(a: Any, b: Any, seen: set[int]) -> bool:
    """Whether numbers and tensors are the same, also inside lists and the like; anything else is not looked at.

    Nor is what ``seen`` has by identity: lists may hold themselves, and what is registered.
    """
    if id(a) in seen and id(b) in seen:
        return True
    if isinstance(a, (dict, list, tuple, nn.Module)):
        seen |= {id(a), id(b)}
    if isinstance(a, nn.Module) and isinstance(b, nn.Module):
        # In a list modules are not registered.
        a, b = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(value, b[key], seen) for key, value in a.items())
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_alike(x, y, seen) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and (a.dtype.hasobject or a.tobytes() == b.tobytes())
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.layout != torch.strided or b.layout != torch.strided or _same(a, b)
    kinds = (Number, Tensor, np.ndarray, list, tuple, dict)
    if not isinstance(a, kinds) and not isinstance(b, kinds):
        return True
    return type(a) is type(b) and repr(a) == repr(b)


def _kind(tensor: Tensor) -> tuple[bool, ...]:
    """Whether numbers are flags, floating, complex: others are whole."""
    return tensor.dtype == torch.bool, tensor.is_floating_point(), tensor.is_complex()


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bits.mismatches(a, b) == 0 if a.is_floating_point() else torch.equal(a, b)
