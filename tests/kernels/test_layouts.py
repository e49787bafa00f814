"""A layout that changed is seen, with torch.compile's guards and without them."""

import weakref
from typing import Any

import pytest
import torch

from kernels.optim import layouts
from kernels.optim.layouts import Layouts


class Mine(torch.Tensor):
    """A subclass."""


OTHERS = {
    "shape": lambda: torch.zeros(3, 5),
    "dimensions": lambda: torch.zeros(15),
    "strides": lambda: torch.zeros(3, 5).t(),
    "gaps": lambda: torch.zeros(5, 6)[:, ::2],
    "dtype": lambda: torch.zeros(5, 3, dtype=torch.bfloat16),
    "device": lambda: torch.zeros(5, 3, device="meta"),
    "type": lambda: torch.zeros(5, 3).as_subclass(Mine),
    "sparse": lambda: torch.zeros(5, 3).to_sparse(),
}


@pytest.fixture(params=["guards", "plain"])
def compared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(layouts, "_guard", lambda *arguments: None)
    return str(request.param)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("place", [0, 2])
def test_another_layout_is_seen(other: str, place: int, compared: str) -> None:
    tensors = [torch.zeros(5, 3), torch.zeros(2), torch.zeros(5, 3)]
    known = Layouts(tensors)
    assert (known.guard is not None) == (compared == "guards")
    assert known.same(tensors) and known.same([torch.ones_like(tensor) for tensor in tensors])
    tensors[place] = OTHERS[other]()
    assert not known.same(tensors)


def test_what_is_no_layout_makes_no_difference(compared: str) -> None:
    known = Layouts([torch.zeros(5, 3), torch.zeros(0), torch.zeros(())])
    assert known.same([torch.zeros(5, 3, requires_grad=True), torch.zeros(0), torch.zeros(())])
    with torch.inference_mode():
        assert known.same([torch.zeros(5, 3), torch.zeros(0), torch.zeros(())])
    assert Layouts([]).same([])


def test_no_tensor_is_held(compared: str) -> None:
    tensors: list[Any] = [torch.zeros(5, 3)]
    known, reference = Layouts(tensors), weakref.ref(tensors[0])
    tensors.clear()
    assert reference() is None and known.same([torch.zeros(5, 3)])


def test_guards_that_cannot_be_had_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch._C._dynamo.guards", None)
    known = Layouts([torch.zeros(3)])
    assert known.guard is None and known.same([torch.ones(3)]) and not known.same([torch.ones(4)])
