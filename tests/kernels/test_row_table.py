"""Host scalars of many records at once are those of each record alone, bit for bit."""

import dataclasses
import math
import operator
from typing import Any

import numpy as np
import pytest
import torch

import kernels
from kernels import bits
from kernels.launch.numbers import Column, DeviceColumn, on_device
from kernels.launch.rows import RowTable, host_rows
from kernels.population import launches
from kernels.rounding.powers import PowerTable


def _plain(hyper: Any, step: float, first: bool, powers: PowerTable) -> tuple[float, ...]:
    return (math.sqrt(hyper.lr), hyper.lr if step > 2 else -hyper.lr, float(first))


CASES = [(name, recipe) for name in sorted(kernels.ALGORITHMS) for recipe in kernels.get_algorithm(name).recipes]
MIXED = (torch.float32, torch.float32, torch.bfloat16, None)
PLAIN = (torch.float32, torch.float32, torch.float32, None)


def _records(name: str, varied: bool) -> list[Any]:
    make = kernels.get_algorithm(name).hyperparameters
    fields = vars(make())
    rng = np.random.default_rng(0)
    records = []
    for k in range(40):
        options: dict[str, Any] = {"lr": float(rng.random()) * (k != 7)}
        if "eps" in fields:
            options["eps"] = 0.0 if k % 9 == 0 else float(10 ** rng.uniform(-12, -1))
        if "betas" in fields and varied:
            options["betas"] = (0.9 if k % 3 else float(rng.random()), 0.999 if k % 4 else float(rng.random()))
        options["weight_decay"] = float(rng.random()) + 0.01
        records.append(make(**options))
    return records


@pytest.mark.parametrize("dtypes", [PLAIN, MIXED], ids=["fp32", "bf16-states"])
@pytest.mark.parametrize("one_rate", [False, True], ids=["many rates", "one rate"])
@pytest.mark.parametrize("varied", [False, True], ids=["one beta", "many betas"])
@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_together_as_alone(name: str, recipe: str, varied: bool, one_rate: bool, dtypes: Any) -> None:
    rule = kernels.get_algorithm(name).recipe(recipe)
    records = _records(name, varied)
    if one_rate:
        records = [dataclasses.replace(record, lr=0.0123) for record in records]
    powers = PowerTable(torch.device("cpu"))
    together = RowTable(rule, dtypes, records, powers)
    table = together.rows(1, 30)
    on_device = together.formed_on(1, 30, torch.device("cpu")).numpy()
    assert np.array_equal(on_device.view(np.int64), table.view(np.int64))
    for t, step in enumerate(table, 1):
        alone = np.array(host_rows(rule, dtypes, [(record, float(t), t == 1) for record in records], powers))
        assert np.array_equal(step.view(np.int64), alone.view(np.int64))


def test_a_function_of_plain_numbers_is_called_for_each() -> None:
    rule = dataclasses.replace(kernels.get_algorithm("sgd").recipe(None), row=_plain, columns=("a", "b", "c"))
    records = [kernels.get_algorithm("sgd").hyperparameters(lr=0.1 * k) for k in range(5)]
    table = RowTable(rule, PLAIN, records, PowerTable(torch.device("cpu"))).rows(1, 4)
    assert table[2, 3].tolist() == [math.sqrt(0.1 * 3), 0.1 * 3, 0.0]
    assert table[0, 3].tolist() == [math.sqrt(0.1 * 3), -0.1 * 3, 1.0]


def _table(records: list[Any]) -> RowTable:
    return RowTable(kernels.get_algorithm("adam").recipe("foreach"), PLAIN, records, PowerTable(torch.device("cpu")))


@pytest.mark.parametrize("apart", [True, False])
def test_rows_on_a_device_are_kept_for_the_same_steps_alone(apart: bool) -> None:
    table, device = _table(_records("adam", True)), torch.device("cpu")
    first = table.on(1, 5, device, apart=apart)
    assert table.on(1, 5, device, apart=apart) is first
    for begin, steps in ((2, 5), (1, 4)):
        other, fresh = (t.on(begin, steps, device, apart=apart) for t in (table, _table(_records("adam", True))))
        assert other is not first and other.depends == fresh.depends
        for name in ("by_step", "by_model", "by_both"):
            assert np.array_equal(getattr(other, name).view(torch.int64), getattr(fresh, name).view(torch.int64))


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_rows_are_formed_anew_where_a_record_holds_a_tensor() -> None:
    rate = torch.tensor(0.5, dtype=torch.float64)
    table, device = _table([kernels.get_algorithm("adam").hyperparameters(lr=rate)]), torch.device("cpu")
    before = table.on(1, 3, device, apart=False).by_step.clone()
    rate.fill_(0.25)
    assert torch.equal(table.on(1, 3, device, apart=False).by_step[..., -1], before[..., -1] / 2)


def _own_rate(rate: Any) -> dict[str, Any]:
    return {"lr": rate, "weight_decay": 0.1}


def _shared_rate(rate: Any, model: int) -> dict[str, Any]:
    return {"lr": rate, "weight_decay": 0.1 * (model + 1)}


@pytest.mark.interpreter
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("backend", ["reference", "simd", "interpreter"])
@pytest.mark.parametrize("shared", [True, False])
def test_tensors_of_records_are_read_at_every_run(shared: bool, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor for all models, or tensors that begin with one number and end with others."""
    monkeypatch.setattr(launches, "_INTERPRETER_BLOCK", 4)
    models, later = 16, [0.5] * 16 if shared else [0.1 * k for k in range(16)]
    rates = [torch.tensor(0.01, dtype=torch.float64) for _ in range(models)]
    held = [_shared_rate(rates[0], k) if shared else _own_rate(rates[k]) for k in range(models)]
    plain = [_shared_rate(later[0], k) if shared else _own_rate(later[k]) for k in range(models)]
    begin, data = torch.linspace(-1, 1, models * 49).reshape(models, 49), torch.full((2, models, 7), 0.5)
    found, expected = begin.clone(), begin.clone()
    trainer = kernels.Trainer("adamw", held, found, backend=backend)
    trainer.run(data)
    for rate, number in zip(rates, later, strict=True):
        rate.fill_(number)
    trainer.restart(begin)
    trainer.run(data)
    kernels.Trainer("adamw", plain, expected, backend="reference").run(data)
    assert bits.mismatches(found, expected) == 0


@pytest.mark.parametrize("backend", ["reference", "simd"])
def test_tensors_of_records_are_read_at_every_step(backend: str) -> None:
    rate, params = torch.tensor(0.5), torch.zeros(2, 3)
    population = kernels.Population("sgd", [{"lr": rate}], params, backend=backend)
    population.step(torch.ones(2, 3))
    rate.fill_(0.25)
    population.step(torch.ones(2, 3))
    assert (params == -0.75).all()


@pytest.mark.parametrize("narrow", [torch.tensor(0.9), np.float32(0.9)], ids=["tensor", "numpy"])
@pytest.mark.parametrize("others", [0, 1])
def test_narrower_numbers_are_reckoned_with_as_alone(others: int, narrow: Any) -> None:
    """Beside a double that equals them, as numpy and torch compare, and beside none."""
    make, rule = kernels.get_algorithm("adamw").hyperparameters, kernels.get_algorithm("adamw").recipe("foreach")
    records = [make(lr=lr, betas=(lr, 0.999)) for lr in [0.9] * others + [narrow]]
    powers = PowerTable(torch.device("cpu"))
    alone = np.array([host_rows(rule, PLAIN, [(hyper, t, False)], powers)[0] for t in (3.0, 4.0) for hyper in records])
    found = RowTable(rule, PLAIN, records, powers).rows(3, 2)
    assert np.array_equal(found.reshape(alone.shape), alone)


def test_a_column_of_a_device_meets_one_of_the_host() -> None:
    """Every operation, on either side, as doubles on the host."""
    numbers, steps = np.array([0.3, 0.7]).view(Column), np.arange(1.0, 4.0).reshape(-1, 1).view(Column)
    column = on_device(numbers, torch.device("cpu"))
    for operation in (operator.add, operator.sub, operator.mul, operator.truediv, operator.pow):
        for left, right, exact in ((column, steps, (numbers, steps)), (steps, column, (steps, numbers))):
            if operation is operator.pow and left is steps:
                continue
            found, expected = operation(left, right), np.asarray(operation(*exact))
            assert isinstance(found, DeviceColumn) and found.dtype == torch.float64
            assert np.array_equal(found.as_subclass(torch.Tensor).numpy().view(np.int64), expected.view(np.int64))
    assert np.array_equal(column.root().as_subclass(torch.Tensor).numpy(), np.asarray(numbers.root()))
