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
    if kind == "zeros":
        x = x * torch.tensor([0.0, -0.0, 1.0])[torch.randint(0, 3, (size,), generator=generator)]
    if kind == "wide":
        x = x * torch.exp2(torch.randint(-30, 30, (size,), generator=generator).float())
    return x


def _run(
    case: tuple[str, str, dict[str, Any]],
    dtype: torch.dtype,
    kind: str,
    scale: float | None,
    backend: str = "reference",
) -> None:
    """Five steps of ours and of torch's: parameters, gradients written back, states."""
    name, recipe, options = case
    starts = [_values(size, size, kind).to(dtype) for size in SIZES]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in starts] for _ in range(2))
    left = getattr(kernels, name)(ours, lr=0.05, recipe=recipe, backend=backend, **options)
    right = getattr(torch.optim, name)(theirs, lr=0.05, **IMPLEMENTATIONS[recipe], **options)
    if scale is not None:
        # What GradScaler hands to an optimizer that unscales in its kernel.
        for optimizer in (left, right):
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(0.0)
    for step in range(5):
        for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a.grad = (_values(a.numel(), 100 * step + k, kind) * (scale or 1.0)).to(dtype)
            b.grad = a.grad.clone()
        left.step()
        right.step()
        for a, b in zip(ours, theirs, strict=True):
            found = bits.report(a.detach(), b.detach())
            assert found is None, f"{kind}, step {step + 1}: {found}"
            if scale is not None:
                assert bits.report(a.grad, b.grad) is None
    for a, b in zip(ours, theirs, strict=True):
        for key, value in right.state[b].items():
            if torch.is_tensor(value) and value.dim():
                assert bits.report(left.state[a][key], value) is None, key


@pytest.mark.parametrize("case", CASES, ids=map(_ident, CASES))
def test_recipe_equals_torch_on_the_cpu(case: tuple[str, str, dict[str, Any]]) -> None:
    for kind in ("normal", "wide", "zeros"):
        _run(case, torch.float32, kind, None)
        _run(case, torch.float32, kind, None, backend="simd")


@pytest.mark.parametrize("scale", [2.0**16, 3000.0])
@pytest.mark.parametrize("name", OPTIONS)
def test_grad_scale_is_taken_out_as_torch_does_on_the_cpu(name: str, scale: float) -> None:
    for options in OPTIONS[name]:
        _run((name, "cpu-fused", options), torch.float32, "normal", scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_fused_adam_equals_torch_in_16_bits_on_the_cpu(name: str, dtype: torch.dtype) -> None:
    for options, scale in itertools.product(OPTIONS[name], (None, 3000.0)):
        _run((name, "cpu-fused", options), dtype, "zeros" if scale is None else "normal", scale)


def test_gradients_are_left_alone_where_foreach_sgd_writes_into_them() -> None:
    grads = []
    for optimizer in (kernels.SGD, torch.optim.SGD):
        p = torch.nn.Parameter(torch.ones(64))
        p.grad = torch.ones(64)
        optimizer([p], lr=0.1, momentum=0.9, nesterov=True, foreach=True).step()
        grads.append(float(p.grad[0]))
    assert grads == [1.0, pytest.approx(1.9)]
