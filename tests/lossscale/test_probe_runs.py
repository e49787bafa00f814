"""`lossscale.Probe` in the runs that people have: compiled, wrapped, copied, loaded, changed while they go on."""

import copy
import gc
import io
import logging
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

import kernels
import lossscale
from kernels import bits


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    dtype = next(model.parameters()).dtype
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(6, 8, dtype=dtype, device="cpu")).square().mean().backward()
        optimizer.step()


def layers(numbers: dict[str, float] | None) -> list[str]:
    assert numbers is not None
    return [name.split("/")[1] for name in numbers if name.startswith("layer/") and name.endswith("/update_lost")]


def inner_compiled(model: torch.nn.Sequential) -> torch.nn.Module:
    model[0] = torch.compile(model[0], backend="eager")  # type: ignore[assignment]
    return model


def inner_parallel(model: torch.nn.Sequential) -> torch.nn.Module:
    model[0] = torch.nn.DataParallel(model[0])
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(model, backend="eager"),
        inner_compiled,
        torch.nn.DataParallel,
        lambda model: torch.compile(torch.nn.DataParallel(model), backend="eager"),
        inner_parallel,
    ],
    ids=["compiled", "compiled-inside", "parallel", "compiled-parallel", "parallel-inside"],
)
def test_layers_have_the_names_of_the_model_as_it_was_written(wrap: Callable[[Any], torch.nn.Module]) -> None:
    model = wrap(network())
    optimizer = torch.optim.Adam(model.parameters())
    probe = lossscale.Probe(optimizer, every=1, model=model)
    for p in model.parameters():  # the names alone: nothing has to be compiled
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert layers(probe.take()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_module_called_module_keeps_its_name() -> None:
    model = torch.nn.ModuleDict({"module": torch.nn.Linear(2, 1)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = lossscale.Probe(optimizer, every=1, model=model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert layers(probe.take()) == ["module.weight", "module.bias"]


def test_layers_that_the_model_got_later_have_their_names() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    probe = lossscale.Probe(optimizer, every=1, model=model)
    train(model, optimizer)
    model.add_module("head", torch.nn.Linear(4, 4))
    optimizer.add_param_group({"params": list(model.head.parameters())})  # type: ignore[union-attr]
    train(model, optimizer)
    assert layers(probe.take())[-2:] == ["head.weight", "head.bias"]


def test_parameters_that_change_their_dtype_are_looked_at_anew(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = lossscale.Probe(optimizer, every=1)
    for dtype, seen in ((torch.float32, 212), (torch.float64, 0), (torch.bfloat16, 212)):
        model.to(dtype)
        train(model, optimizer, 1)
        numbers = probe.take()
        assert numbers is not None and numbers["group0/elements"] == seen
    assert "failed" not in caplog.text


def test_frozen_and_complex_parameters_are_left_out_until_they_train() -> None:
    model, wave = network(), torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam([*model.parameters(), wave])
    probe = lossscale.Probe(optimizer, every=1, model=model)
    for frozen, (seen, left_out) in ((True, (68, 3)), (False, (212, 1))):
        model[0].requires_grad_(not frozen)
        wave.grad = torch.full_like(wave, 1j)
        model(torch.ones(6, 8)).square().mean().backward()
        optimizer.step()
        numbers = probe.take()
        assert numbers is not None
        assert (numbers["group0/elements"], numbers["group0/left_out"]) == (seen, left_out)


def test_states_that_are_loaded_in_mid_run_are_those_looked_at() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    probe = lossscale.Probe(optimizer, every=1)
    empty = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, 3)
    first, saved = probe.take(), copy.deepcopy(optimizer.state_dict())
    saved["state"] = {
        place: {name: value * 4 if name == "exp_avg_sq" else value for name, value in entry.items()}
        for place, entry in saved["state"].items()
    }
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.load_state_dict(saved)
    train(model, optimizer, 1)
    second = probe.take()
    optimizer.load_state_dict(empty)
    train(model, optimizer, 1)
    third = probe.take()
    assert first is not None and second is not None and third is not None
    assert (first["step"], second["step"], third["step"]) == (3, 4, 5)
    assert "group0/v_unchanged" in second and "group0/v_unchanged" not in third  # there was no v before the step
    assert second["group0/rho"] < 0.8 * first["group0/rho"]  # a root that is twice as large, and three steps old


@pytest.mark.parametrize("library", [torch.optim, kernels], ids=["torch", "ours"])
def test_copies_are_not_watched(library: Any) -> None:
    model = network()
    optimizer = library.AdamW(model.parameters())
    probe = lossscale.Probe(optimizer, every=1, model=model, scaler=torch.amp.GradScaler("cpu"))
    train(model, optimizer)
    stream = io.BytesIO()
    torch.save(optimizer, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    for other in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer), loaded):
        for p in other.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        other.step()
    assert probe.steps == 3
    kept = dict(probe.numbers)
    copies = (pickle.loads(pickle.dumps(probe)), copy.deepcopy(probe))
    train(model, optimizer)
    for seen in copies:
        assert seen.steps == 3 and seen.take() == kept and seen.take() is None and seen.warnings == probe.warnings
        seen.detach()
    assert probe.steps == 6 and layers(probe.take())


def test_nothing_is_kept_alive() -> None:
    gc.collect()
    gc.disable()  # what is freed is freed at once, without a search for cycles
    try:
        for detached in (False, True):
            model = network()
            optimizer = torch.optim.Adam(model.parameters())
            probe = lossscale.Probe(optimizer, every=1, model=model)
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
            there = [weakref.ref(it) for it in (optimizer, *model.parameters())]
            if detached:
                probe.detach()
            del p, optimizer, model
            if not detached:
                assert there[0]() is None, "the optimizer lives as long as its probe"
                del probe
            assert [ref() for ref in there] == [None] * 5
    finally:
        gc.enable()


def test_looks_gather_no_tensors() -> None:
    def tensors() -> int:
        gc.collect()
        return sum(1 for it in gc.get_objects() if type(it) in (torch.Tensor, torch.nn.Parameter))

    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    probe = lossscale.Probe(optimizer, every=1, model=model)
    train(model, optimizer, 2)
    before = tensors()
    train(model, optimizer, 20)
    assert tensors() == before and probe.take()


def test_another_default_device_is_not_where_it_computes(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    model.register_parameter("narrow", torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)))
    optimizer = torch.optim.Adam(model.parameters())
    for elements in (4096, 100):  # all elements, and a sample of them
        probe = lossscale.Probe(optimizer, every=1, model=model, elements=elements)
        torch.set_default_device("meta")  # on a machine with a GPU it would be "cuda"
        try:
            model.narrow.grad = torch.ones(2, dtype=torch.bfloat16, device="cpu")  # type: ignore[union-attr]
            train_kept(model, optimizer)
        finally:
            torch.set_default_device(None)
        numbers = probe.take()
        assert numbers is not None and "layer/narrow/rho" in numbers, caplog.text
        probe.detach()


def train_kept(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step with the gradients that are there beside new ones."""
    model(torch.ones(6, 8, device="cpu")).square().mean().backward()
    optimizer.step()


def test_a_failure_spares_hooks_that_come_after(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    probe = lossscale.Probe(optimizer, every=1)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))

    def fail(groups: Any) -> None:
        raise ValueError("on purpose")

    monkeypatch.setattr(probe, "_regroup", fail)
    with caplog.at_level(logging.ERROR, "lossscale.probe"):
        train(model, optimizer, 2)
    assert seen == ["before", "after"] * 2 and caplog.messages == [
        "the probe has failed and is detached; the training goes on"
    ]
    assert probe.take() is None
    assert len(optimizer._optimizer_step_pre_hooks) == len(optimizer._optimizer_step_post_hooks) == 1  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_compiles_once_and_is_not_seen() -> None:
    from torch._dynamo.testing import CompileCounter

    ends, compiled = [], []
    for watched in (False, True):
        torch._dynamo.reset()
        counter = CompileCounter()  # type: ignore[no-untyped-call]
        p = torch.nn.Parameter(torch.ones(4))
        optimizer = torch.optim.Adam([p])
        probe = lossscale.Probe(optimizer, every=3) if watched else None
        step = torch.compile(optimizer.step, backend=counter)
        for number in range(8):
            p.grad = torch.full((4,), 1.0 + number)
            step()
        assert probe is None or (probe.take() is None and probe.steps == 0)
        ends.append(p.detach())
        compiled.append(counter.frame_count)
    assert compiled[0] == compiled[1] and int(bits.differing_bits(*ends).sum()) == 0


_STATEFUL: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.Adam, {"amsgrad": True}),
    (torch.optim.AdamW, {}),
    (torch.optim.RMSprop, {"centered": True, "momentum": 0.9}),
    (torch.optim.Adagrad, {}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (kernels.AdamAtan2, {"lr": 0.1}),
]


@pytest.mark.parametrize(("make", "options"), _STATEFUL, ids=[make.__name__ for make, _ in _STATEFUL])
def test_states_of_a_run_that_has_overflowed_are_counted_without_a_complaint(
    make: Any, options: dict[str, Any]
) -> None:
    """Infinities of both signs add up to NaN, of which numpy warns; warnings are errors here."""
    model = network()
    optimizer = make(model.parameters(), **options)
    train(model, optimizer, steps=1)
    for entry in optimizer.state.values():
        for state in entry.values():
            if isinstance(state, torch.Tensor) and state.numel() > 3:
                state.view(-1)[:4] = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0])
    probe = lossscale.Probe(optimizer, every=1, model=model)
    train(model, optimizer, steps=2)
    numbers = probe.take()
    assert numbers is not None and numbers["step"] == 2
    assert numbers["group0/nonfinite_state"] > 0 and numbers["group0/nonfinite_update"] > 0
