"""Bytes and launches are counted right, and the model beside a time follows from them."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.optimizers import timed_options
from bench.store.kept import RESULTS
from bench.store.load import read_result
from bench.store.schema import StepRow
from bench.timing.cost_model import busy_ns, predictions
from bench.timing.passes import Work, multi_tensor_launches, work_of

BYTES = {
    ("AdamW", "torch-foreach"): 80,
    ("AdamW", "torch-for-loop"): 80,
    ("AdamW", "torch-fused"): 28,
    ("SGD", "torch-foreach"): 32,
    ("SGD", "torch-fused"): 20,
    ("RMSprop", "torch-foreach"): 52,
    ("AdamW", "kernels-fused"): 28,
    ("SGD", "kernels-foreach[triton]"): 20,
}


@pytest.mark.parametrize(("optimizer", "provider"), BYTES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_bytes_an_element(optimizer: str, provider: str, dtype: str) -> None:
    found = work_of(provider, optimizer, timed_options(optimizer), dtype, [(1000,)], "cuda")
    assert found is not None
    assert found.bytes_moved == 1000 * BYTES[optimizer, provider] // (1 if dtype == "fp32" else 2)


def test_launches() -> None:
    def launches(provider: str, count: int, device: str = "cuda") -> int:
        found = work_of(provider, "AdamW", timed_options("AdamW"), "fp32", [(49,)] * count, device)
        assert found is not None
        return found.launches

    assert launches("kernels-foreach", 10_000) == 1
    # Eight operations; the counters of a fused step are one more on a GPU.
    assert (launches("torch-foreach", 1), launches("torch-for-loop", 3), launches("torch-fused", 1)) == (8, 24, 2)
    assert (launches("torch-foreach", 3, "cpu"), launches("torch-fused", 3, "cpu")) == (24, 3)
    # 36 tensors of four lists a launch, 110 counters.
    assert launches("torch-fused", 37) == 2 + 1 and launches("torch-fused", 10_000) == 278 + 91


@pytest.mark.parametrize(
    ("sizes", "lists", "count"),
    [
        ([], 1, 0),
        ([0, 0], 1, 0),
        ([1], 4, 1),
        ([1] * 36, 4, 1),
        ([1] * 37, 4, 2),
        ([65536 * 320], 4, 1),
        ([65536 * 320 + 1], 4, 2),
        ([65536 * 320, 1], 4, 2),
        # The launch that the large tensor ends in has room for 35 more.
        ([65536 * 321] + [1] * 35, 4, 2),
        ([65536 * 321] + [1] * 36, 4, 3),
        ([1, 0] * 64, 2, 1),
    ],
)
def test_launches_of_multi_tensor_kernels(sizes: list[int], lists: int, count: int) -> None:
    assert multi_tensor_launches(sizes, lists) == count


def test_what_cannot_be_seen_has_no_prediction() -> None:
    assert work_of("torch-compiled", "AdamW", {"lr": 1e-3}, "fp32", [(8,)], "cuda") is None
    assert work_of("my:Adam", "AdamW", {"lr": 1e-3}, "fp32", [(8,)], "cuda") is None
    assert work_of("torch-fused", "RMSprop", {"lr": 1e-3}, "fp32", [(8,)], "cuda") is None


def test_counting_agrees_with_the_operations_that_run() -> None:
    """A second watcher, of names alone: as many operations over tensors as the pass list has."""
    names: list[str] = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    p = torch.nn.Parameter(torch.ones(7))
    p.grad = torch.ones(7)
    optimizer = torch.optim.AdamW([p], foreach=True)
    optimizer.step()
    with Names():  # type: ignore[no-untyped-call]
        optimizer.step()
    assert sum(name.startswith("aten::_foreach") for name in names) == 8 + 1


def row(**given: Any) -> StepRow:
    base = {"provider": "torch-for-loop", "optimizer": "SGD", "options": {"lr": 0.1}, "dtype": "fp32"}
    shape = {"workload": "2^20", "device": "cuda", "tensors": 1, "elements": 1 << 20, "bytes_moved": 0}
    return StepRow(**{**base, **shape, "kernel_time_ns": 100_000.0, **given})


def test_a_prediction_is_launches_and_bytes() -> None:
    document = {"ceilings": [{"copy_gb_per_s": 500.0}, {"copy_gb_per_s": 1000.0}], "launch_ns": 2_000.0}
    rows = [row(), row(error="wrong bits"), row(workload="a list of old"), row(kernel_time_ns=None)]
    machine, (one,) = predictions(document, rows)
    assert machine is not None and (machine.copy_gb_per_s, machine.launch_from) == (1000.0, "measured")
    # p.add_(g): one operation, three times four bytes.
    assert one.work == Work(bytes_moved=12 << 20, launches=1)
    assert one.predicted_ns == 2_000 + (12 << 20) / 1000 and one.error == one.predicted_ns / 100_000 - 1
    # Without a measured launch the least of the rows has to do; without a copy there is no model.
    fallback, _ = predictions({"copy_gb_per_s": {"1": 1000.0}}, rows)
    assert fallback is not None and (fallback.launch_ns, fallback.launch_from) == (100_000, "least time a launch")
    assert predictions({}, rows) == (None, [])


def test_a_cpu_has_the_whole_step() -> None:
    assert busy_ns(row(device="cpu", step_time_ns=7.0, kernel_time_ns=None)) == 7.0
    assert busy_ns(row(differing_elements=1)) is None


def test_large_kept_times_are_predicted() -> None:
    found = read_result(RESULTS / "nvidia-h100-80gb-hbm3" / "timing.json", "A")
    _, told = predictions(found.document, found.rows.values())
    large = [
        one
        for one in told
        if one.row.elements >= 1 << 26 and one.row.dtype == "fp32" and one.row.provider.startswith("kernels-")
    ]
    assert len(large) > 30 and all(-0.03 < one.error < 0.01 for one in large)
