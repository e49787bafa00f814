"""States from elsewhere: incomplete ones, counters that others hold, foreign numbers, groups of other optimizers."""

import copy
import inspect
import weakref
from collections import UserList
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

import kernels
from kernels import bits
from kernels.launch.checks import IncompleteState
from kernels.optim.counters import Counters

Param = torch.nn.Parameter
BETAS = UserList([0.8, 0.95])


def stepped(make: Any, steps: int = 5, **options: Any) -> torch.optim.Optimizer:
    p = Param(torch.ones(4))
    optimizer = make([p], **options)
    for _ in range(steps):
        p.grad = torch.full((4,), 0.1)
        optimizer.step()
    return optimizer


def resumed(make: Any, saved: dict[str, Any], **options: Any) -> torch.optim.Optimizer:
    p = Param(torch.ones(4))
    optimizer = make([p], **options)
    optimizer.load_state_dict(copy.deepcopy(saved))
    p.grad = torch.full((4,), 0.1)
    optimizer.step()
    return optimizer


# -- what is missing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        (lambda: stepped(torch.optim.RMSprop), "no 'exp_avg' and no 'exp_avg_sq' beside 'step', 'square_avg'"),
        (lambda: stepped(torch.optim.Adagrad), "no 'exp_avg' and no 'exp_avg_sq' beside 'step', 'sum'"),
        (lambda: stepped(torch.optim.SGD, momentum=0.9), "no 'step' and no 'exp_avg' and no 'exp_avg_sq'"),
    ],
    ids=["RMSprop", "Adagrad", "SGD"],
)
def test_another_optimizers_checkpoint_is_refused_as_in_torch(source: Any, missing: str) -> None:
    saved = source().state_dict()
    saved["param_groups"][0].update(betas=(0.9, 0.999), amsgrad=False, maximize=False, fused=None, capturable=False)
    for make in (torch.optim.AdamW, kernels.AdamW):
        with pytest.raises(KeyError):
            resumed(make, saved)
    with pytest.raises(IncompleteState, match=missing):
        resumed(kernels.AdamW, saved)


@pytest.mark.parametrize("name", ["step", "exp_avg", "exp_avg_sq"])
def test_a_state_without_one_of_its_parts_is_refused_and_nothing_changes(name: str) -> None:
    saved = stepped(torch.optim.Adam).state_dict()
    del saved["state"][0][name]
    p, other = Param(torch.ones(4)), Param(torch.ones(3))
    optimizer = kernels.Adam([other, p])
    optimizer.load_state_dict({**saved, "param_groups": [{**saved["param_groups"][0], "params": [1, 0]}]})
    other.grad, p.grad = torch.ones(3), torch.ones(4)
    with pytest.raises(IncompleteState, match=f"no '{name}' beside"):
        optimizer.step()
    assert torch.equal(other, torch.ones(3)) and other not in optimizer.state
    assert name not in optimizer.state[p] and torch.equal(p, torch.ones(4))


def test_options_that_are_switched_on_start_their_states_anew() -> None:
    for make, before, after in (
        (kernels.Adam, {}, {"amsgrad": True}),
        (kernels.SGD, {}, {"momentum": 0.9}),
        (kernels.RMSprop, {}, {"momentum": 0.9, "centered": True}),
    ):
        optimizer = stepped(make, **before)
        optimizer.param_groups[0].update(after)
        optimizer.step()
        names = [state.name for state in optimizer.algorithm.states]
        (p,) = optimizer.param_groups[0]["params"]
        assert set(names) <= set(optimizer.state[p])


def test_sgd_without_momentum_has_torchs_keys() -> None:
    assert stepped(kernels.SGD).state_dict()["state"] == stepped(torch.optim.SGD).state_dict()["state"] == {}


# -- counters --------------------------------------------------------------------------------------------------------


def test_counters_are_advanced_where_they_are() -> None:
    params = [Param(torch.ones(4)) for _ in range(4)]
    optimizer = kernels.Adam(params)
    for p in params[:2]:
        p.grad = torch.ones(4)
    optimizer.step()
    held = [optimizer.state[p]["step"] for p in params[:2]]
    # Buckets are made anew: another parameter joins, one pauses, a group is added.
    params[2].grad, params[0].grad = torch.ones(4), None
    optimizer.step()
    params[0].grad = torch.ones(4)
    late = Param(torch.ones(3))
    late.grad = torch.ones(3)
    optimizer.add_param_group({"params": [late]})
    optimizer.step()
    assert [optimizer.state[p]["step"] is step for p, step in zip(params, held, strict=False)] == [True, True]
    assert [float(step) for step in held] == [2.0, 3.0]
    assert [float(optimizer.state[p]["step"]) for p in (params[2], late)] == [2.0, 1.0]


def test_a_counter_of_two_parameters_counts_both_as_in_torch() -> None:
    found = []
    for make in (kernels.Adam, torch.optim.Adam):
        params = [Param(torch.ones(4)) for _ in range(3)]
        optimizer = make(params, foreach=True)
        for step in range(5):
            for p in params:
                p.grad = torch.full((4,), 1.0 + step)
            optimizer.step()
            optimizer.state[params[1]]["step"] = optimizer.state[params[0]]["step"]
        found.append([float(optimizer.state[p]["step"]) for p in params])
    assert found[0] == found[1] == [9.0, 9.0, 5.0]


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_what_is_forgotten_is_free_and_steps_go_on(name: str) -> None:
    ends = []
    for forgets in (False, True):
        params = [Param(torch.linspace(-1, 1, 8)) for _ in range(3)]
        optimizer = getattr(kernels, name)(params, lr=0.1, **({"momentum": 0.9} if name == "SGD" else {}))
        for k in range(6):
            for p in params:
                p.grad = torch.full((8,), 0.1 * (k + 1))
            optimizer.step()
            if k == 3 and forgets:
                kept = [weakref.ref(v) for entry in optimizer.state.values() for v in entry.values()]
                for entry in optimizer.state.values():
                    entry.update({key: value.clone() for key, value in entry.items()})
                optimizer.forget()
                assert kept and all(tensor() is None for tensor in kept)
        ends.append([*params, *(value for entry in optimizer.state.values() for value in entry.values())])
    assert all(bits.mismatches(a.detach(), b.detach()) == 0 for a, b in zip(*ends, strict=True))


def test_states_that_are_cleared_again_and_again_leave_no_counters_behind() -> None:
    ends = []
    for package in (torch.optim, kernels):
        params = [Param(torch.ones(4)) for _ in range(3)]
        optimizer = package.AdamW(params)
        for k in range(30):
            for p in params:
                p.grad = torch.ones(4)
            if k % 3 == 0:
                optimizer.state.clear()
            if k % 5 == 0:
                optimizer.state.pop(params[1], None)
            optimizer.step()
        ends.append([float(optimizer.state[p]["step"]) for p in params])
    assert ends[0] == ends[1]
    # Those of the last clearing, and of the one that lost its state after it.
    assert len(optimizer._chunks) <= 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_foreign_counters_stay_the_tensors_they_are(dtype: torch.dtype) -> None:
    """Another process may hold them through shared memory; a slice of somebody's tensor is one too."""
    optimizer = stepped(kernels.AdamW)
    (p,) = optimizer.param_groups[0]["params"]
    board = torch.full((3,), 5.0, dtype=dtype).share_memory_()
    optimizer.state[p]["step"] = board[1]
    expected = copy.deepcopy(optimizer)
    (q,) = expected.param_groups[0]["params"]
    expected.state[q]["step"] = torch.tensor(5.0)
    for each, optimizer_ in ((p, optimizer), (q, expected)):
        for _ in range(2):
            each.grad = torch.full((4,), 0.3)
            optimizer_.step()
    assert board.tolist() == [5.0, 7.0, 5.0] and optimizer.state[p]["step"].data_ptr() == board[1].data_ptr()
    assert bits.mismatches(p.detach(), q.detach()) == 0


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "Adagrad"])
@pytest.mark.parametrize(
    ("dtype", "start"),
    [(torch.int64, 10), (torch.int32, 10), (torch.int8, 3), (torch.bfloat16, 254), (torch.float16, 10)],
)
def test_counters_of_any_dtype_advance_where_they_are_as_in_torch(name: str, dtype: torch.dtype, start: int) -> None:
    """Holders see torch's numbers, also where a dtype has no next one, and the step has the bits of its number."""
    held, seen = [], []
    for package in (torch.optim, kernels):
        optimizer = stepped(getattr(package, name), foreach=False)
        (p,) = optimizer.param_groups[0]["params"]
        held.append(torch.tensor(start, dtype=dtype))
        optimizer.state[p]["step"] = held[-1]
        seen.append([])
        for _ in range(4):
            number = copy.deepcopy(optimizer)
            (q,) = number.param_groups[0]["params"]
            p.grad, q.grad = torch.full((4,), 0.3), torch.full((4,), 0.3)
            optimizer.step()
            assert optimizer.state[p]["step"] is held[-1]
            seen[-1].append((held[-1].dtype, float(held[-1])))
            # The same step, counted in float32.
            number.state[q]["step"] = torch.tensor(float(held[-1]) - 1)
            number.step()
            assert bits.mismatches(p.detach(), q.detach()) == 0
    assert seen[0] == seen[1]


def test_counters_of_any_dtype_on_a_device() -> None:
    """What a device counts in, on a stand-in for one: read as float32, advanced and taken back where they are."""
    held = [torch.tensor(10), torch.tensor(10.0), torch.tensor(10, dtype=torch.bfloat16)]
    counters = Counters(held, [])
    counters.on_host, counters._spread, counters._view, counters._foreign = False, True, None, True
    counters.advance(2)
    assert counters.on_device(torch.device("cpu")).tolist() == [12.0] * 3
    assert counters.on_device(torch.device("cpu")).dtype == torch.float32
    for found, left in ((0.0, 12.0), (1.0, 11.0)):
        counters.skip(torch.tensor([found]))
        assert [float(counter) for counter in held] == [left] * 3
    assert [counter.dtype for counter in held] == [torch.int64, torch.float32, torch.bfloat16]


def test_a_refused_step_takes_its_count_back(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = stepped(kernels.Adam)
    (p,) = optimizer.param_groups[0]["params"]
    with monkeypatch.context() as patch:
        patch.setattr(kernels.backends, "step_bucket", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
    assert float(optimizer.state[p]["step"]) == 5.0


def test_counters_follow_the_default_dtype_as_in_torch() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        for name in ("Adam", "AdamW", "RMSprop", "Adagrad"):
            kinds = []
            for package in (torch.optim, kernels):
                p = Param(torch.ones(2, dtype=torch.float32))
                p.grad = torch.ones_like(p)
                optimizer = getattr(package, name)([p])
                optimizer.step()
                kinds.append(optimizer.state_dict()["state"][0]["step"].dtype)
            assert kinds == [torch.float64] * 2, name
            loaded = getattr(kernels, name)([p])
            loaded.load_state_dict(optimizer.state_dict())
            loaded.step()
            assert loaded.state[p]["step"].dtype == torch.float64, name
    finally:
        torch.set_default_dtype(torch.float32)


# -- numbers and groups ------------------------------------------------------------------------------------------------


def test_betas_may_be_any_sequence() -> None:
    ends = []
    for betas in ((0.8, 0.95), [0.8, 0.95], BETAS):
        p = Param(torch.ones(4))
        optimizer = kernels.AdamW([p], lr=0.1, betas=betas)
        p.grad = torch.ones(4)
        optimizer.step()
        optimizer.param_groups[0]["betas"] = UserList([0.5, 0.9])
        optimizer.step()
        ends.append(p.detach())
    assert type(kernels.AdamW([Param(torch.ones(1))], betas=BETAS).param_groups[0]["betas"]) is tuple
    assert [bits.mismatches(ends[0], end) for end in ends] == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "group"),
    [
        ({}, {"fused": False}),
        ({}, {"foreach": True}),
        ({"foreach": True}, {"foreach": None}),
        ({}, {"foreach": True, "fused": False}),
    ],
)
def test_groups_that_name_the_same_recipe_by_other_switches(options: dict[str, Any], group: dict[str, Any]) -> None:
    p = Param(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = kernels.Adam([{"params": [p], **group}], **options)
    optimizer.step()
    assert optimizer.recipe.name == "foreach"


def test_groups_of_a_torch_optimizer() -> None:
    p = Param(torch.ones(2))
    source = torch.optim.AdamW([p], lr=0.25, fused=False)
    assert kernels.AdamW(source.param_groups).param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "SGD"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"foreach": True},
        {"foreach": False},
        {"fused": True},
        {"capturable": True},
        {"capturable": True, "foreach": False},
        {"capturable": True, "fused": True},
        {"lr": torch.tensor(0.25)},
    ],
)
def test_groups_that_agree_give_the_optimizer_their_recipe(name: str, options: dict[str, Any]) -> None:
    """As it is with the same switches in the constructor: recipe, groups, state and bits."""
    torchs, ours = getattr(torch.optim, name), getattr(kernels, name)
    # The table crosses all classes with all switches; there is nothing to be equal to where torch lacks one.
    if not set(options) <= set(inspect.signature(torchs).parameters):
        pytest.skip(f"torch.optim.{name} has no such switch")
    source = torchs([Param(torch.ones(3))], **options)
    by_groups, by_arguments = ours(source.param_groups), ours([Param(torch.ones(3))], **options)
    assert by_groups.recipe is by_arguments.recipe
    for optimizer in (by_groups, by_arguments):
        (p,) = optimizer.param_groups[0]["params"]
        for value in (0.1, 0.3, 0.7):
            p.grad = torch.full((3,), value)
            optimizer.step()
    one, other = by_groups.state_dict(), by_arguments.state_dict()
    assert one["param_groups"] == other["param_groups"]
    (p,), (q,) = by_groups.param_groups[0]["params"], by_arguments.param_groups[0]["params"]
    assert bits.mismatches(p.detach(), q.detach()) == 0
    late = ours([{"params": iter([Param(torch.ones(1))]), **options} for _ in range(2)])
    late.add_param_group({"params": [Param(torch.ones(1))], **options})
    assert late.recipe is by_groups.recipe


@pytest.mark.parametrize(
    ("options", "groups", "recipes"),
    [
        ({}, [{"capturable": True}, {}], ("foreach-capturable", "foreach")),
        ({}, [{"capturable": True}, {"capturable": False}], ("foreach-capturable", "foreach")),
        ({}, [{"fused": True}, {"foreach": False}], ("fused", "for-loop")),
        ({"capturable": False}, [{"capturable": True}], ("foreach-capturable", "foreach")),
        ({"foreach": False}, [{"capturable": True}], ("for-loop-capturable", "for-loop")),
        ({"recipe": "for-loop"}, [{"fused": True}], ("fused", "for-loop")),
        ({"foreach": True}, [{"foreach": False}], ("for-loop", "foreach")),
    ],
)
def test_groups_that_disagree_are_refused_by_their_recipes(options: Any, groups: Any, recipes: Any) -> None:
    with pytest.raises(ValueError, match="all groups of an optimizer have one recipe") as refused:
        kernels.Adam([{"params": [Param(torch.ones(1))], **group} for group in groups], **options)
    assert all(repr(recipe) in str(refused.value) for recipe in recipes)


def test_a_capturable_checkpoint_leaves_the_groups_saying_what_runs() -> None:
    saved = stepped(kernels.Adam, capturable=True).state_dict()
    optimizer = resumed(kernels.Adam, saved)
    assert saved["param_groups"][0]["capturable"] is True
    assert isinstance(optimizer, kernels.Adam) and optimizer.recipe.name == "foreach"
    assert optimizer.param_groups[0]["capturable"] is False
    optimizer.add_param_group({"params": [Param(torch.ones(1))], "capturable": False})


def test_a_first_step_under_another_default_device() -> None:
    for package in (torch.optim, kernels):
        p = Param(torch.ones(3))
        p.grad = torch.ones(3)
        optimizer = package.AdamW([p])
        with torch.device("meta"):
            optimizer.step()
        assert p.tolist() == pytest.approx([0.99899] * 3)


def test_a_model_built_on_meta() -> None:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with torch.device("meta"):
            module = torch.nn.Linear(2, 2)
        optimizer = kernels.AdamW(module.parameters())
        module.to_empty(device="cpu")
        with torch.no_grad():
            for p in module.parameters():
                p.fill_(1.0)
        for p in module.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert module.bias.tolist() == pytest.approx([0.99899] * 2)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def test_fake_parameters_are_constructed_and_refused_where_they_are_stepped() -> None:
    with FakeTensorMode():
        module = torch.nn.Linear(4, 4)
        optimizer = kernels.AdamW(module.parameters())
        module(torch.ones(2, 4)).sum().backward()
        with pytest.raises(TypeError, match="a FakeTensor, which has no memory of its own"):
            optimizer.step()


def test_a_loaded_state_without_memory_of_its_own_is_refused_by_name() -> None:
    # A checkpoint of torchao's 8-bit optimizers has such moments.
    saved = stepped(torch.optim.AdamW).state_dict()
    saved["state"][0]["exp_avg"] = TwoTensor(torch.ones(4), torch.ones(4))
    with pytest.raises(TypeError, match="state 'exp_avg': a TwoTensor, which has no memory of its own"):
        resumed(kernels.AdamW, saved)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_is_one_graph_break_and_keeps_its_bits() -> None:
    from torch._dynamo.utils import counters

    ends = []
    for compiled in (False, True):
        p = Param(torch.linspace(-1, 1, 64))
        optimizer = kernels.AdamW([p], lr=0.1)

        def train(x: torch.Tensor, optimizer: Any = optimizer) -> torch.Tensor:
            y = x * 2
            optimizer.step()
            return y + 1

        step = torch.compile(train, backend="eager") if compiled else train
        torch._dynamo.reset()
        counters.clear()
        for k in range(5):
            p.grad = torch.linspace(1, 2, 64) * (k + 1)
            step(torch.ones(3))
        # What stands before the step and what follows it.
        assert counters["stats"]["unique_graphs"] == (2 if compiled else 0)
        ends.append(p.detach())
    assert bits.mismatches(*ends) == 0
