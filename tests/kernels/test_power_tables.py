"""Tables of bias corrections: bounded whatever betas do, and whoever formed places in them finds what it formed."""

import random
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

import kernels
from kernels import bits
from kernels.launch.rows import RowTable
from kernels.optim import plans
from kernels.rounding import powers
from kernels.rounding.powers import PowerTable

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> PowerTable:
    """A table that begins anew every few steps."""
    monkeypatch.setattr(powers, "_ROOM", 2_000)
    monkeypatch.setattr(powers, "_OFTEN", 2)
    return PowerTable(CPU)


def train(optimizer: Any, params: list[Tensor], betas: list[tuple[float, float]], beside: Any = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for pair in betas:
        optimizer.param_groups[0]["betas"] = pair
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
        if beside is not None:
            beside.step()
    return params


def made(**options: Any) -> tuple[list[Tensor], Any]:
    params: list[Tensor] = [torch.nn.Parameter(torch.linspace(-1, 1, 70)) for _ in range(2)]
    return params, kernels.AdamW(params, lr=0.1, recipe="fused", **options)


@pytest.mark.parametrize("backend", ["simd", "reference"])
def test_betas_of_a_schedule_take_bounded_memory_and_keep_their_bits(
    backend: str, small: PowerTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    betas = [(0.85 + 0.001 * (k % 97), 0.9 + 0.0007 * k) for k in range(100)]
    expected_params, plain = made(backend=backend)
    expected = train(plain, expected_params, betas)
    fixed_params, fixed = made(backend=backend)
    for p in fixed_params:
        p.grad = torch.ones(70)
    for _ in range(len(betas)):
        fixed.step()
    monkeypatch.setattr(plans, "power_table", lambda device: small)
    params, optimizer = made(backend=backend)
    # Beside it one whose scalars are formed once: it reads on where they were formed.
    beside_params, beside = made(backend=backend)
    for p in beside_params:
        p.grad = torch.ones(70)
    found = train(optimizer, params, betas, beside)
    assert small.generation > 5 and len(small.values) < 10_000 and len(small.unrecorded) < 50
    for a, b in zip([*expected, *fixed_params], [*found, *beside_params], strict=True):
        assert bits.mismatches(a.detach(), b.detach()) == 0


def test_room_grows_where_one_launch_has_more_betas_than_it_holds(small: PowerTable) -> None:
    many = [1 - 0.001 * k for k in range(1, 60)]
    for _ in range(20):
        places, values = small.formed(lambda: [small.place(beta) for beta in many])
    assert small.generation == 0 and values is small.values and len(values) > 2_000
    assert len(set(places)) == len(many)


def test_kept_columns_do_not_outlive_the_tables_that_they_have_places_in(small: PowerTable) -> None:
    algorithm = kernels.ALGORITHMS["adamw"]
    records = [algorithm.hyperparameters(betas=(0.9 + 0.001 * k, 0.99)) for k in range(5)]
    rows = RowTable(algorithm.recipe("fused"), (torch.float32, torch.float32, torch.float32, None), records, small)

    def corrections() -> list[float]:
        columns, values = small.formed(lambda: rows.on(7, 1, CPU, apart=True))
        kinds = columns.depends
        # The last four are place and length of either beta's table.
        assert kinds[-4] == "by_model"
        return [float(values[int(place) + 6]) for place in columns.by_model[kinds[:-4].count("by_model")]]

    before = corrections()
    draw = random.Random(0)
    while small.generation < 3:
        small.formed(lambda: small.place(draw.uniform(0.8, 0.99)))
    assert corrections() == before == pytest.approx([1 - (0.9 + 0.001 * k) ** 7 for k in range(5)], rel=1e-6)


def test_threads_find_their_own_tables(small: PowerTable) -> None:
    wrong: list[float] = []

    def work(number: int) -> None:
        for k in range(200):
            beta = 0.5 + 0.0001 * (k + 1000 * number)
            (place, length), values = small.formed(lambda beta=beta: small.place(beta))  # type: ignore[misc]
            table = values[int(place) : int(place + length)]
            if len(table) != length or abs(float(table[0]) - (1 - beta)) > 1e-7 or float(table[-1]) < 1 - 1e-6:
                wrong.append(beta)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and small.generation > 3


def test_tables_that_were_begun_in_inference_mode_take_more_outside_of_it(small: PowerTable) -> None:
    with torch.inference_mode():
        small.place(0.5)
    small.place(0.25)
    with torch.inference_mode():
        small.place(0.125)
    assert float(small.values[int(small.place(0.25)[0])]) == 0.75
