"""The trainer's two passes: short roots and quotients have the exact ones' bits, or a block is trained again."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

import kernels
from kernels import bits, interpreter
from kernels.launch.rows import Columns, RowTable
from kernels.population import launches, launches_triton
from kernels.rounding import arithmetic
from kernels.rounding.flags import OPTIMISTIC
from kernels.rounding.powers import power_table
from kernels.rounding.reference import exact_sqrt

MODE = OPTIMISTIC.value
SMALLEST = 2.0**-126
on_gpu = pytest.mark.skipif(not torch.cuda.is_available() or interpreter.ACTIVE, reason="needs a CUDA device")
CASES = [
    ("adam", "foreach", {}),
    ("adam", "foreach", {"amsgrad": True}),
    ("adam", "for-loop", {"weight_decay": 0.1}),
    ("adam", "fused", {}),
    ("adamw", "foreach", {}),
    ("rmsprop", "foreach", {}),
    ("adagrad", "foreach", {"lr_decay": 0.1}),
]


@triton.jit
def _reciprocal(x):
    """What rcp.approx.ftz promises, from an exact quotient."""
    found = tl.div_rn(x * 0.0 + 1.0, x)
    return tl.where(tl.abs(x) < 1.1754943508222875e-38, float("inf"), tl.where(found < 1.1754944e-38, 0.0, found))


@triton.jit
def _inverse_root(x):
    """What rsqrt.approx.ftz promises, from an exact root and quotient."""
    return tl.div_rn(x * 0.0 + 1.0, tl.sqrt_rn(x))


@triton.jit
def _root_kernel(x_ptr, root_ptr, SIZE: tl.constexpr, MODE: tl.constexpr):
    at = tl.arange(0, SIZE)
    root = arithmetic.sqrt(tl.load(x_ptr + at), tl.float32, MODE)
    tl.store(root_ptr + at, arithmetic.add_scalar(root, 0.0, tl.float32, MODE))


@triton.jit
def _quotient_kernel(a_ptr, b_ptr, quotient_ptr, SIZE: tl.constexpr, MODE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(quotient_ptr + at, arithmetic.quotient(tl.load(a_ptr + at), tl.load(b_ptr + at), MODE))


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter has a GPU's tables."""
    monkeypatch.setattr(arithmetic, "_near_reciprocal", _reciprocal)
    monkeypatch.setattr(arithmetic, "_near_inverse_root", _inverse_root)


def _numbers(*edges: float) -> torch.Tensor:
    """Edges, and numbers of every exponent; 2^14 in all."""
    rng = np.random.default_rng(2)
    patterns = rng.integers(0, 0x7F800000, (1 << 14) - len(edges), dtype=np.int64).astype(np.int32)
    return torch.cat([torch.tensor(edges, dtype=torch.float32), torch.from_numpy(patterns).view(torch.float32)])


@pytest.mark.interpreter
def test_a_short_root_is_the_root_or_nan(tables: None) -> None:
    x = _numbers(2.0**-149, 2.0**-127, SMALLEST, 1.0, 2.0**47, 2.0**48, float("inf"), float("nan"), -1.0, -SMALLEST)
    found = torch.empty_like(x)
    interpreter.launch(_root_kernel, (1, 1, 1), (x, found), {"SIZE": len(x), "MODE": MODE})
    vouched = (x > 0) & (x < 2.0**48)
    assert bits.mismatches(found[vouched], exact_sqrt(x[vouched])) == 0
    assert found[~vouched].isnan().all() and int(vouched.sum()) > 8000


@pytest.mark.interpreter
def test_the_root_of_zero_is_lost_beside_eps(tables: None) -> None:
    x = torch.zeros(16)
    found = torch.empty_like(x)
    interpreter.launch(_root_kernel, (1, 1, 1), (x, found), {"SIZE": 16, "MODE": MODE})
    assert (found == 2.0**-103).all()


@pytest.mark.interpreter
def test_a_short_quotient_is_the_quotient_or_not_finite_or_lost_beside_a_parameter(tables: None) -> None:
    a, b = _numbers(0.0, 1.0, 2.0**-149, 2.0**79), _numbers(1e-8, 3.0, 1e-8, 2.0**-100).flip(0)
    found = torch.empty_like(a)
    interpreter.launch(_quotient_kernel, (1, 1, 1), (a, b, found), {"SIZE": len(a), "MODE": MODE})
    exact = a / b
    allowed = (b < 2.0**100) & (exact.abs() > SMALLEST) & found.isfinite()
    assert bits.mismatches(found[allowed], exact[allowed]) == 0
    assert int(allowed.sum()) > 4000
    small = (b < 2.0**100) & (exact.abs() <= SMALLEST) & found.isfinite()
    assert (found[small].abs() <= SMALLEST).all()
    assert not found[(b < SMALLEST) & (a > 0)].isfinite().any()


def _nasty(models: int) -> torch.Tensor:
    """Initial parameters; of models in the first half one is 0, -0, subnormal, tiny, huge, infinite or NaN."""
    generator = torch.Generator().manual_seed(4)
    params = (torch.rand(models, 49, generator=generator) * 2 - 1) / 6**0.5
    odd = [0.0, -0.0, 1e-40, 1e-30, 3e38, float("inf"), float("nan")]
    for model in range(0, models // 2, 3):
        params[model, int(torch.randint(49, (), generator=generator))] = odd[model // 3 % len(odd)]
    return params


def _trained(name: str, recipe: str, options: dict[str, Any], backend: str, device: str, **odd: Any) -> list[Any]:
    make = kernels.get_algorithm(name).hyperparameters
    models, steps = odd.get("models", 128), odd.get("steps", 2)
    params = _nasty(models).to(device)
    hypers = [make(lr=0.01 * (1 + k), **options) for k in range(4)]
    scales = [1.0, 2.0**-60, 2.0**40, 3.7]
    trainer = kernels.Trainer(name, hypers, params, recipe=recipe, backend=backend, loss_scale=scales)
    trainer._ordinary = trainer._ordinary and odd.get("ordinary", True)
    data = torch.rand(steps, models // 4, 7, generator=torch.Generator().manual_seed(5)).to(device)
    kept = trainer.run(data, keep_gradients=odd.get("keep", True))
    return [params, *trainer.state.values(), *([] if kept is None else [kept])]


@pytest.fixture
def passes(tables: None, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The interpreter makes two passes over blocks of 16; of each launch its pass, programs and marked blocks."""
    monkeypatch.setattr(launches_triton, "INTERPRETS_PASSES", True)
    monkeypatch.setattr(launches, "_INTERPRETER_BLOCK", 16)
    seen = []
    launch = launches_triton.Kernel.launch

    def counted(self: Any, programs: int, tensors: Any, counts: Any) -> None:
        *_, marks = tensors
        launch(self, programs, tensors, counts)
        seen.append((self.constants["PASS"], programs, int(marks.sum())))

    monkeypatch.setattr(launches_triton.Kernel, "launch", counted)
    return seen


@pytest.mark.interpreter
@pytest.mark.parametrize(("name", "recipe", "options"), [CASES[0], CASES[3], CASES[5]])
def test_two_passes_have_the_bits_of_the_reference(
    name: str, recipe: str, options: dict[str, Any], passes: list[tuple[str, int, int]]
) -> None:
    found = _trained(name, recipe, options, "interpreter", "cpu")
    expected = _trained(name, recipe, options, "reference", "cpu")
    assert [bits.mismatches(x, y) for x, y in zip(found, expected, strict=True)] == [0] * len(found)
    (first, blocks, again), second = passes
    assert (first, blocks) == ("first", 8) and 4 <= again < 8
    assert second == ("marked", 8, again)


@pytest.mark.interpreter
def test_slots_without_a_model_neither_read_nor_write_nor_ask_for_a_second_pass(
    passes: list[tuple[str, int, int]],
) -> None:
    """Two records for eleven models each, in blocks of 16."""
    make = kernels.get_algorithm("adam").hyperparameters
    found = []
    for backend in ("interpreter", "reference"):
        params = (torch.rand(22, 49, generator=torch.Generator().manual_seed(6)) + 0.5) / 6**0.5
        trainer = kernels.Trainer("adam", [make(lr=0.01), make(lr=0.02)], params, backend=backend)
        kept = trainer.run(torch.full((2, 11, 7), 0.5), keep_gradients=True)
        found.append([params, *trainer.state.values(), kept])
    assert [bits.mismatches(x, y) for x, y in zip(*found, strict=True)] == [0] * 4
    assert passes == [("first", 2, 0), ("marked", 2, 0)]


def _formed(columns: Columns, steps: int, records: int) -> torch.Tensor:
    """The rows [steps, records, columns] that a kernel reads."""
    held = {kind: iter(range(9)) for kind in ("by_step", "by_model", "by_both")}
    formed = torch.empty(steps, records, len(columns.depends), dtype=torch.float64)
    for k, kind in enumerate(columns.depends):
        place = next(held[kind])
        formed[:, :, k] = (
            columns.by_step[:, place, None] if kind == "by_step" else getattr(columns, kind)[..., place, :]
        )
    return formed


@pytest.mark.parametrize("name", sorted(kernels.ALGORITHMS))
def test_columns_by_what_they_depend_on_are_the_rows(name: str) -> None:
    algorithm, device = kernels.get_algorithm(name), torch.device("cpu")
    hypers = [algorithm.hyperparameters(lr=0.01 * (1 + k)) for k in range(5)]
    for recipe in algorithm.recipes.values():
        table = RowTable(recipe, (torch.float32,) * 3 + (None,), hypers, power_table(device))
        for first_step, steps in ((1, 4), (1, 1), (7, 3)):
            columns = table.columns_on(first_step, steps, device)
            assert columns is not None
            formed = _formed(columns, steps, len(hypers))
            assert bits.mismatches(formed, torch.from_numpy(table.rows(first_step, steps))) == 0


@pytest.mark.parametrize("first_alone", [True, False])
def test_columns_that_the_first_step_alone_changes(first_alone: bool) -> None:
    """A number of the model's after the first step, or in it, and 1 otherwise; the first record has 1 always."""
    algorithm, device = kernels.get_algorithm("sgd"), torch.device("cpu")

    def row(hyper: Any, step: float, first: bool, powers: Any) -> tuple[Any, ...]:
        return (hyper.lr, 1 - hyper.dampening if first == first_alone else 1.0, 2 * hyper.lr if first else hyper.lr)

    recipe = dataclasses.replace(algorithm.recipe("foreach"), row=row, columns=("lr", "1-dampening", "rate"))
    hypers = [algorithm.hyperparameters(lr=0.1 * k, dampening=0.2 * k) for k in range(4)]
    table = RowTable(recipe, (torch.float32,) * 3 + (None,), hypers, power_table(device))
    for first_step, steps in ((1, 3), (1, 1), (2, 2)):
        columns = table.columns_on(first_step, steps, device)
        assert columns is not None
        assert bits.mismatches(_formed(columns, steps, 4), torch.from_numpy(table.rows(first_step, steps))) == 0
        exact = [[row(hyper, t, t == 1, None) for hyper in hypers] for t in range(first_step, first_step + steps)]
        assert table.rows(first_step, steps).tolist() == [[list(entries) for entries in step] for step in exact]


def test_what_is_ordinary() -> None:
    adam, rmsprop = (kernels.get_algorithm(name).hyperparameters for name in ("adam", "rmsprop"))
    rule = kernels.get_algorithm("adam").recipe("foreach").ordinary
    other = kernels.get_algorithm("rmsprop").recipe("foreach").ordinary
    assert rule is not None and other is not None
    assert rule(adam()) and rule(adam(lr=0.0)) and rule(adam(eps=1e-15)) and other(rmsprop())
    for odd in (
        {"eps": 0.0},
        {"eps": 1e-25},
        {"betas": (0.0, 0.999)},
        {"betas": (0.5, 0.999)},
        {"betas": (0.9, 0.0)},
        {"lr": 1e6},
    ):
        assert not rule(adam(**odd)), odd
    for odd in ({"centered": True}, {"momentum": 0.9}, {"eps": 0.0}):
        assert not other(rmsprop(**odd)), odd


@triton.jit
def _all_roots(wrong_ptr, first, MODE: tl.constexpr, BLOCK: tl.constexpr):
    pattern = first + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = pattern.to(tl.float32, bitcast=True)
    short = arithmetic.add_scalar(arithmetic.sqrt(x, tl.float32, MODE), 0.0, tl.float32, MODE)
    exact = tl.sqrt_rn(x)
    same = short.to(tl.int32, bitcast=True) == exact.to(tl.int32, bitcast=True)
    vouched = (x > 0.0) & (x < 281474976710656.0)
    refused = short != short
    lost = (x == 0.0) & (short == 9.860761315262648e-32)
    tl.atomic_add(wrong_ptr, tl.sum(tl.where((vouched & same) | (~vouched & (refused | lost)), 0, 1), 0))


@triton.jit
def _many_quotients(wrong_ptr, seed, MODE: tl.constexpr, TURNS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    wrong = tl.zeros((BLOCK,), tl.int32)
    for turn in range(TURNS):
        first, second, kind, exponents = tl.randint4x(seed + turn, at)
        # Mantissas anywhere, some of them next to a power of two.
        a = first & 0x7FFFFF
        b = second & 0x7FFFFF
        a = tl.where(kind & 7 == 1, 0x7FFFFF - (a & 15), tl.where(kind & 7 == 2, a & 15, a))
        b = tl.where(kind & 5 == 1, 0x7FFFFF - (b & 15), tl.where(kind & 7 == 4, b & 15, b))
        a = (((exponents & 0xFF) % 206 << 23) | a | ((kind & 8) << 28)).to(tl.float32, bitcast=True)
        b = ((((exponents >> 8) & 0xFF) % 225 + 1 << 23) | b).to(tl.float32, bitcast=True)
        short = arithmetic.quotient(a, b, MODE)
        exact = tl.div_rn(a, b)
        same = short.to(tl.int32, bitcast=True) == exact.to(tl.int32, bitcast=True)
        refused = (short != short) | (tl.abs(short) == float("inf"))
        small = (tl.abs(exact) <= 1.1754943508222875e-38) & (tl.abs(short) <= 1.1754943508222875e-38)
        wrong += tl.where(same | refused | small, 0, 1)
    tl.atomic_add(wrong_ptr, tl.sum(wrong, 0))


@on_gpu
@pytest.mark.cuda
def test_every_short_root_of_a_gpu() -> None:
    wrong = torch.zeros(1, dtype=torch.int32, device="cuda")
    for first in (0, -(1 << 31)):
        _all_roots[((1 << 31) // 1024,)](wrong, first, MODE, 1024, enable_fp_fusion=False)
    assert int(wrong) == 0


@on_gpu
@pytest.mark.cuda
def test_short_quotients_of_a_gpu() -> None:
    wrong = torch.zeros(1, dtype=torch.int32, device="cuda")
    _many_quotients[(16384,)](wrong, 1, MODE, 20_000, 256, enable_fp_fusion=False)
    assert int(wrong) == 0, "of 8e10"


@on_gpu
@pytest.mark.cuda
@pytest.mark.parametrize(("name", "recipe", "options"), CASES)
def test_two_passes_of_a_gpu(name: str, recipe: str, options: dict[str, Any]) -> None:
    for steps, models in ((1, 96), (60, 3200)):
        odd = {"steps": steps, "models": models, "keep": False}
        found = _trained(name, recipe, options, "triton", "cuda", **odd)
        plain = _trained(name, recipe, options, "triton", "cuda", ordinary=False, **odd)
        assert [bits.mismatches(x, y) for x, y in zip(found, plain, strict=True)] == [0] * len(found)
