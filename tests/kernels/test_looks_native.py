"""The compiled half of looks: the same answers as in Python, no reference lost, and done without where it must be."""

import random
import sys
import sysconfig
from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from ways import WAYS, compiled_look, look_by

import kernels
from kernels.optim import native

Param = torch.nn.Parameter

# -- states ----------------------------------------------------------------------------------------------------------


def _edits(chance: random.Random, optimizer: Any) -> None:
    """What may be done to a state, or nothing."""
    p = chance.choice(list(optimizer.state))
    entry = optimizer.state[p]
    name = chance.choice(list(entry))
    what = chance.randrange(10)
    if what == 0:
        entry[name] = entry[name].clone()
    elif what == 1:
        del entry[name]
    elif what == 2:
        entry["more"] = torch.zeros(1)
    elif what == 3:
        optimizer.state[p] = dict(entry)
    elif what == 4:
        del optimizer.state[p]
    elif what == 5:
        optimizer.state["note"] = chance.choice([3, {}, {"x": 1}])
    elif what == 6:
        entry[name] = entry.pop(name)  # the same, in another order
    elif what == 7:
        last = next(reversed(entry))
        entry["other"] = entry.pop(last)  # the same, under another name
    elif what == 8:
        turned = [*list(optimizer.state)[1:], next(iter(optimizer.state))]
        optimizer.state = dict(zip(turned, optimizer.state.values(), strict=True))  # the same, for other parameters


def test_states_are_the_same_by_both_ways() -> None:
    compiled_look()
    answers = set()
    for seed in range(200):
        chance = random.Random(seed)
        params = [Param(torch.zeros(2)) for _ in range(4)]
        optimizer = kernels.Adam(params)
        for p in params:
            p.grad = torch.zeros(2)
        optimizer.step()
        known = optimizer._known
        _edits(chance, optimizer)
        found = []
        for module in (native.compiled_look(), None):
            known._native = module
            found.append(known._states_hold(optimizer))
        assert found[0] == found[1]
        answers.add(found[0])
    assert answers == {True, False}


@pytest.mark.parametrize("way", WAYS)
def test_a_state_that_is_a_mapping_but_no_dict_is_stepped_as_a_dict_is(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_by(way, monkeypatch)
    ends = []
    for kept in (dict, UserDict):
        params = [Param(torch.ones(2)) for _ in range(64)]
        optimizer = kernels.Adam(params, lr=0.1)
        for _ in range(3):
            for p in params:
                p.grad = torch.ones(2)
            optimizer.step()
            optimizer.state = kept(optimizer.state)
        ends.append(torch.cat([p.detach() for p in params]))
    assert ends[0].view(torch.int32).tolist() == ends[1].view(torch.int32).tolist()


@pytest.mark.parametrize("backend", ["simd", "reference"])
@pytest.mark.parametrize("how", ["data", "set_"])
@pytest.mark.parametrize("way", WAYS)
def test_a_counter_whose_memory_is_exchanged_counts_on_from_there(
    how: str, backend: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_by(way, monkeypatch)
    ends = []
    for change in (how, "another tensor"):
        params = [Param(torch.linspace(-1, 1, 8)) for _ in range(2)]
        for p in params:
            p.grad = torch.linspace(0.5, 1, 8)
        optimizer = kernels.AdamW(params, lr=0.1, backend=backend)
        for number in range(6):
            if number == 3:
                entry = optimizer.state[params[1]]
                if change == "data":
                    entry["step"].data = torch.tensor(40.0)
                elif change == "set_":
                    entry["step"].set_(torch.tensor(40.0))
                else:
                    entry["step"] = torch.tensor(40.0)
            optimizer.step()
        assert [float(optimizer.state[p]["step"]) for p in params] == [6.0, 43.0]
        ends.append([*params, *(optimizer.state[p]["step"] for p in params)])
    assert [kernels.bits.mismatches(a.detach(), b.detach()) for a, b in zip(*ends, strict=True)] == [0] * 4


# -- the module ------------------------------------------------------------------------------------------------------


@pytest.fixture
def module() -> Any:
    return compiled_look()


def test_a_folder_that_keeps_nothing_is_no_error(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert not isinstance(native._found.__wrapped__(), str)


@pytest.mark.parametrize("left", [0, 100, 4096, -1])
def test_a_damaged_kept_module_is_built_again(
    left: int, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not isinstance(native._found.__wrapped__(), str)
    (kept,) = tmp_path.rglob("looks-*")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:left])
    assert not isinstance(native._found.__wrapped__(), str)
    assert kept.read_bytes()[:20] == whole[:20] and len(kept.read_bytes()) == len(whole)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_wrong_arguments_are_errors(module: Any) -> None:
    one = torch.zeros(1)
    table, layouts = np.zeros((1, 4), np.int64), module.describe(one)
    beyond = np.array([[0, 4, 4, len(layouts)]], np.int64)
    for arguments, error in (
        ((iter([one]), table, layouts), TypeError),
        (([one], table, bytearray(layouts)), TypeError),
        (([one], table[:0], layouts), ValueError),
        (([one], np.zeros((1, 8), np.int64)[:, ::2], layouts), (ValueError, BufferError)),
        (([one], beyond, layouts), ValueError),
        (([one], -beyond, layouts), ValueError),
        (([one], table), TypeError),
    ):
        with pytest.raises(error):
            module.look(*arguments)
    few, more = (), (1,)
    for arguments in (
        ({}, few, few, few, []),
        ([], few, few, few, few),
        ({}, more, few, few, few),
        ({}, few, few, few, more),
        ({}, few),
    ):
        with pytest.raises(TypeError):
            module.same_entries(*arguments)
    for arguments in (((), ()), ([], []), ([],)):
        with pytest.raises(TypeError):
            module.same_objects(*arguments)
    for arguments in (([one], b"\0"), ((one,), [0]), ((one,), b""), ((one,),)):
        with pytest.raises(TypeError):
            module.gradients(*arguments)
    nested = torch.nested.nested_tensor([one, torch.zeros(2)])
    for what, error in ((None, TypeError), (1.0, TypeError), (nested, ValueError)):
        with pytest.raises(error):
            module.describe(what)
    # What is no tensor is laid out as no tensor is.
    assert [module.look([what], table, layouts) for what in (None, 1.0, one.to_sparse(), nested)] == [-1] * 4


def test_references_are_given_back(module: Any) -> None:
    tensors = [torch.zeros(3) for _ in range(5)]
    grads = [torch.zeros(3) for _ in range(3)]
    for place, grad in zip((1, 2, 4), grads, strict=True):
        tensors[place].grad = grad
    state = {0: {"a": tensors[0]}, 1: {"b": tensors[1]}}
    entries, layouts = tuple(state.values()), module.describe(tensors[0])
    table = np.array([[t.data_ptr(), 4, 12, 0] for t in tensors], np.int64)
    everything = [*tensors, *grads, tensors, table, layouts, *entries, True, False, None]
    before = [sys.getrefcount(one) for one in everything]
    for known, among in ((table, layouts), (table + np.eye(1, 4, dtype=int), layouts), (table, b"\0" * 48)):
        for _ in range(50):
            module.look(tensors, known, among)
            module.describe(tensors[0])
            module.same_entries(state, (0, 1), entries, ("a", "b"), tuple(tensors[:2]))
            module.same_entries(state, (0, 1), entries, ("a", "b"), tuple(tensors[1:3]))
            module.same_objects(tensors, (*tensors,))
            module.same_objects(tensors, (*tensors[1:], tensors[0]))
            module.gradients((*tensors,), b"\1\0\0\1\0")
            module.gradients((*tensors,), bytes(5))
    del known, among
    after = [sys.getrefcount(one) for one in everything]
    assert all(abs(a - b) < 20 for a, b in zip(after, before, strict=True))


def test_gradients_are_read_as_python_reads_them(module: Any) -> None:
    class Odd(Tensor):
        @property
        def grad(self) -> Any:
            if len(given) > 2:
                raise ZeroDivisionError
            given.append(self)
            return None if len(given) == 1 else "a gradient"

    given: list[Any] = []
    one, grad = Param(torch.zeros(2)), torch.ones(2)
    one.grad = grad
    odd = torch.zeros(2).as_subclass(Odd)
    assert module.gradients((), b"") == []
    assert module.gradients((one, odd), b"\0\1") == [grad, None]
    assert module.gradients((one, odd), b"\0\0") == [grad, "a gradient"]
    assert module.gradients((one, torch.zeros(2)), b"\0\0") is None
    assert module.gradients((one, torch.zeros(2)), b"\1\1") is None
    given.append(None)
    with pytest.raises(ZeroDivisionError):
        module.gradients((one, odd), b"\0\1")
    with pytest.raises(AttributeError):
        module.gradients((one, 3), b"\0\1")


def test_the_same_objects_are_no_equal_ones(module: Any) -> None:
    first, second = [1.5], [1.5]
    assert module.same_objects([first, second], (first, second)) and module.same_objects([], ())
    for others in ((second, first), (first,), (first, second, first), (first, first)):
        assert not module.same_objects([first, second], others)


def test_objects_that_keep_their_tensors_elsewhere_are_refused() -> None:
    assert native._handle_offset(native._samples()) is not None

    class Elsewhere:
        _cdata = 0x123456789ABCDEF

    assert native._handle_offset([Elsewhere()]) is None  # type: ignore[list-item]


@pytest.mark.parametrize("lacks", ["a compiler", "Python.h", "torch's functions", "its keys", "a lock"])
def test_it_is_done_without(
    lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In silence, and every step is the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if lacks == "a compiler":
        monkeypatch.setenv("CC", "/nowhere/cc")
    elif lacks == "Python.h":
        monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: "/nowhere")
    elif lacks == "torch's functions":
        monkeypatch.setattr(native, "_FUNCTIONS", ("aoti_torch_no_such_function",))
    elif lacks == "its keys":
        monkeypatch.setattr(native, "_keys_offset", lambda samples: None)
    else:
        monkeypatch.setattr(sysconfig, "get_config_var", {"Py_GIL_DISABLED": 1}.get)
    reason = native._found.__wrapped__()
    assert isinstance(reason, str) and reason and capfd.readouterr() == ("", "")
    monkeypatch.setattr(native, "_found", lambda: reason)
    assert native.compiled_look_missing() == reason
    ends = []
    for make_optimizer in (kernels.AdamW, torch.optim.AdamW):
        params = [Param(torch.ones(4)) for _ in range(64)]
        for p in params:
            p.grad = torch.ones(4)
        optimizer = make_optimizer(params, lr=0.5)
        for _ in range(3):
            optimizer.step()
        ends.append(torch.stack([p.detach() for p in params]))
    assert kernels.bits.mismatches(*ends) == 0
