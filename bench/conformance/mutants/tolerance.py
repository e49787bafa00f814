"""How other suites decide that two optimizers agree: replicas of their tolerance styles, on final parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from kernels import bits

Tensors = list[torch.Tensor]

_COARSE = (torch.bfloat16, torch.float16)


def _norm(mine: Tensors, other: Tensors) -> bool:
    """The norm of each tensor within 1%."""
    return all(abs(float(a.norm() - b.norm())) <= 0.01 * float(b.norm()) for a, b in _wide(mine, other))


def _allclose(mine: Tensors, other: Tensors) -> bool:
    """Every element within 1e-3, relative and absolute."""
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in _wide(mine, other))


def _fifteen_outliers(mine: Tensors, other: Tensors) -> bool:
    """At most 15 elements of a tensor outside 1e-5 + 1e-6 (1e-3 + 1e-4 in low precision)."""
    coarse = mine[0].dtype in _COARSE
    rtol, atol = (1e-3, 1e-4) if coarse else (1e-5, 1e-6)
    return all(int((~torch.isclose(a, b, rtol=rtol, atol=atol)).sum()) <= 15 for a, b in _wide(mine, other))


def _one_percent(mine: Tensors, other: Tensors) -> bool:
    """At most 1% of all elements outside 1e-4 (1e-2 in low precision)."""
    bound = 1e-2 if mine[0].dtype in _COARSE else 1e-4
    outside = [~torch.isclose(a, b, rtol=bound, atol=bound) for a, b in _wide(mine, other)]
    return sum(int(o.sum()) for o in outside) <= 0.01 * sum(o.numel() for o in outside)


def _cosine(mine: Tensors, other: Tensors) -> bool:
    """The angle between all parameters: cosine at least 0.999."""
    a, b = (torch.cat([t.double().reshape(-1) for t in tensors]) for tensors in (mine, other))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0)) >= 0.999


STYLES: Mapping[str, Callable[[Tensors, Tensors], bool]] = {
    "norm 1%": _norm,
    "allclose 1e-3": _allclose,
    "15 outliers": _fifteen_outliers,
    "1% outliers": _one_percent,
    "cosine .999": _cosine,
}


def _wide(mine: Tensors, other: Tensors) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(a.double(), b.double()) for a, b in zip(mine, other, strict=True)]


def accepted(mine: Tensors, other: Tensors) -> set[str]:
    """The styles that see no difference: all where there is none, infinite and NaN values included."""
    kept = [(a.detach(), b.detach()) for a, b in zip(mine, other, strict=True) if a.numel()]
    if all(not bits.mismatches(a, b) for a, b in kept):
        return set(STYLES)
    first, second = [a for a, _ in kept], [b for _, b in kept]
    return {name for name, agree in STYLES.items() if agree(first, second)}
