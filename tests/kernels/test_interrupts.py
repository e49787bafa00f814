"""An interrupt while vector code runs is raised when that has ended: what was stepped is counted, and memory stays."""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor

import kernels
from kernels.backends import simd
from kernels.backends.simd import step as simd_step
from kernels.population import launches_simd, train_simd
from kernels.population.launches_simd import Packed

pytestmark = pytest.mark.skipif(bool(simd.unavailable()), reason=simd.unavailable())
Param = torch.nn.Parameter


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def interrupt_steps(monkeypatch: pytest.MonkeyPatch, *, ended: bool) -> None:
    """Ctrl-C comes in every step of vector code: before it begins, or while it runs."""
    found = simd_step.step_function

    def function(*arguments: Any) -> Any:
        address, step = found(*arguments)

        def interrupted(call: int) -> None:
            if ended:
                step(call)
            raise KeyboardInterrupt

        return address, interrupted

    monkeypatch.setattr(simd_step, "step_function", function)


def forget_launches(optimizer: Any) -> None:
    for plan in optimizer._known.plans if optimizer._known else ():
        plan.tables.launches.clear()


def same(a: Tensor, b: Tensor) -> bool:
    return kernels.bits.mismatches(a.detach(), b.detach()) == 0


def plain() -> list[Param]:
    return [Param(torch.linspace(-1, 1, 40))]


def gappy() -> list[Param]:
    return [Param(torch.linspace(-1, 1, 80)[::2])]


def two_launches() -> list[Param]:
    return [Param(torch.linspace(-1, 1, 40)), Param(torch.linspace(-1, 1, 8).bfloat16())]


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize(("make", "masters"), [(plain, False), (gappy, False), (two_launches, False), (plain, True)])
def test_an_interrupted_step_is_taken_whole_or_not_at_all(
    make: Callable[[], list[Param]], masters: bool, steps_before: int, ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> tuple[list[Param], Any]:
        params = [Param(p.data.bfloat16()) if masters else p for p in make()]
        for p in params:
            p.grad = torch.full_like(p, 0.25)
        optimizer = kernels.AdamW(params, lr=0.1, backend="simd", master_weights=masters)
        for _ in range(steps_before):
            optimizer.step()
        return params, optimizer

    expected, other = trained()
    params, optimizer = trained()
    if make is two_launches:
        # The second launch does not come about.
        expected[1].grad = None
    if ended:
        other.step()
    with monkeypatch.context() as patch:
        interrupt_steps(patch, ended=ended)
        forget_launches(optimizer)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
    forget_launches(optimizer)
    for _ in range(2):
        for p, q in zip(params, expected, strict=True):
            assert same(p, q)
            entry, wanted = optimizer.state.get(p, {}), other.state.get(q, {})
            assert entry.keys() == wanted.keys()
            assert all(same(value, wanted[name]) for name, value in entry.items())
        expected[-1].grad = torch.full_like(expected[-1], 0.25)
        optimizer.step()
        other.step()


@pytest.mark.parametrize("ended", [True, False])
def test_an_interrupted_step_of_a_population(ended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> kernels.Population:
        population = kernels.Population("adam", [{"lr": 0.1}], torch.ones(3, 20), backend="simd")
        population.step(torch.full((3, 20), 0.25))
        return population

    expected, population = trained(), trained()
    grads, skips = torch.full((3, 20), -0.5), [0, 1, 0]
    if ended:
        expected.step(grads, found_inf=skips)
    version = population.params._version
    with monkeypatch.context() as patch:
        interrupt_steps(patch, ended=ended)
        population._tables.launches.clear()
        with pytest.raises(KeyboardInterrupt):
            population.step(grads, found_inf=skips)
    population._tables.launches.clear()
    assert population.params._version > version
    for _ in range(2):
        assert torch.equal(population.steps, expected.steps) and population.step_count == expected.step_count
        assert same(population.params, expected.params)
        assert all(same(population.state[name], expected.state[name]) for name in expected.state)
        population.step(grads)
        expected.step(grads)


@pytest.mark.parametrize("backend", ["reference", "simd"])
def test_a_population_step_that_fails_is_not_counted(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    population = kernels.Population("adam", [{"lr": 0.1}], torch.ones(3, 20), backend=backend)
    with monkeypatch.context() as patch:
        patch.setattr(population, "_as_launched", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            population.step(torch.ones(3, 20), found_inf=[1, 0, 0])
    assert population.step_count == 0 and population.steps.tolist() == [0, 0, 0]


# -- whole training runs ----------------------------------------------------------------------------------------------


def a_trainer() -> kernels.Trainer:
    params = torch.linspace(-1, 1, 40 * 49).view(40, 49).contiguous()
    return kernels.Trainer("adam", [{"lr": 0.1}], params, backend="simd")


DATA = torch.linspace(-1, 1, 6 * 7).view(6, 1, 7).contiguous()


def equal(trainer: kernels.Trainer, expected: kernels.Trainer) -> bool:
    tensors = zip([trainer.params, *trainer.state.values()], [expected.params, *expected.state.values()], strict=True)
    return trainer.step_count == expected.step_count and all(same(a, b) for a, b in tensors)


def interrupted_train(monkeypatch: pytest.MonkeyPatch, call_number: int, worker: Callable[[], Any]) -> None:
    """The thread that called is interrupted in this one of its calls; other threads begin with ``worker``."""
    found, calls = train_simd.train_function, []

    def function(constants: Any) -> Any:
        train = found(constants)

        def run(call: Any) -> None:
            if threading.current_thread() is not threading.main_thread():
                worker()
            train(call)
            if threading.current_thread() is threading.main_thread():
                calls.append(call)
                if len(calls) == call_number:
                    raise KeyboardInterrupt

        return run

    monkeypatch.setattr(train_simd, "train_function", function)


@pytest.mark.usefixtures("two_threads")
def test_threads_of_an_interrupted_run_keep_the_memory_that_they_write(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, expected, go = a_trainer(), a_trainer(), threading.Event()

    def packed() -> list[Packed]:
        gc.collect()
        return [found for found in gc.get_objects() if type(found) is Packed]

    monkeypatch.setattr(launches_simd, "_THREADED", 0)
    with monkeypatch.context() as patch:
        interrupted_train(patch, 1, lambda: go.wait(20))
        before = set(threading.enumerate())
        # Of pytest.raises the traceback would hold on to everything.
        with suppress(KeyboardInterrupt):
            trainer.run(DATA)
        (worker,) = set(threading.enumerate()) - before
        assert len(packed()) == 1
        go.set()
        worker.join()
        assert not packed()
    assert equal(trainer, expected)
    trainer.run(DATA)
    expected.run(DATA)
    assert equal(trainer, expected)


def interrupted_unpack(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Ctrl-C comes in the call of this number, when some tensors are written."""
    found, calls = Packed.unpack, []

    def unpack(self: Packed, tensors: Any) -> None:
        calls.append(0)
        if len(calls) == at:
            found(self, [tensors[0], None, None, None])
            raise KeyboardInterrupt
        found(self, tensors)

    monkeypatch.setattr(Packed, "unpack", unpack)


def test_a_run_that_is_interrupted_while_it_is_written_is_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, expected = a_trainer(), a_trainer()
    with monkeypatch.context() as patch:
        interrupted_unpack(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            trainer.run(DATA)
    expected.run(DATA)
    assert equal(trainer, expected)


@pytest.mark.parametrize("at", [2, 7])
def test_so_is_a_walk(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, expected = a_trainer(), a_trainer()
    with monkeypatch.context() as patch:
        interrupted_unpack(patch, at)
        with pytest.raises(KeyboardInterrupt):
            list(trainer.walk(DATA))
    expected.run(DATA[:at])
    assert equal(trainer, expected)


def test_a_walk_that_is_interrupted_while_models_train_is_not_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, expected = a_trainer(), a_trainer()
    start = expected.params.clone()
    with monkeypatch.context() as patch:
        interrupted_train(patch, 3, lambda: None)
        with pytest.raises(KeyboardInterrupt):
            list(trainer.walk(DATA))
    expected.run(DATA[:2])
    assert trainer.step_count == 2 and same(trainer.params, expected.params)
    for go in (trainer.run, lambda data: next(trainer.walk(data))):
        with pytest.raises(RuntimeError, match=r"^walk: it was interrupted .*; call restart, or make a new trainer$"):
            go(DATA)
    trainer.restart(start)
    trainer.run(DATA[:2])
    assert equal(trainer, expected)
