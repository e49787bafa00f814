"""What torch.optim itself computes on this CPU: its fused kernels, and all of SGD, against our recipes."""

import itertools
from typing import Any

import pytest
import torch

import kernels
from kernels import bits

CAPABILITY = torch.backends.cpu.get_cpu_capability()
pytestmark = pytest.mark.skipif(
    CAPABILITY not in ("AVX2", "AVX512"),
    reason=f"the CPU capability is {CAPABILITY}: torch's kernels round differently without hardware fma",
)

SIZES = (64, 1024, 4160)
"""Multiples of 64: the scalar tail of torch's vectorised loops may round differently."""


def _grid(**choices: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


SIGNS = {"weight_decay": (0.0, 0.1), "maximize": (False, True)}
ADAM = [
    *_grid(**SIGNS, amsgrad=(False, True)),
    *_grid(**SIGNS, betas=((0.3, 0.6), (0.5, 0.9), (0.0, 0.0)), eps=(1e-3,)),
]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        *_grid(**SIGNS, momentum=(0.0, 0.9)),
        *_grid(**SIGNS, momentum=(0.9,), dampening=(0.3, 1.0)),
        *_grid(**SIGNS, momentum=(0.9,), nesterov=(True,)),
    ],
    "Adam": ADAM,
    "AdamW": ADAM,
    "Adagrad": _grid(**SIGNS, lr_decay=(0.0, 0.013), initial_accumulator_value=(0.0, 0.1), eps=(1e-10, 1e-3)),
}
IMPLEMENTATIONS = {"cpu-fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}
CASES = [
    *((name, "cpu-fused", options) for name, listed in OPTIONS.items() for options in listed),
    *(("SGD", recipe, options) for recipe in ("foreach", "for-loop") for options in OPTIONS["SGD"]),
]


def _ident(case: tuple[str, str, dict[str, Any]]) -> str:
    name, recipe, options = case
    return "-".join([name, recipe, *(f"{key}={value}" for key, value in options.items() if value)])


def _values(size: int, seed: int, kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, generator=generator)
    if kind == "wide":
        x = x * torch.exp2(torch.randint(-30, 30, (size,), generator=generator).float())
    return x


@pytest.mark.parametrize("case", CASES, ids=map(_ident, CASES))
def test_recipe_equals_torch_on_the_cpu(case: tuple[str, str, dict[str, Any]]) -> None:
    name, recipe, options = case
    for kind in ("normal", "wide"):
        starts = [_values(size, size, kind) for size in SIZES]
        ours, theirs = ([torch.nn.Parameter(x.clone()) for x in starts] for _ in range(2))
        left = getattr(kernels, name)(ours, lr=0.05, recipe=recipe, backend="reference", **options)
        right = getattr(torch.optim, name)(theirs, lr=0.05, **IMPLEMENTATIONS[recipe], **options)
        for step in range(5):
            for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                a.grad = _values(a.numel(), 100 * step + k, kind)
                b.grad = a.grad.clone()
            left.step()
            right.step()
            for a, b in zip(ours, theirs, strict=True):
                found = bits.report(a.detach(), b.detach())
                assert found is None, f"{kind}, step {step + 1}: {found}"
        for a, b in zip(ours, theirs, strict=True):
            for key, value in right.state[b].items():
                if torch.is_tensor(value) and value.dim():
                    assert bits.report(left.state[a][key], value) is None, key
