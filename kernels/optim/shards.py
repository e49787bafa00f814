"""DTensor parameters (FSDP2, tensor parallelism): a step works on the part of each that this process holds.

An update is elementwise, so the steps of all shards are the whole tensor's, and replicas all take the same one. The
exception are torch's fused kernels, whose rounding depends on an element's place in memory: as in torch, its place in
the shard.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: Not to_local(), which is recorded by autograd and makes a new tensor of a parameter's shard at every call.
_LOCAL = operator.attrgetter("_local_tensor")


def is_dtensor(tensor: Any) -> bool:
    """Whether a tensor is spread over processes (nothing is imported: without the module there are none)."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(tensor, kind)


def shard_of(tensor: Tensor, what: str = "params: a parameter") -> Tensor:
    """What this process holds of a DTensor; another tensor as it is.

    Args:
        tensor: a parameter, gradient or state.
        what: its name, for the error.

    Raises:
        TypeError: for a placement under which the shards are not the tensor's elements, such as Partial.
    """
    if not is_dtensor(tensor):
        return tensor
    for placement in tensor.placements:  # type: ignore[attr-defined]
        strided = type(placement).__name__ == "_StridedShard"
        if not (placement.is_shard() or placement.is_replicate() or strided):
            raise TypeError(
                f"{what}: a DTensor with placement {type(placement).__name__} in {tensor.placements}; "  # type: ignore[attr-defined]
                "redistribute it to Shard or Replicate"
            )
    local: Tensor = _LOCAL(tensor)
    wait = getattr(local, "trigger_wait", None)
    return local if wait is None else wait()


def grad_shard(grad: Tensor, param: Tensor) -> Tensor:
    """The shard of a gradient that belongs to the parameter's, as torch's operators take it.

    A gradient with other placements is redistributed to the parameter's (the sum of a partial one is taken), as in
    torch: every process of the mesh does so, in the parameters' order.

    Raises:
        TypeError: if one of the two is a DTensor and the other is not.
        ValueError: for another mesh or shape.
    """
    _check_alike(grad, param, "grad")
    if is_dtensor(grad) and grad.placements != param.placements:  # type: ignore[attr-defined]
        with torch.no_grad():
            grad = grad.redistribute(placements=param.placements)  # type: ignore[attr-defined]
    return shard_of(grad, "grad")


def state_shard(state: Any, param: Tensor, name: str) -> Any:
    """The shard of a state that belongs to the parameter's.

    Raises:
        TypeError: if one of the two is a DTensor and the other is not.
        ValueError: for another mesh, shape or placement.
    """
    what = f"state {name!r}"
    if not isinstance(state, Tensor):
        return state
    _check_alike(state, param, what)
    if is_dtensor(state) and state.placements != param.placements:  # type: ignore[attr-defined]
        raise ValueError(
            f"{what} of placements {state.placements}: its parameter has {param.placements}; "  # type: ignore[attr-defined]
            "redistribute the state to its parameter's placements"
        )
    return shard_of(state, what)


def _check_alike(tensor: Tensor, param: Tensor, what: str) -> None:
    kinds = ["a DTensor" if is_dtensor(t) else f"a plain {type(t).__name__}" for t in (tensor, param)]
    if is_dtensor(tensor) != is_dtensor(param):
        raise TypeError(f"{what}: {kinds[0]}, its parameter {kinds[1]}; give both the same kind, see distribute_tensor")
    if not is_dtensor(tensor):
        return
    if tensor.device_mesh != param.device_mesh or tensor.shape != param.shape:  # type: ignore[attr-defined]
        raise ValueError(
            f"{what} of shape {tuple(tensor.shape)} on {tensor.device_mesh}: its parameter has shape "  # type: ignore[attr-defined]
            f"{tuple(param.shape)} on {param.device_mesh}; move it to the parameter's mesh"  # type: ignore[attr-defined]
        )


class Shards:
    """The local tensors that DTensors had: FSDP may give a parameter, and a checkpoint a state, another one."""

    def __init__(self, tensors: Sequence[Any]) -> None:
        self._whole = [tensor for tensor in tensors if is_dtensor(tensor)]
        self._local = list(map(_LOCAL, self._whole))
        self._meshes = [(tensor.device_mesh, tensor.placements) for tensor in self._whole]

    def __bool__(self) -> bool:
        return bool(self._whole)

    def hold(self) -> bool:
        """Whether they still have them."""
        return not self._whole or (
            all(map(operator.is_, map(_LOCAL, self._whole), self._local))
            and all((t.device_mesh, t.placements) == was for t, was in zip(self._whole, self._meshes, strict=True))
        )
