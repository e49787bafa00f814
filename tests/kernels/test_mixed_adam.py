"""Fused Adam with float32 parameters and bfloat16 states, as torch 2.13 and later step it on CUDA."""

from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import pytest
import torch
from configurations import placed

import kernels
from kernels import bits, functional, interpreter
from kernels.rounding.powers import BIAS_CORRECTIONS, PowerTable, _length, power_table

BETAS = (*map(float, np.load(BIAS_CORRECTIONS).files), 0.77, 0.99999)
TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
BACKENDS = ["reference", "simd", pytest.param("interpreter", marks=pytest.mark.interpreter)]


def _table(beta: float, *, root: bool) -> np.ndarray:
    table = PowerTable(torch.device("cpu"))
    offset, length = map(int, table.place_double_root(beta) if root else table.place_double(beta))
    assert length == _length(beta)
    return table.values[offset : offset + length].numpy()


@pytest.mark.parametrize("beta", BETAS)
def test_double_corrections_are_the_narrowed_exact_ones(beta: float) -> None:
    getcontext().prec = 60
    corrections, squares = _table(beta, root=False), _table(beta, root=True)
    length = len(corrections)
    for step in {1, 2, 3, 10, length // 3, length - 2, length}:
        exact = 1 - Decimal(beta) ** step
        # Decimal to double to float32: a double rounding in between would have to fall within 2^-53 of a tie.
        assert corrections[step - 1] == np.float32(float(exact))
        assert np.sqrt(squares[step - 1]) == np.float32(float(exact.sqrt()))
    assert corrections[-1] == squares[-1] == 1.0


@pytest.mark.parametrize("beta", BETAS)
def test_no_entry_hangs_on_the_last_bits_of_a_double_pow(beta: float) -> None:
    power = np.power(beta, np.arange(1, _length(beta) + 1, dtype=np.float64))
    corrections, squares = _table(beta, root=False), _table(beta, root=True)
    for towards in (0.0, 2.0):
        moved = power.copy()
        for _ in range(4):
            moved = np.nextafter(moved, towards)
        assert np.array_equal((1 - moved).astype(np.float32), corrections)
        assert np.array_equal(np.sqrt(1 - moved).astype(np.float32), np.sqrt(squares))


def test_every_float32_is_the_root_of_its_rounded_square() -> None:
    roots = np.arange(0x3E800000, 0x3F800001, dtype=np.uint32).view(np.float32)
    assert np.array_equal(np.sqrt(roots * roots), roots)


def test_only_float32_parameters_with_narrower_states_take_them() -> None:
    recipe = kernels.get_algorithm("adamw").recipe("fused")
    fp32, bf16, fp16 = torch.float32, torch.bfloat16, torch.float16
    for dtypes in ((fp32, fp32, bf16, None), (fp32, fp32, fp16, bf16)):
        assert recipe.row_for(dtypes) is recipe.mixed_row
    for dtypes in ((fp32, fp32, fp32, bf16), (bf16, bf16, bf16, None), (bf16, bf16, fp32, None)):
        assert recipe.row_for(dtypes) is recipe.row
    foreach = kernels.get_algorithm("adamw").recipe("foreach")
    assert foreach.row_for((fp32, fp32, bf16, None)) is foreach.row


def _by_hand(p: np.ndarray, grads: list[np.ndarray], options: dict[str, Any]) -> list[np.ndarray]:
    """The steps in numpy, with exact fma: parameter and widened states."""
    fma, f = interpreter.fma, np.float32
    beta1, beta2 = options["betas"]
    lr, decay, eps = f(options["lr"]), f(options["weight_decay"]), f(options["eps"])
    m, v = np.zeros_like(p), np.zeros_like(p)

    def full(value: np.float32) -> np.ndarray:
        return np.full_like(p, value)

    for step, g in enumerate(grads, 1):
        bc1, root = f(1 - beta1**step), f((1 - beta2**step) ** 0.5)
        p = fma(p, full(-(lr * decay)), p)
        squared = g * g
        m = fma(full(f(beta1)), m, fma(full(-f(beta1)), g, g))
        v = fma(full(f(beta2)), v, fma(full(-f(beta2)), squared, squared))
        p = p - (lr / bc1 * m) / (np.sqrt(v) / root + eps)
        m, v = (interpreter.from_bfloat16(interpreter.to_bfloat16(x)) for x in (m, v))
    return [p, m, v]


def _with_bfloat16_states(p: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    """What training frameworks do before the first step: torch fills in only what is missing."""
    state = {name: torch.zeros_like(p, dtype=torch.bfloat16) for name in ("exp_avg", "exp_avg_sq")}
    optimizer.state[p] = {"step": torch.zeros((), device=p.device), **state}


@pytest.mark.parametrize("backend", BACKENDS)
def test_drop_in_and_function_equal_the_arithmetic_by_hand(backend: str) -> None:
    options = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.3}
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3000, generator=generator)
    grads = [torch.randn(3000, generator=generator) for _ in range(4)]
    p = torch.nn.Parameter(start.clone())
    optimizer = kernels.AdamW([p], fused=True, backend=backend, **options)
    _with_bfloat16_states(p, optimizer)
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    stepped = [p.detach(), *(optimizer.state[p][name].float() for name in ("exp_avg", "exp_avg_sq"))]
    q = start.clone()
    m, v = (torch.zeros(3000, dtype=torch.bfloat16) for _ in range(2))
    for step, g in enumerate(grads, 1):
        functional.adamw_([q], [g], [m], [v], step=step, recipe="fused", backend=backend, **options)
    expected = _by_hand(start.numpy(), [g.numpy() for g in grads], options)
    for ours, function, by_hand in zip(stepped, (q, m.float(), v.float()), expected, strict=True):
        assert bits.mismatches(ours, torch.from_numpy(by_hand)) == 0
        assert bits.mismatches(function, torch.from_numpy(by_hand)) == 0


def test_the_corrections_of_powf_are_others() -> None:
    powers = power_table(torch.device("cpu"))
    (a, _), (b, _) = powers.place(0.999), powers.place_double(0.999)
    assert float(powers.values[int(a)]) == float(np.float32(0.0009999871253967285))
    assert float(powers.values[int(b)]) == float(np.float32(0.001))


FP32, BF16 = torch.float32, torch.bfloat16


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", ["exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize(
    ("dtype", "offset", "aligned"),
    [(FP32, 0, True), (FP32, 4, True), (FP32, 2, False), (BF16, 0, True), (BF16, 4, True), (BF16, 2, False)],
)
def test_every_state_has_to_be_aligned_by_four_of_its_own_elements(
    backend: str, which: str, dtype: torch.dtype, offset: int, aligned: bool
) -> None:
    """Lane 0, whose L2 term is not fused, is element 0 mod 4 on the aligned path only."""
    size, generator = 2052, torch.Generator().manual_seed(1)
    p, g = (torch.randn(size, generator=generator) for _ in range(2))
    before = p.numpy().copy()
    states = [placed(np.zeros(size), dtype, offset if name == which else 0) for name in ("exp_avg", "exp_avg_sq")]
    assert states[which == "exp_avg_sq"].data_ptr() % 16 == offset * dtype.itemsize % 16
    options: dict[str, Any] = {"lr": 1.0, "betas": (0.0, 0.0), "eps": 1.0, "weight_decay": 0.97}
    functional.adam_([p], [g], [states[0]], [states[1]], step=1, recipe="fused", backend=backend, **options)

    def by_hand(lane: np.ndarray) -> np.ndarray:
        decay = np.float32(0.97)
        fused = interpreter.fma(before, np.full(size, decay), g.numpy())
        grad = np.where(lane == 0, before * decay + g.numpy(), fused)
        return before - grad / (np.sqrt(grad * grad) + np.float32(1))

    element = np.arange(size)
    on_paths = [by_hand(element // 512 % 4), by_hand(element % 4)]
    assert (on_paths[0] != on_paths[1]).sum() > 50
    assert bits.mismatches(p, torch.from_numpy(on_paths[aligned])) == 0


@pytest.mark.cuda
@pytest.mark.skipif(
    not torch.cuda.is_available() or kernels.interpreter.ACTIVE or TORCH < (2, 13),
    reason="needs a CUDA device and torch 2.13",
)
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "maximize": True}])
def test_drop_in_equals_torch(name: str, options: dict[str, Any]) -> None:
    generator = torch.Generator(device="cuda").manual_seed(0)
    start = torch.randn(5001, device="cuda", generator=generator)
    results = []
    for package in (kernels, torch.optim):
        p = torch.nn.Parameter(start.clone())
        optimizer = getattr(package, name)([p], fused=True, **options)
        _with_bfloat16_states(p, optimizer)
        steps = torch.Generator(device="cuda").manual_seed(1)
        for _ in range(20):
            p.grad = torch.randn(5001, device="cuda", generator=steps)
            optimizer.step()
        results.append([p.detach(), optimizer.state[p]["exp_avg"], optimizer.state[p]["exp_avg_sq"]])
    assert [bits.mismatches(a, b) for a, b in zip(*results, strict=True)] == [0, 0, 0]
