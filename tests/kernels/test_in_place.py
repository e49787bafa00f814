"""What happens to a tensor between two steps is seen by the next, on the quick path of the optimizers too."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from ways import WAYS, look_by

import kernels

Param = torch.nn.Parameter
Change = Callable[[Param, dict[str, Any]], Any]


@pytest.fixture(params=WAYS, autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    look_by(request.param, monkeypatch)


def negated(tensor: Tensor) -> Tensor:
    """A view of the same layout whose elements are negated when they are read."""
    return torch._neg_view(tensor)


def in_inference() -> Tensor:
    with torch.inference_mode():
        return torch.ones(8)


def replace_data(p: Param, data: Tensor) -> None:
    p.data = data


def replace_grad(p: Param, grad: Tensor) -> None:
    p.grad = grad


def shrink_twice(tensor: Tensor) -> None:
    """The allocator often gives the place that the first resize freed to the second."""
    for fewer in (8, 4):
        tensor.untyped_storage().resize_(tensor.numel() * tensor.element_size() - fewer)


CHANGES: dict[str, tuple[Change, str]] = {
    "data negated": (lambda p, state: replace_data(p, negated(torch.ones(8))), "params: .*resolve_neg"),
    "data negated with gaps": (
        lambda p, state: replace_data(p, torch.ones(8, dtype=torch.complex64).conj().imag),
        "params: .*resolve_neg",
    ),
    "data of inference": (lambda p, state: replace_data(p, in_inference()), "params: .*inference mode"),
    "grad negated": (lambda p, state: replace_grad(p, negated(torch.ones(8))), "grad: .*resolve_neg"),
    "grad resized": (lambda p, state: p.grad.resize_(3), "grad of shape"),  # type: ignore[union-attr]
    "grad exchanged": (lambda p, state: p.grad.set_(torch.ones(3)), "grad of shape"),  # type: ignore[union-attr]
    "grad shrunk": (
        lambda p, state: p.grad.untyped_storage().resize_(16),  # type: ignore[union-attr]
        "grad: its storage",
    ),
    "state resized": (lambda p, state: state["exp_avg"].resize_(2), "state 'exp_avg' of shape"),
    "state exchanged": (lambda p, state: state["exp_avg"].set_(torch.ones(2)), "state 'exp_avg' of shape"),
    "state shrunk": (lambda p, state: state["exp_avg"].untyped_storage().resize_(16), "state 'exp_avg': its storage"),
    "grad shrunk at its address": (lambda p, state: shrink_twice(p.grad), "grad: its storage"),
    "data shrunk at its address": (lambda p, state: shrink_twice(p), "params: .* its storage"),
    "state shrunk at its address": (lambda p, state: shrink_twice(state["exp_avg"]), "state 'exp_avg': its storage"),
    "counter freed": (
        lambda p, state: state["step"].untyped_storage().resize_(0),
        "state 'step': its storage",
    ),
}


@pytest.mark.parametrize("backend", ["simd", "reference"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_steps_is_refused_by_name(change: str, backend: str) -> None:
    p, other = Param(torch.ones(8)), Param(torch.ones(8))
    optimizer = kernels.AdamW([p, other], backend=backend)
    p.grad, other.grad = torch.ones(8), torch.ones(8)
    optimizer.step()
    # Of our own, in memory that can be resized.
    optimizer.state[p]["step"] = torch.ones(())
    for _ in range(3):
        optimizer.step()
    before = other.detach().clone()
    make, message = CHANGES[change]
    make(p, optimizer.state[p])
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.step()
    assert torch.equal(other.detach(), before)


@pytest.mark.parametrize("backend", ["simd", "reference"])
def test_momentum_that_is_resized_is_refused(backend: str) -> None:
    p = Param(torch.ones(8))
    optimizer = kernels.SGD([p], lr=0.1, momentum=0.9, backend=backend)
    p.grad = torch.ones(8)
    for _ in range(3):
        optimizer.step()
    optimizer.state[p]["momentum_buffer"].resize_(2)
    with pytest.raises(ValueError, match="state 'momentum_buffer' of shape"):
        optimizer.step()


@pytest.mark.parametrize("backend", ["simd", "reference"])
def test_inference_tensors_are_stepped_in_inference_mode_alone(backend: str) -> None:
    with torch.inference_mode():
        p = torch.ones(8)
        optimizer = kernels.SGD([p], lr=0.5, backend=backend)
        p.grad = torch.ones(8)
        for _ in range(3):
            optimizer.step()
    assert p.tolist() == [-0.5] * 8
    with pytest.raises(ValueError, match="params: a parameter made in inference mode"):
        optimizer.step()
    assert p.tolist() == [-0.5] * 8


@pytest.mark.parametrize("backend", ["simd", "reference"])
@pytest.mark.parametrize("place", ["params", "grad", "state 'momentum_buffer'"])
def test_memory_under_a_stand_in_is_looked_at(place: str, backend: str) -> None:
    def gappy() -> Tensor:
        return torch.ones(4, 8)[:, ::2]

    # Each has gaps, or another order than its parameter, and is stepped through a copy.
    p = Param(gappy() if place == "params" else torch.ones(4, 4))
    p.grad = gappy()
    optimizer = kernels.SGD([p], lr=0.1, momentum=0.9, backend=backend)
    optimizer.step()
    if place.startswith("state"):
        optimizer.state[p]["momentum_buffer"] = gappy()
    for _ in range(3):
        optimizer.step()
    changed = {"params": p, "grad": p.grad}.get(place, optimizer.state[p]["momentum_buffer"])
    changed.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=f"{place}:.* its storage was freed"):
        optimizer.step()
