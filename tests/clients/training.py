"""What the clients train, and by which optimizers: those whose bits on a CPU are torch's own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import kernels
from kernels import bits

OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    # torch's fused kernel on a CPU is our recipe of that name; its steps are counted per parameter.
    "AdamW": {"lr": 0.01},
}
OURS: dict[str, dict[str, Any]] = {"SGD": {}, "AdamW": {"recipe": "cpu-fused"}}
THEIRS: dict[str, dict[str, Any]] = {"SGD": {}, "AdamW": {"fused": True}}


def class_and_options(whose: str, name: str) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """``whose`` is "ours" or "torch"."""
    root, own = (kernels, OURS) if whose == "ours" else (torch.optim, THEIRS)
    return getattr(root, name), {**OPTIONS[name], **own[name]}


def optimizer(whose: str, name: str, params: Any) -> torch.optim.Optimizer:
    kind, options = class_and_options(whose, name)
    return kind(params, **options)


def network() -> torch.nn.Module:
    """Every parameter is a whole number of vectors: torch's CPU kernels round the rest otherwise."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64))


def batches(count: int) -> list[Tensor]:
    return list(torch.randn(count, 8, 64, generator=torch.Generator().manual_seed(1)))


def loss_of(model: Any, x: Tensor) -> Tensor:
    found: Tensor = (model(x) - x.flip(-1)).square().mean()
    return found


Run = Callable[[str, int, int], list[Tensor]]
"""``run(whose, first, last)`` trains from step ``first``, loaded, to ``last``, saved, and returns the parameters."""


def same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """Equal bits."""
    assert sum(bits.mismatches(a.detach(), b.detach()) for a, b in zip(ours, theirs, strict=True)) == 0


def check_both_ways(run: Run, middle: int, last: int) -> None:
    """Ours from begin to end, and either one from the other's checkpoint, against torch alone."""
    straight = run("torch", 0, last)
    same(run("ours", 0, last), straight)
    for first, second in (("torch", "torch"), ("torch", "ours"), ("ours", "torch"), ("ours", "ours")):
        halfway = run(first, 0, middle)
        assert any(bits.mismatches(a.detach(), b.detach()) for a, b in zip(halfway, straight, strict=True))
        same(run(second, middle, last), straight)
