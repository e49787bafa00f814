"""How a CPU forms products of float16 matrices."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten: Any = torch.ops.aten
_PRODUCTS = {_aten.bmm.default, _aten.mm.default, _aten.addmm.default, _aten.baddbmm.default}


class Widened(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Products of float16 matrices as float32 products of the same numbers, rounded once.

    torch's own also sum in float32 and round once; where a CPU has no float16 products they are loops (Zen 5, 4 x 64
    tokens through a transformer of 354,401 parameters: 78 ms a model and step, 12 so).
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, widened if it is a product of float16 matrices."""
        if func in _PRODUCTS and args[0].dtype is torch.float16 and args[0].device.type == "cpu":
            widened = func(*(arg.float() for arg in args), **(kwargs or {}))
            return widened.to(torch.float16)
        return func(*args, **(kwargs or {}))


def products(compute: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """Torch's own products, but for float16 on a CPU."""
    plain: AbstractContextManager[Any] = nullcontext()
    return Widened() if compute is torch.float16 and device.type == "cpu" else plain  # type: ignore[no-untyped-call]
