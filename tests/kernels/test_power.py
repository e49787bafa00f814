"""Host scalars without libm: powers correctly rounded, columns alike, as float32 those that torch's Python forms."""

import inspect
import math
import random
import time

import numpy as np
import pytest
import torch

import kernels
from kernels.launch.rows import RowTable
from kernels.rounding.power import _powers, _table_of, power, power_grid, square_root
from kernels.rounding.powers import power_table

BETAS = (0.0, 1e-9, 1e-3, 0.123, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999, 0.99999, 1.0)


def exact(base: float, exponent: int) -> float:
    """Correctly rounded, in whole numbers of 400 bits."""
    mantissa, power_of_two = 1, 0
    fraction, shift = math.frexp(base)
    for bit in f"{exponent:b}":
        for factor, more in ((mantissa, power_of_two), *([(int(fraction * 2**53), shift - 53)] if bit == "1" else [])):
            mantissa, power_of_two = mantissa * factor, power_of_two + more
            extra = max(0, mantissa.bit_length() - 400)
            mantissa, power_of_two = mantissa >> extra, power_of_two + extra
    return math.ldexp(mantissa, power_of_two)


def test_powers_are_correctly_rounded() -> None:
    draw = random.Random(0)
    seen = 0
    for k in range(3000):
        base = BETAS[k % len(BETAS)] if k % 2 else 1 - 10 ** draw.uniform(-6, -0.05)
        exponent = draw.choice([draw.randrange(1, 60), draw.randrange(1, 5000), draw.randrange(1, 10**6)])
        expected = exact(base, exponent) if base else 0.0
        if expected > 2.0**-960 or not base:
            assert power(base, float(exponent)) == expected, (base, exponent)
            seen += 1
        else:
            assert 1 - power(base, float(exponent)) == 1.0
    assert seen > 2000
    assert power(0.9, 0.0) == 1.0 and power(0.0, 0.0) == 1.0


def test_grids_have_the_same_bits() -> None:
    steps = np.array([1, 2, 3, 255, 256, 257, 511, 512, 5000, 100_000])
    many = np.concatenate([BETAS, np.random.default_rng(0).random(1500)])
    grid = power_grid(many, steps)
    for k, base in enumerate(many.tolist()):
        for j, step in enumerate(steps.tolist()):
            assert grid[j, k] == power(base, float(step)), (base, step)
    for base in BETAS:
        assert (power_grid(np.array([base]), steps)[:, 0] == grid[:, BETAS.index(base)]).all()


def test_exponents_of_any_size_take_no_time_and_no_memory() -> None:
    """A step number that somebody set, or a damaged one: 1e12 took all of the machine's memory."""
    began = time.thread_time()
    for base in (0.9, 0.999, 0.9999999, 1 - 2.0**-40, 1.0, 0.0):
        for exponent in (2**24 + 1, 10**9, 2**40 - 1, 10**12, 10**30, int(float(np.finfo(np.float32).max))):
            expected = exact(base, exponent) if base else 0.0
            found = power(base, float(exponent)) if exponent < 2**53 else _table_of(base).pair(exponent)[0]
            assert found == expected or expected < 2.0**-960 > found, (base, exponent)
        table = _table_of(base)
        assert sum(map(len, table._digits.values())) <= 257 * 16
    assert time.thread_time() - began < 2
    grid = power_grid(np.array([0.999]), np.array([1, 2**24, 2**31]))
    assert grid[:, 0].tolist() == [power(0.999, step) for step in (1.0, 2.0**24, 2.0**31)]


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("recipe", ["foreach", "for-loop"])
def test_as_float32_they_are_those_of_pythons_pow(name: str, recipe: str) -> None:
    """torch's Python: ``1 - beta1**step`` and ``(1 - beta2**step) ** 0.5``; in double one in a thousand differs."""
    algorithm = kernels.get_algorithm(name)
    chosen = algorithm.recipes[recipe]
    dtypes = (torch.float32, torch.float32, torch.float32, None)
    steps = 20_000
    for beta in BETAS[:-1]:
        hyper = algorithm.hyperparameters(lr=1e-3, betas=(beta, beta))
        rows = (
            RowTable(chosen, dtypes, [hyper], power_table(torch.device("cpu"))).rows(1, steps)[:, 0].astype(np.float32)
        )
        root = np.array([(1 - beta**t) ** 0.5 for t in range(1, steps + 1)])
        size = np.array([-1e-3 / (1 - beta**t) for t in range(1, steps + 1)])
        divisor = root if recipe == "foreach" else np.array([1.0 / each if each else np.inf for each in root.tolist()])
        assert (rows[:, -2] == divisor.astype(np.float32)).all() and (rows[:, -1] == size.astype(np.float32)).all()


def test_roots_are_correctly_rounded() -> None:
    for x in (2.0, 1e-300, 0.75, 0.0):
        assert square_root(x) == math.sqrt(x)


def test_no_row_takes_a_power_of_its_own() -> None:
    for algorithm in kernels.ALGORITHMS.values():
        for recipe in algorithm.recipes.values():
            for row in filter(None, (recipe.row, recipe.mixed_row)):
                assert "**" not in inspect.getsource(row) and "pow(" not in inspect.getsource(row)


def test_runs_that_go_on_form_few_tables_of_powers() -> None:
    _powers.cache_clear()
    for first in range(1, 10_000, 200):
        power_grid(np.array([0.37]), np.arange(first, first + 200))
    assert _powers.cache_info().misses <= 7
    found = power_grid(np.array([0.37]), np.arange(1, 400)).reshape(-1)
    assert found.tolist() == [power(0.37, float(t)) for t in range(1, 400)]
