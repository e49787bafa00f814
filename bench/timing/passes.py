"""What a step does to memory, counted: every operation's bytes per element, and how many launches it takes.

Ours are one launch over the fewest bytes, from the registry. torch's implementations are watched while they step one
tiny tensor: every operation reads the lists that it is given and writes those that it changes or makes. Nothing is
timed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import DTYPES

from ..providers.ours import Ours
from ..providers.registry import all_providers
from ..providers.torch_optim import TorchOptim
from . import roofline

# Distinguishes the watched tensor from step counters, which have one element.
_WATCHED = 7
_CHUNK, _MOST_CHUNKS = 65536, 320
_MOST_TENSORS: Mapping[int, int] = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
"""Of one launch of torch's multi-tensor kernels, by lists of tensors (aten/src/ATen/native/cuda/MultiTensorApply.cuh).

A block is a chunk of so many elements of one tensor.
"""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One operation of a step over all tensors.

    Attributes:
        name: of the operation.
        bytes_per_element: read and written.
        lists: of tensors that it takes or makes.
        batched: whether a launch takes many tensors on a GPU.
        counters: whether it is over step counters, one number a tensor, and not over the tensors.
    """

    name: str
    bytes_per_element: int
    lists: int
    batched: bool
    counters: bool = False


@dataclass(frozen=True, kw_only=True)
class Work:
    """A step's bytes and launches."""

    bytes_moved: int
    launches: int


def work_of(
    provider: str,
    optimizer: str,
    options: Mapping[str, Any],
    dtype: str,
    shapes: Sequence[tuple[int, ...]],
    device: str,
) -> Work | None:
    """What a provider's step over tensors of these shapes moves and launches; None where nobody can count it.

    Args:
        provider: its name.
        optimizer: torch's class name.
        options: constructor arguments.
        dtype: of parameters, gradients and states.
        shapes: of the tensors.
        device: "cuda", or "cpu", where a launch is a call over one tensor.
    """
    found = _provider(provider)
    sizes = [prod(shape) for shape in shapes]
    if isinstance(found, Ours):
        return Work(bytes_moved=sum(sizes) * roofline.bytes_per_element(optimizer, options, dtype), launches=1)
    if not isinstance(found, TorchOptim) or not found.has(optimizer):
        return None
    passes = watched(found, optimizer, tuple(sorted(options.items())), dtype)
    on_device = found.implementation == "fused" or found.capturable
    if device != "cuda" or not on_device:
        # Step counters live on the host: what is done to them there is the host's business.
        passes = tuple(one for one in passes if not one.counters)
    return Work(
        bytes_moved=sum(one.bytes_per_element for one in passes) * sum(sizes),
        launches=sum(_launches(one, sizes, device) for one in passes),
    )


@cache
def _provider(name: str) -> Any:
    return all_providers().get(name)


def _launches(one: Pass, sizes: Sequence[int], device: str) -> int:
    if device != "cuda" or not one.batched:
        return len(sizes)
    return multi_tensor_launches([1] * len(sizes) if one.counters else sizes, one.lists)


def multi_tensor_launches(sizes: Iterable[int], lists: int) -> int:
    """Launches of one of torch's multi-tensor operations over tensors of these sizes."""
    most = _MOST_TENSORS[min(lists, max(_MOST_TENSORS))]
    launches = tensors = chunks = 0
    for size in filter(None, sizes):
        tensors += 1
        left = -(-size // _CHUNK)
        while left:
            taken = min(left, _MOST_CHUNKS - chunks)
            chunks, left = chunks + taken, left - taken
            if chunks == _MOST_CHUNKS:
                launches += 1
                # A tensor that is not at its end opens the next launch.
                tensors, chunks = int(left > 0), 0
        if tensors == most and chunks:
            launches, tensors, chunks = launches + 1, 0, 0
    return launches + bool(chunks)


@cache
def watched(provider: TorchOptim, optimizer: str, options: tuple[tuple[str, Any], ...], dtype: str) -> tuple[Pass, ...]:
    """The operations of one step of torch's, over one tensor on the CPU; states are there already."""
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, _WATCHED).to(DTYPES[dtype].torch))
    parameter.grad = torch.ones_like(parameter)
    plain = TorchOptim(implementation=provider.implementation.removesuffix("-capturable"))
    made = plain.build(optimizer, [{"params": [parameter]}], dict(options))
    made.step()
    with _Watch() as watch:
        made.step()
    return tuple(watch.passes)


class _Watch(TorchDispatchMode):
    """Notes what the operations inside read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.passes: list[Pass] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        batched = func._schema.name.startswith(("aten::_foreach", "aten::_fused"))
        used = list(_used(func, args, kwargs or {}, result))
        for size in (_WATCHED, 1):
            lists = [one for one in used if any(tensor.numel() == size for tensor in one.tensors)]
            # What writes nothing moves nothing that has to wait: views, and numbers read on the host.
            if any(one.written for one in lists):
                self.passes.append(
                    Pass(
                        name=str(func),
                        bytes_per_element=0 if size == 1 else _bytes(lists),
                        lists=sum(one.many for one in lists) if batched else len(lists),
                        batched=batched,
                        counters=size == 1,
                    )
                )
                break
        return result


@dataclass(frozen=True, kw_only=True)
class _Used:
    """An argument or result of an operation: its tensors, whether it is a list of them, and what is done to them."""

    tensors: tuple[torch.Tensor, ...]
    many: bool
    read: bool
    written: bool


def _bytes(lists: Iterable[_Used]) -> int:
    """Per element, each tensor read once and written once however many arguments it is."""
    read = {id(tensor): tensor.element_size() for one in lists if one.read for tensor in one.tensors}
    written = {id(tensor): tensor.element_size() for one in lists if one.written for tensor in one.tensors}
    return sum(read.values()) + sum(written.values())


def _used(func: Any, args: Sequence[Any], given: Mapping[str, Any], result: Any) -> Iterator[_Used]:
    schema = func._schema
    values = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | dict(given)
    for argument in schema.arguments:
        value = values.get(argument.name)
        written = argument.alias_info is not None and argument.alias_info.is_write
        if argument.name == "grads" and given.get("grad_scale") is None:
            # Fused kernels write gradients only where they take out a scale.
            written = False
        read = not (written and schema.name.removesuffix("_").endswith(("copy", "zero", "fill")))
        yield _Used(tensors=_tensors(value), many=isinstance(value, list | tuple), read=read, written=written)
    if all(returned.alias_info is None for returned in schema.returns):
        yield _Used(tensors=_tensors(result), many=isinstance(result, list | tuple), read=False, written=True)


def _tensors(value: Any) -> tuple[torch.Tensor, ...]:
    if isinstance(value, torch.Tensor):
        return (value,)
    return tuple(one for one in value if isinstance(one, torch.Tensor)) if isinstance(value, list | tuple) else ()
