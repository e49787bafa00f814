"""The parameters beside a saved optimizer: which tensor of the file belongs to which state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from .files import Checkpoint, children

if TYPE_CHECKING:
    from torch import Tensor

_BUFFERS: Final = ("running_mean", "running_var", "num_batches_tracked")
"""Tensors of a module's state_dict that are no parameters."""
_DEEPEST: Final = 4


def parameters_beside(at: Checkpoint) -> tuple[dict[Any, tuple[str, Tensor]], str]:
    """Name and tensor of each parameter of the optimizer, by its place in ``param_groups``, and how they were found.

    By the names in the groups (of an optimizer that was made of ``named_parameters()``); else by order and shape, if
    the file holds a module's state_dict whose tensors, buffers apart, have the shapes of the states in their order.
    """
    groups = at.state_dict["param_groups"]
    places = [place for group in groups for place in group["params"]]
    names = _names(groups, places)
    modules = list(_modules(at.document))
    shapes = [_shape(at.state_dict["state"].get(place)) for place in places]
    named = [module for module in modules if names and all(name in module for name in names)]
    for module in named:
        tensors = [module[name] for name in names]
        if _fit(shapes, tensors):
            return dict(zip(places, zip(names, tensors, strict=True), strict=True)), "by name"
    if named:
        return {}, "those that its groups name have other shapes than the states"
    for module in modules:
        kept = [(name, tensor) for name, tensor in module.items() if name.rpartition(".")[2] not in _BUFFERS]
        if len(kept) == len(places) and _fit(shapes, [tensor for _, tensor in kept]):
            return dict(zip(places, kept, strict=True)), "by order and shape"
    return {}, "the file holds no parameters that fit" if modules else "the file holds no parameters"


def _names(groups: Sequence[Mapping[str, Any]], places: Sequence[Any]) -> list[str]:
    """The parameters' names in the groups, or their places where those are names (as FSDP saves them); else nothing."""
    lists = [group.get("param_names") for group in groups]
    names = [name for found in lists if isinstance(found, list | tuple) for name in found]
    for several in (names, places):
        if len(several) == len(places) and all(isinstance(name, str) for name in several):
            return list(several)
    return []


def _modules(document: Any, depth: int = 0) -> Iterator[Mapping[str, Tensor]]:
    """Every dictionary of nothing but named tensors in a document."""
    import torch

    if isinstance(document, Mapping) and document:
        named = all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in document.items())
        if named:
            yield document
            return
    if depth < _DEEPEST and not (isinstance(document, Mapping) and "param_groups" in document):
        for _, inner in children(document):
            yield from _modules(inner, depth + 1)


def _shape(entry: Mapping[str, Any] | None) -> tuple[int, ...] | None:
    """Of a parameter's states, None where none is of its shape."""
    tensors = [value for name, value in (entry or {}).items() if name != "step" and hasattr(value, "shape")]
    return tuple(tensors[0].shape) if tensors else None


def _fit(shapes: Sequence[tuple[int, ...] | None], tensors: Sequence[Tensor]) -> bool:
    pairs = list(zip(shapes, tensors, strict=True))
    return any(shape is not None for shape in shapes) and all(
        shape is None or shape == tuple(tensor.shape) for shape, tensor in pairs
    )
