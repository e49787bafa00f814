"""Steps replayed as graphs have the bits of ordinary steps, whatever changes in between.

There is no GPU here. In its place a recorder notes what a step would enqueue, launches with the arguments they get and
operations on tensors, instead of doing it; a replay does it. So an argument that is another one at every step, or a
value that was copied while recording, gives wrong bits here as it would in a CUDA graph.
"""

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import kernels
from kernels import backends, bits
from kernels.launch.tables import Mirror
from kernels.optim import graphs as graphs_of
from kernels.optim import plans
from kernels.optim.graphs import Graphs

Param = torch.nn.Parameter


class Recording(TorchDispatchMode):
    """Notes torch's operations; in-place ones wait for a replay, others give memory that a replay fills again."""

    def __init__(self, log: list[Callable[[], Any]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        schema = func._schema
        writes = [a for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        if writes:
            self.log.append(lambda: func(*args, **given))
            return args[0] if schema.returns else None
        made = func(*args, **given)
        if isinstance(made, torch.Tensor) and all(r.alias_info is None for r in schema.returns):
            self.log.append(lambda: made.copy_(func(*args, **given)))
        return made


class StandIn:
    """What a graph does, on a CPU."""

    def __init__(self) -> None:
        self.recording = False
        self.launches = 0

    def takes(self, plan: Any) -> bool:
        return True

    def busy(self) -> bool:
        return self.recording

    def record(self, device: torch.device, work: Callable[[], None]) -> Callable[[], Any]:
        log: list[Callable[[], Any]] = []

        def launch(*args: Any, **given: Any) -> None:
            # The bucket's tensors are reached through the table alone, as on a GPU.
            self.launches += 1
            tables, kept = given["tables"], dict(given)
            frozen = (tables.addresses.device, tables.chunks, tables.block)

            def run() -> None:
                assert tables.addresses.device is frozen[0] and tables.chunks is frozen[1]
                backends.step_bucket(*args, **kept)

            log.append(run)

        with mock.patch.object(plans, "backends", mock.Mock(step_bucket=launch)), Recording(log):
            work()
        return lambda: [one() for one in log]


def make(name: str, params: list[Param], options: dict[str, Any]) -> Any:
    return getattr(kernels, name)(params, lr=0.1, **options)


def params(sizes: tuple[int, ...] = (5, 64, 300)) -> list[Param]:
    generator = torch.Generator().manual_seed(3)
    return [Param(torch.randn(n, generator=generator)) for n in sizes]


def grads(of: list[Param], seed: int, *, fresh: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in of:
        g = torch.randn(p.shape, generator=generator)
        if p.grad is None or fresh:
            p.grad = g
        else:
            p.grad.copy_(g)


def counted_on_device(optimizer: Any) -> None:
    """Let the counters be advanced and read as a device's are."""
    for plan in optimizer._known.plans:
        counters = plan.counters
        if counters is not None and counters.on_host and plan._reads_steps:
            counters.on_host, counters._spread = False, counters._whole is None
            counters._view = None if counters._spread else counters._whole[counters._index]


def change(step: int, optimizer: Any, of: list[Param]) -> None:
    """What a training run may do between two steps."""
    if step == 7:
        optimizer.param_groups[0]["lr"] = 0.03
    if step == 10:
        optimizer.param_groups[0]["weight_decay"] = 0.25
    if step == 13:
        of[1].data = of[1].data.clone()
    if step == 16:
        of[0].grad = None
    if step == 22:
        optimizer.add_param_group({"params": [of[-1]], "lr": 0.01})
    if step == 28:
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    if step == 34:
        optimizer.forget()


CONFIGURATIONS = [
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {}),
    ("RMSprop", {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    ("AdamW", {"recipe": "fused", "amsgrad": True}),
    ("Adam", {"recipe": "foreach-capturable", "weight_decay": 0.1}),
]


@pytest.mark.filterwarnings("ignore:.*recorded table")
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS)
def test_replayed_steps_have_the_bits_of_ordinary_ones(
    name: str, options: dict[str, Any], fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs_of, "_MOST_PATIENCE", 2)
    mine, theirs = params((5, 64, 300, 7)), params((5, 64, 300, 7))
    replayed, plain = make(name, mine[:-1], options), make(name, theirs[:-1], options)
    graphs = Graphs(StandIn())
    replayed.take_graphs(graphs)
    for step in range(40):
        for optimizer, of in ((replayed, mine), (plain, theirs)):
            grads(of, step, fresh=fresh)
            change(step, optimizer, of)
            optimizer.step()
            if optimizer is replayed:
                counted_on_device(optimizer)
        assert [bits.mismatches(a.detach(), b.detach()) for a, b in zip(mine, theirs, strict=True)] == [0] * 4, step
        for a, b in zip(mine, theirs, strict=True):
            assert a._version == b._version
            for key, value in replayed.state[a].items():
                assert bits.mismatches(value.detach(), plain.state[b][key].detach()) == 0, (step, key)
    # A first capture, and one after each change that a graph cannot follow: an absent gradient, a group, other states,
    # all of it forgotten.
    assert graphs.captures >= 5 and graphs.replays >= 12


def test_steady_steps_are_replays() -> None:
    of = params()
    optimizer = make("SGD", of, {"momentum": 0.9})
    recorder = StandIn()
    graphs = Graphs(recorder)
    optimizer.take_graphs(graphs)
    for step in range(24):
        grads(of, step, fresh=True)
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        optimizer.step()
    # One first step, with buffers to make; two quiet ones; the capture; the rest.
    assert (graphs.captures, graphs.replays, recorder.launches) == (1, 20, 1)


def test_a_launch_that_would_be_given_other_memory_is_no_replay() -> None:
    of = params()
    optimizer = make("SGD", of, {})
    recorder = StandIn()
    graphs = Graphs(recorder)
    optimizer.take_graphs(graphs)
    for step in range(8):
        grads(of, step, fresh=False)
        if step == 6:
            (plan,) = optimizer._known.plans
            plan.tables.chunks = plan.tables.chunks.clone()
        optimizer.step()
    assert graphs.replays == 2 and graphs.captures == 1


def test_captures_that_do_not_last_become_rare() -> None:
    of = params()
    optimizer = make("SGD", of, {})
    graphs = Graphs(StandIn())
    optimizer.take_graphs(graphs)
    for step in range(200):
        grads(of, step, fresh=False)
        if step % 8 == 0:
            of[0].grad = None
        optimizer.step()
    assert 1 <= graphs.captures <= 3


def test_a_recorded_copy_is_noticed() -> None:
    """Rows that were sent while recording would undo later ones at every replay."""
    of = params()
    optimizer = make("SGD", of, {})
    optimizer.take_graphs(Graphs(StandIn()))
    count = itertools.count()
    with mock.patch.object(Mirror, "captured", property(lambda self: next(count))), pytest.raises(AssertionError):
        for step in range(4):
            grads(of, step, fresh=False)
            optimizer.step()


def test_inside_another_capture_steps_are_ordinary() -> None:
    of = params()
    optimizer = make("SGD", of, {})
    recorder = StandIn()
    graphs = Graphs(recorder)
    optimizer.take_graphs(graphs)
    for step in range(8):
        recorder.recording = step >= 5
        grads(of, step, fresh=False)
        before = of[0].detach().clone()
        optimizer.step()
        assert not torch.equal(of[0], before)
    assert graphs.replays == 1


def test_a_host_counted_step_is_never_captured() -> None:
    of = params()
    optimizer = make("Adam", of, {})
    graphs = Graphs(StandIn())
    optimizer.take_graphs(graphs)
    for step in range(6):
        grads(of, step, fresh=False)
        optimizer.step()
    assert graphs.captures == 0


def test_copies_have_no_graph() -> None:
    optimizer = make("SGD", params(), {})
    optimizer.take_graphs(Graphs(StandIn()))
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert other._graphs is None


@pytest.mark.parametrize(
    ("optimizer", "error", "complaint"),
    [
        (lambda of: torch.optim.SGD(of), TypeError, "torch.optim.sgd.SGD is none of kernels' optimizers"),
        (lambda of: kernels.Adam(of), ValueError, "use recipe='fused', or capturable=True"),
        (lambda of: kernels.Adagrad(of), ValueError, "recipe 'foreach' counts its steps on the host"),
        (lambda of: kernels.SGD(of, backend="reference"), ValueError, "backend 'reference' launches no kernels"),
        (lambda of: kernels.SGD(of), ValueError, "it has parameters on cpu; graphs need them on a GPU"),
    ],
)
def test_what_cannot_be_graphed_is_refused(optimizer: Any, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        kernels.graphed(optimizer(params()))
