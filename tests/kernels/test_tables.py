"""Address and chunk tables: 64-bit arithmetic, empty tensors, what is sent again, and what a CUDA graph may replay."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import kernels
from kernels.backends import dispatch
from kernels.backends.triton import launch_tables
from kernels.launch.step_kernel import BLOCK
from kernels.launch.tables import Mirror, Tables, chunk_table, fitting_block
from kernels.rounding.powers import power_table

CPU = torch.device("cpu")


def covered(table: np.ndarray, numels: np.ndarray, block: int) -> list[list[tuple[int, int]]]:
    """Element ranges that the programs of each tensor step, computed as the kernel does, in Python's integers."""
    ranges: list[list[tuple[int, int]]] = [[] for _ in numels]
    for tensor, number in table.tolist():
        start = number * block
        ranges[tensor].append((start, min(start + block, int(numels[tensor]))))
    return ranges


@pytest.mark.parametrize("block", [64, 1024])
def test_chunks_cover_every_element_once_and_empty_tensors_get_none(block: int) -> None:
    numels = np.array([0, 1, block - 1, 0, block, block + 1, 0, 0, 3 * block + 7, 0], np.int64)
    table = chunk_table(numels, block)
    assert table.dtype == np.int32 and len(table) == int((-(-numels // block)).sum())
    for numel, ranges in zip(numels.tolist(), covered(table, numels, block), strict=True):
        assert [begin for begin, _ in ranges] == list(range(0, numel, block))
        assert sum(end - begin for begin, end in ranges) == numel
    assert chunk_table(np.zeros(3, np.int64), block).shape == (0, 2)
    assert chunk_table(np.zeros(0, np.int64), block).shape == (0, 2)


def test_a_tensor_of_2_to_the_33_elements_has_its_chunks_in_range() -> None:
    numel = 2**33 + 5
    table = chunk_table(np.array([3, numel], np.int64), BLOCK)
    numbers = table[1:, 1]
    assert len(numbers) == 2**33 // BLOCK + 1 and (table[1:, 0] == 1).all()
    # Block numbers fit int32 as stored; the element they start at does not, and is formed in 64 bits.
    assert np.array_equal(numbers, np.arange(len(numbers)))
    starts = numbers.astype(np.int64) * BLOCK
    assert starts[-1] == 2**33 and int(starts[-1] + BLOCK) > numel
    wrapped = numbers[-1:] * np.int32(BLOCK)
    assert int(wrapped[0]) != 2**33
    # Addresses of float32 elements: 64-bit bases, byte offsets beyond 2^34.
    base = np.int64(0x7F00_0000_0000)
    assert int(base + 4 * (numel - 1)) - int(base) == 4 * (numel - 1)


@pytest.mark.interpreter
@pytest.mark.parametrize("tail", [False, True], ids=["main-body", "tail"])
def test_the_kernel_steps_far_chunks_where_they_are(tail: bool) -> None:
    """A made-up tensor of 2^33 elements of which only one chunk exists in memory: the kernel must find it there."""
    block, numel = 1024, 2**33 + (500 if tail else 0)
    number = 2**33 // block if tail else 2**33 // block - 1
    start = number * block
    p, g = torch.full((block,), 3.0), torch.ones(block)
    hyper = kernels.get_algorithm("sgd").hyperparameters(lr=1.0)
    recipe = kernels.get_algorithm("sgd").recipe("foreach")
    host = np.array([[numel], [0], *([t.data_ptr() - 4 * start] for t in (p, g))], np.int64)
    tables = Tables(addresses=Mirror(device=torch.from_numpy(host), host=host), block=block)
    tables.chunks, tables.programs = torch.tensor([[0, number]], dtype=torch.int32), 1
    powers = power_table(CPU)
    launch_tables(
        tables,
        recipe,
        0,
        states=0,
        dtypes=(torch.float32, torch.float32, torch.float32, None),
        rows=torch.tensor([recipe.row(hyper, 1.0, False, powers)], dtype=torch.float64),
        steps=torch.ones(1),
        powers=powers.values,
        grad_scale=None,
        found_inf=None,
    )
    expected = torch.full((block,), 2.0)
    if tail:
        expected[500:] = 3.0
    assert torch.equal(p, expected)


def test_blocks_of_the_interpreter_fit_the_longest_tensor() -> None:
    assert [fitting_block(np.array(n)) for n in ([1], [64, 65], [1024], [10**9], [])] == [64, 128, 1024, 65536, 64]


# -- what is sent -----------------------------------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows [first, last) of every copy to the device after the first."""
    log: list[tuple[int, int]] = []
    real = Mirror._copy

    def copy(self: Mirror, first: int, last: int) -> None:
        log.append((first, last))
        real(self, first, last)

    monkeypatch.setattr(Mirror, "_copy", copy)
    return log


def test_only_changed_rows_are_sent_again(sent: list[tuple[int, int]]) -> None:
    mirror, array = Mirror(), np.arange(40, dtype=np.int64).reshape(8, 5)
    kept = mirror.send(array, CPU)
    assert sent == []
    assert mirror.send(array.copy(), CPU) is kept and sent == []
    array[3, 4] = -1
    assert mirror.send(array, CPU) is kept and sent == [(3, 4)]
    array[2, 0] = array[6, 0] = -2
    mirror.send(array, CPU)
    assert sent == [(3, 4), (2, 7)]
    assert np.array_equal(kept.numpy(), array)
    # The caller's array is not kept: changing it later sends again.
    array[0, 0] = -3
    mirror.send(array, CPU)
    assert sent[-1] == (0, 1)
    # Another size is another tensor.
    assert mirror.send(array[:4], CPU) is not kept and len(sent) == 3


def test_nan_and_a_zeros_sign_are_sent(sent: list[tuple[int, int]]) -> None:
    mirror = Mirror()
    mirror.send(np.array([[0.0], [1.0]]), CPU)
    kept = mirror.send(np.array([[-0.0], [1.0]]), CPU)
    assert sent == [(0, 1)] and bool(torch.signbit(kept[0]))
    kept = mirror.send(np.array([[-0.0], [np.nan]]), CPU)
    assert sent[1:] == [(1, 2)] and bool(kept[1].isnan())


def test_moved_gradients_resend_their_row_and_no_chunks(sent: list[tuple[int, int]]) -> None:
    tables = Tables()
    host = np.array([[5, 2000], [0, 0], [64, 128], [256, 512], [1024, 2048]], np.int64)
    tables.update(host, CPU, 1024)
    chunks = tables.chunks
    assert chunks is not None and chunks.tolist() == [[0, 0], [1, 0], [1, 1]]
    host[3] += 64
    tables.update(host, CPU, 1024)
    assert sent == [(3, 4)] and tables.chunks is chunks
    host[0, 0] = 1025
    tables.update(host, CPU, 1024)
    assert tables.chunks is not chunks and len(tables.chunks) == 4


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_step_sends_what_changed_and_nothing_else(
    name: str, sent: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables of real steps, with the launch left out."""
    monkeypatch.setattr(dispatch, "launcher", lambda backend: lambda *args, **options: None)
    monkeypatch.setattr(dispatch, "resolve_backend", lambda backend, device: "triton")
    params = [torch.nn.Parameter(torch.zeros(n)) for n in (3, 0, 70)]
    optimizer = getattr(kernels, name)(params, lr=0.1, recipe="fused")
    for p in params:
        p.grad = torch.zeros_like(p)
    for _ in range(3):
        optimizer.step()
    assert sent == []
    params[2].grad = torch.zeros(70)
    optimizer.step()
    assert sent == [(3, 4)]
    optimizer.param_groups[0]["lr"] = 0.2
    optimizer.step()
    assert sent == [(3, 4), (0, 1)]
    params[0].data = torch.zeros(3)
    optimizer.step()
    assert sent[2:] == [(2, 3)]


# -- under CUDA graph capture -----------------------------------------------------------------------------------


class FakeDevice:
    """A tensor "on CUDA": records every copy as (rows, the host tensor that a replay would read again)."""

    def __init__(self, values: torch.Tensor, log: list[Any], rows: tuple[int, int]) -> None:
        self.values, self.log, self.rows = values, log, rows
        self.device, self.dtype = SimpleNamespace(type="cuda"), values.dtype

    def numel(self) -> int:
        return self.values.numel()

    def __getitem__(self, rows: slice) -> "FakeDevice":
        return FakeDevice(self.values[rows], self.log, (rows.start, rows.stop))

    def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> None:
        assert non_blocking
        self.values.copy_(source)
        self.log.append((self.rows, source))


class Graph:
    """Capture state, and replays: every copy recorded under capture reads its host memory again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.capturing = False
        self.reserved_under_capture = 0
        real = torch.empty

        def empty(*args: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
            self.reserved_under_capture += pin_memory and self.capturing
            return real(*args, **options)

        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)
        monkeypatch.setattr(torch, "empty", empty)
        self.array = np.arange(12, dtype=np.int64).reshape(4, 3)
        self.log: list[Any] = []
        fake: Any = FakeDevice(torch.from_numpy(self.array.copy()), self.log, (0, 4))
        self.mirror = Mirror(device=fake, host=self.array.copy())
        self.mirror._reserve()
        self.device: Any = fake.device
        fake.device.__dict__["type"] = "cuda"

    def send(self, row: int, value: int) -> None:
        self.array = self.array.copy()
        self.array[row] = value
        self.mirror.send(self.array, self.device)

    @property
    def values(self) -> list[list[int]]:
        fake: Any = self.mirror.device
        return [list(map(int, row)) for row in fake.values]

    def replay(self, recorded: list[Any]) -> None:
        fake: Any = self.mirror.device
        for (first, last), source in recorded:
            fake.values[first:last] = source


def test_captured_copies_replay_their_own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(monkeypatch)
    graph.capturing = True
    graph.send(1, 77)
    graph.capturing = False
    recorded = list(graph.log)
    assert len(recorded) == 1
    # Ordinary steps between replays send other values, and their buffers come and go.
    for value in range(5):
        graph.send(1, value)
    assert graph.values[1] == [4, 4, 4]
    graph.replay(recorded)
    assert graph.values[1] == [77, 77, 77]
    assert graph.reserved_under_capture == 0


def test_two_captures_need_a_step_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(monkeypatch)
    graph.capturing = True
    graph.send(0, 1)
    with pytest.raises(RuntimeError, match="take an ordinary step of this optimizer between two captures"):
        graph.send(2, 2)
    graph.capturing = False
    graph.send(2, 3)
    graph.capturing = True
    graph.send(3, 4)
    first, second = (source for rows, source in graph.log if rows in ((0, 1), (3, 4)))
    # Two graphs, two buffers: replaying one does not bring the other's values.
    assert first.data_ptr() != second.data_ptr()
    assert first.tolist() == [[1, 1, 1]] and second.tolist() == [[4, 4, 4]]


def test_what_a_refused_capture_did_not_send_is_sent_by_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(monkeypatch)
    graph.capturing = True
    graph.send(0, 1)
    with pytest.raises(RuntimeError, match="take an ordinary step"):
        graph.send(2, 2)
    graph.capturing = False
    graph.mirror.send(graph.array, graph.device)
    assert graph.values == graph.array.tolist()


def test_an_array_that_found_no_room_is_sent_by_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror, array = Mirror(), np.arange(6, dtype=np.int64).reshape(2, 3)
    mirror.send(array, torch.device("cpu"))
    larger, to = np.arange(9, dtype=np.int64).reshape(3, 3), torch.Tensor.to

    def full(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(torch.OutOfMemoryError):
        mirror.send(larger, torch.device("cpu"))
    monkeypatch.setattr(torch.Tensor, "to", to)
    assert mirror.send(larger, torch.device("cpu")).tolist() == larger.tolist()


def test_unchanged_tables_are_not_copied_under_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(monkeypatch)
    graph.capturing = True
    graph.mirror.send(graph.array.copy(), graph.device)
    assert graph.log == []
