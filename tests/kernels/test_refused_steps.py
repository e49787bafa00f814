"""A step that is refused, fails or is interrupted changes nothing: not even which update is the first."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from ways import WAYS, look_by

import kernels

Param = torch.nn.Parameter


def interrupted(*arguments: Any, **keywords: Any) -> None:
    raise KeyboardInterrupt


def test_a_refused_step_changes_no_bucket() -> None:
    a, b = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(4).half())
    optimizer = kernels.AdamW([b, a], lr=0.1, fused=True)
    b.grad, a.grad = torch.ones(4).half(), torch.ones(1).expand(4)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(0.0)
    with pytest.raises(ValueError, match="cannot be unscaled"):
        optimizer.step()
    assert torch.equal(b.detach(), torch.ones(4).half())
    assert not optimizer.state


@pytest.mark.parametrize("master_weights", [False, True])
@pytest.mark.parametrize(
    "reason", ["expanded gradient", "inference", "another's state", "overlapping", "launch", "interrupt"]
)
def test_a_refused_first_step_leaves_no_trace(
    reason: str, master_weights: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = torch.bfloat16 if master_weights else torch.float32
    storage = torch.ones(24, dtype=dtype)
    a, b = Param(storage[:16].view(4, 4)), Param(storage[8:] if reason == "overlapping" else torch.ones(8, dtype=dtype))
    optimizer = kernels.SGD(
        [a, b], lr=1.0, momentum=0.9, dampening=0.5, recipe="fused", backend="reference", master_weights=master_weights
    )
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    with monkeypatch.context() as patch:
        if reason == "expanded gradient":
            a.grad = torch.ones((), dtype=dtype).expand(4, 4)
            optimizer.grad_scale = torch.tensor(1.0)
        elif reason == "inference":
            optimizer.grad_scale = torch.tensor(1.0)
            with torch.inference_mode():
                b.grad = torch.ones_like(b)
        elif reason == "another's state":
            optimizer.state[b]["momentum_buffer"] = torch.zeros(3)
        elif reason == "launch":
            patch.setattr(kernels.backends, "step_bucket", lambda *args, **kwargs: 1 / 0)
        elif reason == "interrupt":
            patch.setattr(kernels.backends, "step_bucket", interrupted)
        with pytest.raises((ValueError, ZeroDivisionError, KeyboardInterrupt)):
            optimizer.step()
    assert a not in optimizer.state
    if reason == "another's state":
        assert list(optimizer.state.pop(b)) == ["momentum_buffer"]
    assert not optimizer.state
    assert bool((a == 1).all())
    if reason == "overlapping":
        b.data = b.data.clone()
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    optimizer.step()
    # The first update takes the gradient as it is: later ones are dampened.
    assert bool((a == 0).all()) and bool((b == 0).all())


def test_a_refused_step_without_states_leaves_no_entry() -> None:
    p = Param(torch.ones(4))
    optimizer = kernels.SGD([p], lr=1.0, recipe="fused")
    optimizer.grad_scale, p.grad = torch.tensor(1.0), torch.ones(()).expand(4)
    with pytest.raises(ValueError, match="share memory"):
        optimizer.step()
    assert optimizer.state_dict()["state"] == {}


# -- parameters that come to share memory, or keep to their own -------------------------------------------------------

_SHARING: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "one memory": lambda a, b, other: exchange(b, a.data),
    "one memory, by set_": lambda a, b, other: b.requires_grad_(False).set_(a.detach()),
    "half of it": lambda a, b, other: [
        exchange(p, memory) for memory in [torch.ones(12)] for p, memory in ((a, memory[:8]), (b, memory[4:]))
    ],
    "of two dtypes": lambda a, b, other: exchange(other, a.data.view(torch.bfloat16)[:8]),
}
_APART: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "exchanged": lambda a, b, other: [exchange(p, data) for p, data in [(a, b.data), (b, a.data)]],
    "neighbours": lambda a, b, other: [
        exchange(p, memory) for base in [torch.ones(16)] for p, memory in ((a, base[:8]), (b, base[8:]))
    ],
}


def exchange(p: Tensor, data: Tensor) -> None:
    p.data = data


def _three() -> tuple[Param, Param, Param]:
    three = Param(torch.linspace(-1, 1, 8)), Param(torch.linspace(1, 2, 8)), Param(torch.ones(8, dtype=torch.bfloat16))
    for p in three:
        p.grad = torch.full_like(p, 0.25)
    return three


@pytest.mark.parametrize("how", _SHARING)
@pytest.mark.parametrize("way", WAYS)
def test_parameters_that_come_to_share_memory_are_refused(how: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look_by(way, monkeypatch)
    a, b, other = _three()
    optimizer: Any = kernels.AdamW([{"params": [a]}, {"params": [b, other], "lr": 0.1}])
    for _ in range(3):
        optimizer.step()
    _SHARING[how](a, b, other)
    before = [p.detach().clone() for p in (a, b, other)]
    for _ in range(2):
        with pytest.raises(ValueError, match="parameters share memory"):
            optimizer.step()
    assert [kernels.bits.mismatches(p.detach(), was) for p, was in zip((a, b, other), before, strict=True)] == [0] * 3
    assert [float(optimizer.state[p]["step"]) for p in (a, b, other)] == [3.0] * 3
    for p in (b, other):
        p.data = p.data.clone()
    optimizer.step()
    assert float(optimizer.state[b]["step"]) == 4.0


_STATES: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "one for both moments": lambda state, a, b: state[a].update(exp_avg_sq=state[a]["exp_avg"]),
    "one for two parameters": lambda state, a, b: state[b].update(exp_avg=state[a]["exp_avg"]),
    "half of another": lambda state, a, b: [
        state[p].update(exp_avg=part) for memory in [torch.zeros(12)] for p, part in ((a, memory[:8]), (b, memory[4:]))
    ],
    "a parameter": lambda state, a, b: state[a].update(exp_avg=b.data),
    "moved": lambda state, a, b: exchange(state[a]["exp_avg"], state[b]["exp_avg_sq"]),
}


@pytest.mark.parametrize("how", _STATES)
@pytest.mark.parametrize("way", WAYS)
def test_states_that_share_memory_are_refused(how: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look_by(way, monkeypatch)
    a, b, _ = _three()
    optimizer: Any = kernels.AdamW([a, b])
    for _ in range(3):
        optimizer.step()
    _STATES[how](optimizer.state, a, b)
    before = [p.detach().clone() for p in (a, b)]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^states: one shares memory with another or with a parameter"):
            optimizer.step()
    assert [kernels.bits.mismatches(p.detach(), was) for p, was in zip((a, b), before, strict=True)] == [0] * 2
    optimizer.state[a] = {name: state.clone() for name, state in optimizer.state[a].items()}
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in (a, b)] == [4.0] * 2


def test_states_of_one_buffer_that_lie_apart_are_stepped() -> None:
    stepped = []
    for states in (torch.zeros(8, 2).unbind(1), torch.zeros(2, 8).unbind(0)):
        p = torch.linspace(-1, 1, 8)
        kernels.functional.adam_([p], [p.clone()], [states[0]], [states[1]], step=1)
        stepped += [p, *states]
    assert [kernels.bits.mismatches(x, y) for x, y in zip(stepped[:3], stepped[3:], strict=True)] == [0] * 3
    with pytest.raises(ValueError, match=r"^states: one shares memory"):
        kernels.functional.adam_([p], [p.clone()], [states[0]], [states[0]], step=1)


def test_low_precision_parameters_of_masters_are_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    params = [Param(torch.ones(8, dtype=torch.bfloat16)) for _ in range(2)]
    optimizer = kernels.SGD(params, lr=0.1, master_weights=True)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.step()
    params[1].data = params[0].data
    with pytest.raises(ValueError, match="parameters share memory"):
        optimizer.step()


@pytest.mark.parametrize("how", _APART)
@pytest.mark.parametrize("way", WAYS)
def test_parameters_that_move_and_stay_apart_are_stepped(how: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look_by(way, monkeypatch)
    ends = []
    for fast in (True, False):
        params = _three()
        optimizer: Any = kernels.AdamW(params, lr=0.1)
        for _ in range(3):
            optimizer.step()
            _APART[how](*params)
            if not fast:
                # Whatever was known is asked anew.
                optimizer._known = None
        known = optimizer._known
        optimizer.step()
        assert (optimizer._known is known) == fast
        ends.append(params)
    assert [kernels.bits.mismatches(p.detach(), q.detach()) for p, q in zip(*ends, strict=True)] == [0] * 3


def test_parameters_with_gaps_that_move_are_compared_by_element() -> None:
    memories = []
    for step in (1, 2):
        memory = torch.linspace(-1, 1, 40)
        params = [Param(memory[place::step]) for place in range(step)]
        optimizer = kernels.AdamW(params, lr=0.1)
        for _ in range(3):
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
            memory = memory.clone()
            for place, p in enumerate(params):
                p.data = memory[place::step]
        memories.append(memory)
    assert kernels.bits.mismatches(*memories) == 0
    params[0].data = params[1].data
    with pytest.raises(ValueError, match="parameters share memory"):
        optimizer.step()


# -- looks that break off ---------------------------------------------------------------------------------------------


def _gradient(b: Tensor, optimizer: Any) -> tuple[Any, str, Any]:
    return b, "grad", torch.ones(16)[::2]


def _parameter(b: Tensor, optimizer: Any) -> tuple[Any, str, Any]:
    return b, "data", torch.ones(16)[::2]


def _counter(b: Tensor, optimizer: Any) -> tuple[Any, str, Any]:
    return optimizer.state[b]["step"], "data", torch.tensor(3.0)


@pytest.mark.parametrize("what", [_gradient, _parameter, _counter])
@pytest.mark.parametrize("recipe", ["foreach", "cpu-fused"])
@pytest.mark.parametrize("way", WAYS)
def test_what_moved_before_a_step_that_was_skipped_is_stepped_where_it_is_after_it(
    what: Callable[..., Any], recipe: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An overflow skips the step after a look that took the new address over and then found something it refuses."""
    look_by(way, monkeypatch)
    ends = []
    for skipped in (True, False):
        a, b, _ = _three()
        optimizer: Any = kernels.AdamW([a, b], lr=0.1, recipe=recipe)
        for _ in range(3):
            optimizer.step()
        left = a.data
        a.data = left.clone()
        before = left.clone()
        if skipped:
            of, name, value = what(b, optimizer)
            kept = getattr(of, name)
            setattr(of, name, value)
            optimizer.found_inf = torch.tensor(1.0)
            optimizer.step()
            del optimizer.found_inf
            setattr(of, name, kept)
        optimizer.step()
        assert torch.equal(left, before)
        ends.append([a.detach(), b.detach()])
    assert [kernels.bits.mismatches(*pair) for pair in zip(*ends, strict=True)] == [0, 0]
