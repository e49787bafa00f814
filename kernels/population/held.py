"""What a population holds, looked at before every step: parameters and states can be replaced or resized in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..launch.checks import bytes_spanned, check_tensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How parameters and states lie, as kernels read and write them.

    Attributes:
        shape: [models, n], of each.
        dtype: of the parameters.
        state_dtype: of the states.
        device: where all are.
        names: of the states.
    """

    shape: torch.Size
    dtype: torch.dtype
    state_dtype: torch.dtype
    device: torch.device
    names: Sequence[str]

    def check(self, params: Tensor, state: Mapping[str, Tensor], read: Mapping[str, Tensor]) -> None:
        """Refuse what the kernels would read otherwise than it lies, was taken away, or shares memory.

        Args:
            params: as they are now.
            state: likewise, by name.
            read: what is read beside them, by name; it is checked to lie elsewhere and nothing else.

        Raises:
            TypeError, ValueError: the tensor is named.
        """
        self.check_params(params)
        if set(state) != set(self.names):
            given = ", ".join(map(str, state)) or "nothing"
            raise ValueError(
                f"state: {given} given, these hyperparameters keep {', '.join(self.names) or 'none'}; give those"
            )
        for name, tensor in state.items():
            check_tensor(tensor, f"state {name!r}", "convert it", written=True)
            like = tensor.shape == self.shape and tensor.dtype == self.state_dtype and tensor.device == self.device
            if not like or not tensor.is_contiguous():
                raise ValueError(
                    f"state {name!r} of shape {tuple(tensor.shape)} and {tensor.dtype} on {tensor.device}: give a "
                    f"contiguous one of shape {tuple(self.shape)} and {self.state_dtype} on {self.device}, or make the "
                    "population with state_dtype="
                )
        _check_apart({"params": params, **{f"state {name!r}": tensor for name, tensor in state.items()}, **read})

    def check_params(self, params: Tensor) -> None:
        """Refuse parameters that are not as at first, in whatever memory.

        Raises:
            TypeError, ValueError: as `check_tensor`, and for another shape, dtype, device or order.
        """
        check_tensor(params, "params", "convert them", written=True)
        like = params.shape == self.shape and params.dtype == self.dtype and params.device == self.device
        if not like or not params.is_contiguous():
            order = "" if params.is_contiguous() else f", strides {params.stride()}"
            raise ValueError(
                f"params of shape {tuple(params.shape)} and {params.dtype} on {params.device}{order}: they were "
                f"changed since this population was made; give them shape {tuple(self.shape)} and {self.dtype} on "
                f"{self.device} again, contiguous, or make a new one"
            )


def _check_apart(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors of which two share memory."""
    spans = sorted(
        (tensor.data_ptr(), bytes_spanned(tensor), name) for name, tensor in tensors.items() if tensor.numel()
    )
    for (begin, length, name), (other, _, other_name) in pairwise(spans):
        if begin + length > other:
            first, second = sorted((name, other_name))
            raise ValueError(f"{first} and {second} share memory; give each one of its own, such as its .clone()")
