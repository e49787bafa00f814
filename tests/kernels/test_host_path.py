"""What a step does besides computing: whom it tells, what it holds on to, what it notices."""

import weakref
from typing import Any

import pytest
import torch
from torch.optim import optimizer as everywhere

import kernels
from bench.timing import host_cost

Param = torch.nn.Parameter


def _params(count: int = 2) -> list[Param]:
    return [Param(torch.linspace(-1, 1, 8) + k) for k in range(count)]


@pytest.mark.parametrize("stays", [0, 1, 3])
def test_gradients_set_to_none_are_free_for_the_next_backward_pass(stays: int) -> None:
    params = _params()
    optimizer = kernels.AdamW(params)
    for p in params:
        p.grad = torch.ones(8)
    for _ in range(stays):
        optimizer.step()
    held = []
    for _ in range(6):
        # Gradients that seem to stay are recognised by a reference, until the first that did not.
        for p in params:
            p.grad = torch.ones(8)
        optimizer.step()
        held = [weakref.ref(p.grad) for p in params]
        optimizer.zero_grad(set_to_none=True)
    assert [ref() for ref in held] == [None, None]


def test_gradients_of_a_skipped_step_are_free_too() -> None:
    (p,) = _params(1)
    optimizer: Any = kernels.AdamW([p])
    for number in range(4):
        p.grad = torch.ones(8)
        held = weakref.ref(p.grad)
        optimizer.found_inf = torch.tensor(float(number == 3))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        assert held() is None
    assert float(optimizer.state[p]["step"]) == 3.0


def _hooked_steps(package: Any) -> list[Any]:
    log: list[Any] = []
    optimizer = package.SGD(_params(), lr=0.1)
    handles = [
        optimizer.register_step_pre_hook(lambda o, args, kwargs: log.append(("before", len(args), kwargs))),
        optimizer.register_step_post_hook(lambda o, args, kwargs: log.append(("after", len(args), kwargs))),
        everywhere.register_optimizer_step_pre_hook(lambda *given: log.append(("everywhere", len(given)))),
    ]
    optimizer.step()
    for handle in handles:
        handle.remove()
    optimizer.step()
    return log


def test_hooks_run_once_a_step_with_the_same_arguments_as_in_torch() -> None:
    expected = [("everywhere", 3), ("before", 1, {}), ("after", 1, {})]
    assert _hooked_steps(torch.optim) == expected == _hooked_steps(kernels)


def test_a_subclass_with_a_step_of_its_own_runs_hooks_once() -> None:
    log: list[str] = []

    class Mine(kernels.SGD):  # type: ignore[misc, name-defined]
        def step(self, closure: Any = None) -> Any:
            log.append("mine")
            return super().step(closure)

    params = _params()
    for p in params:
        p.grad = torch.ones(8)
    optimizer = Mine(params, lr=0.5)
    optimizer.register_step_pre_hook(lambda *given: log.append("hook"))
    before = params[0].detach().clone()
    optimizer.step()
    assert log == ["hook", "mine"] and torch.equal(params[0], before - 0.5)


def test_the_profiler_sees_the_step_by_its_class() -> None:
    params = _params()
    optimizer = kernels.Adam(params)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    assert "Optimizer.step#Adam.step" in {event.key for event in profile.key_averages()}


def test_steps_go_on_counting_in_shared_memory() -> None:
    params = _params()
    optimizer = kernels.Adam(params)
    for p in params:
        p.grad = torch.ones(8)
    optimizer.step()
    optimizer.share_memory()
    optimizer.step()
    steps = [optimizer.state[p]["step"] for p in params]
    assert [float(step) for step in steps] == [2.0, 2.0] and all(step.is_shared() for step in steps)


def test_what_a_step_sends() -> None:
    """Nothing while nothing changes, Adam's scalars with the launch, new gradients one row of addresses."""
    for name, scalars in (("SGD", 0), ("Adam", 7)):
        params = _params(3)
        for p in params:
            p.grad = torch.ones(8)
        with host_cost.without_launches() as sent:
            optimizer = getattr(kernels, name)(params, lr=0.1)
            optimizer.step()
            optimizer.step()
            before = (sent.launches, sent.scalars, sent.copies, sent.bytes_copied)
            optimizer.step()
            after = (sent.launches, sent.scalars, sent.copies, sent.bytes_copied)
            assert [b - a for a, b in zip(before, after, strict=True)] == [1, scalars, 0, 0]
            for p in params:
                p.grad = torch.ones(8)
            optimizer.step()
            assert sent.copies - after[2] == 1 and sent.bytes_copied - after[3] == 24
