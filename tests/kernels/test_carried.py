"""Host scalars that go with a launch: their bits, how many kernels they need, and what reaches the driver."""

import math
import struct
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import kernels
from bench.timing import host_cost
from kernels import bits
from kernels.backends import triton as backend
from kernels.launch.carried import COUNTS, Carried, carried

from .conftest import StubDriver

ODD = [0.0, -0.0, 1.0, 16.0, -1.0, 5e-324, math.inf, -math.inf, 0.1]


def test_patterns_are_the_doubles_row_by_row_with_room_for_more() -> None:
    nan = struct.unpack("<d", bytes.fromhex("010203040506f8ff"))[0]
    one = carried([(*ODD, nan)])
    assert one is not None and one.rows == 1
    assert struct.pack("=10q", *one.patterns) == struct.pack("=10d", *ODD, nan)
    few = carried([(0.1, 0.2), (0.3, 0.4), (0.5, True)])
    assert few is not None and few.rows == 4
    assert struct.unpack("=8d", struct.pack("=8q", *few.patterns)) == (0.1, 0.2, 0.3, 0.4, 0.5, 1.0, 0.0, 0.0)
    assert carried([(0.1,)] * 5) is None


# -- what is computed ---------------------------------------------------------------------------------------------


@pytest.mark.interpreter
@pytest.mark.parametrize("groups", [1, 2, 4, 5])
@pytest.mark.parametrize("name", ["AdamW", "Adagrad", "AdamAtan2"])
def test_rows_as_arguments_are_rows_in_a_table(name: str, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of 1 to 5 groups with values of their own, two of them of one group, beside the reference."""
    seen: set[Any] = set()
    launch = backend.launch_tables

    def watched(tables: Any, *arguments: Any, rows: Any, **options: Any) -> None:
        seen.add(rows.rows if isinstance(rows, Carried) else 0)
        launch(tables, *arguments, rows=rows, **options)

    monkeypatch.setattr(backend, "launch_tables", watched)
    found = []
    for chosen in ("interpreter", "reference"):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(70)) for _ in range(groups + 1)]
        # With lr = 0 a scalar is -0.0.
        sets = [{"params": [p], "lr": 0.1 * k, "weight_decay": 0.01 + k} for k, p in enumerate(params[:-1])]
        sets[-1]["params"] = [params[groups - 1], params[groups]]
        optimizer = getattr(kernels, name)(sets, backend=chosen)
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(70)
            optimizer.step()
        found.append([p.detach() for p in params])
    assert seen == {1 if groups == 1 else 4 if groups <= 4 else 0}
    assert sum(bits.mismatches(a, b) for a, b in zip(*found, strict=True)) == 0


# -- what is launched ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 3])
def test_the_driver_is_given_addresses_and_doubles(driver: StubDriver, groups: int) -> None:
    params = [torch.nn.Parameter(torch.randn(3000)) for _ in range(groups)]
    optimizer = kernels.AdamW([{"params": [p], "weight_decay": 0.1 + k} for k, p in enumerate(params)], lr=0.0)
    room = 7 * (1 if groups == 1 else 4)
    driver.keep(8 + room)
    for step, lr in enumerate((0.0, 1.0, 5e-324, 1e300), 1):
        for group, p in zip(optimizer.param_groups, params, strict=True):
            group["lr"] = lr
            p.grad = torch.randn(3000)
        optimizer.step()
        assert (driver.launches, driver.programs) == (step, 3 * groups)
        given = driver.given(8 + room)
        (plan,) = optimizer._known.plans
        tables = plan.tables
        assert given[:2] == [tables.addresses.device.data_ptr(), tables.chunks.data_ptr()]
        assert given[7] & 0xFFFFFFFF == groups
        hypers = [SimpleNamespace(**vars(optimizer.hyper_of(group))) for group in optimizer.param_groups]
        rows = [optimizer.recipe.row(hyper, float(step), False, plan._powers) for hyper in hypers]
        doubles = [x for row in rows for x in row]
        doubles += [0.0] * (room - len(doubles))
        assert struct.pack(f"={room}Q", *given[8:]) == struct.pack(f"={room}d", *doubles)
        # The table on the device was never needed.
        assert plan.rows.device is None
    assert len(backend._COMPILED) == 1


def test_new_values_compile_nothing(driver: StubDriver) -> None:
    """One record, up to four, any number: a kernel each, whatever the values are."""
    params = [torch.nn.Parameter(torch.randn(8)) for _ in range(6)]
    optimizer = kernels.AdamW([{"params": [p]} for p in params], lr=0.0)
    for stepped in (1, 1, 2, 3, 4, 1, 5, 6, 2):
        for k, p in enumerate(params):
            p.grad = torch.randn(8) if k < stepped else None
        optimizer.step()
    assert len(backend._COMPILED) == 1 + len(COUNTS)
    assert driver.launches == 9


def test_the_table_of_a_graph_stays_a_table(driver: StubDriver) -> None:
    """Scalars that do not count steps are sent when they change, so that `refresh` reaches captured launches."""
    p = torch.nn.Parameter(torch.randn(8))
    p.grad = torch.randn(8)
    for optimizer in (kernels.AdamW([p], lr=0.1, recipe="fused"), kernels.SGD([p], lr=0.1)):
        optimizer.step()
        (plan,) = optimizer._known.plans
        assert plan.rows.device is not None


def test_the_stand_in_counts_what_is_carried() -> None:
    p = torch.nn.Parameter(torch.randn(8))
    p.grad = torch.randn(8)
    with host_cost.without_launches() as sent:
        kernels.AdamW([p]).step()
    assert (sent.launches, sent.scalars) == (1, 7)
