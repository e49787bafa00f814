"""The drop-ins beside torch.optim: groups, checkpoints both ways, schedulers, scalers, hooks, copies."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import kernels
from kernels import bits

Optimizer = torch.optim.Optimizer
NAMES = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"lr": 0.05, "weight_decay": 0.1, "amsgrad": True},
    "AdamW": {"lr": 0.05},
    "RMSprop": {"lr": 0.05, "momentum": 0.9, "centered": True},
    "Adagrad": {"lr": 0.05, "lr_decay": 0.1, "initial_accumulator_value": 0.1},
}
# Where torch on the CPU and a recipe of ours agree bit for bit: (torch's switches, our recipe).
EXACT: dict[str, tuple[dict[str, Any], str]] = {
    "SGD": ({"foreach": True}, "foreach"),
    "Adam": ({"fused": True}, "cpu-fused"),
    "AdamW": ({"fused": True}, "cpu-fused"),
}


def make_params(count: int = 3) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(7)
    return [torch.nn.Parameter(torch.randn(8, 8 * (k + 1), generator=generator)) for k in range(count)]


def give_grads(params: list[torch.nn.Parameter], seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator) * scale


def wrong(a: list[Any], b: list[Any]) -> int:
    return sum(bits.mismatches(x.detach(), y.detach()) for x, y in zip(a, b, strict=True))


def both(name: str, **options: Any) -> list[tuple[list[torch.nn.Parameter], Optimizer]]:
    """(parameters, optimizer) of torch and of ours, with the same bits ahead of them."""
    switches, recipe = EXACT[name]
    made = []
    for package, extra in ((torch.optim, switches), (kernels, {"recipe": recipe})):
        params = make_params()
        made.append((params, getattr(package, name)(params, **{**OPTIONS[name], **options}, **extra)))
    return made


RECIPES = [
    (name, recipe)
    for name in NAMES
    for recipe in ("foreach", "for-loop", "fused", "cpu-fused")
    if recipe in kernels.get_algorithm(name.lower()).recipes
]


@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_checkpoint_of_ours_resumes_to_the_same_bits(name: str, recipe: str) -> None:
    straight, resumed = make_params(), make_params()
    one = getattr(kernels, name)(straight, **OPTIONS[name], recipe=recipe)
    two = getattr(kernels, name)(resumed, **OPTIONS[name], recipe=recipe)
    for step in range(6):
        if step == 3:
            file = io.BytesIO()
            torch.save(two.state_dict(), file)
            file.seek(0)
            two = getattr(kernels, name)(resumed, lr=1.0, recipe=recipe)
            two.load_state_dict(torch.load(file))
        for params, optimizer in ((straight, one), (resumed, two)):
            give_grads(params, step)
            optimizer.step()
    assert wrong(straight, resumed) == 0
    assert wrong(_states(one), _states(two)) == 0


def _states(optimizer: Optimizer) -> list[torch.Tensor]:
    return [v for e in optimizer.state.values() for v in e.values() if isinstance(v, torch.Tensor)]


@pytest.mark.parametrize("name", sorted(EXACT))
def test_checkpoints_cross_to_torch_and_back_mid_run(name: str) -> None:
    (a, theirs), (b, ours) = both(name)
    for step in range(9):
        if step in (3, 6):
            saved = copy.deepcopy(theirs.state_dict()), copy.deepcopy(ours.state_dict())
            (_, theirs), (_, ours) = both(name, lr=0.5)
            theirs.param_groups[0]["params"], ours.param_groups[0]["params"] = a, b
            theirs.load_state_dict(saved[1])
            ours.load_state_dict(saved[0])
        for params, optimizer in ((a, theirs), (b, ours)):
            give_grads(params, step)
            optimizer.step()
    assert wrong(a, b) == 0
    assert wrong(_states(theirs), _states(ours)) == 0


@pytest.mark.parametrize("name", NAMES)
def test_groups_of_a_checkpoint_have_torchs_keys_and_say_what_ran(name: str) -> None:
    for recipe in kernels.get_algorithm(name.lower()).recipes:
        ours = getattr(kernels, name)(make_params(), recipe=recipe)
        theirs = getattr(torch.optim, name)(make_params())
        saved = ours.state_dict()["param_groups"][0]
        assert set(saved) == set(theirs.state_dict()["param_groups"][0])
        if "fused" in saved:
            assert bool(saved["fused"]) == (recipe in ("fused", "cpu-fused"))
        assert (saved["foreach"] is False) == recipe.startswith("for-loop")
        # A checkpoint written by another implementation does not change what runs here.
        theirs.load_state_dict(ours.state_dict())
        other = theirs.state_dict()
        other["param_groups"][0]["foreach"] = True
        ours.load_state_dict(other)
        assert ours.param_groups[0]["foreach"] == saved["foreach"]
        assert ours.recipe.name == recipe


@pytest.mark.parametrize("name", sorted(EXACT))
def test_per_group_options_and_added_groups(name: str) -> None:
    results = []
    switches, recipe = EXACT[name]
    for package, extra in ((torch.optim, switches), (kernels, {"recipe": recipe})):
        params = make_params(4)
        groups = [{"params": params[:1]}, {"params": params[1:2], "lr": 0.01, "weight_decay": 0.0, "maximize": True}]
        optimizer = getattr(package, name)(groups, **OPTIONS[name], **extra)
        for step in range(6):
            if step == 2:
                optimizer.add_param_group({"params": params[2:], "lr": 0.02})
            if step == 4:
                # Options that select code change in the middle of a run.
                optimizer.param_groups[0]["maximize"] = True
                optimizer.param_groups[0]["weight_decay"] = 0.0
            give_grads(params, step)
            if step % 2:
                params[0].grad = None
            optimizer.step()
        results.append(params)
    assert wrong(*results) == 0


def test_group_with_a_recipe_of_its_own_is_refused() -> None:
    optimizer = kernels.AdamW(make_params(1))
    with pytest.raises(ValueError, match="asks for recipe 'fused' where the optimizer has 'foreach'"):
        optimizer.add_param_group({"params": make_params(1), "fused": True})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", NAMES)
def test_state_appears_when_torchs_does(name: str) -> None:
    late = torch.nn.Parameter(torch.zeros(3))
    keys = []
    for package in (torch.optim, kernels):
        params = make_params(2)
        optimizer = getattr(package, name)(params, **OPTIONS[name])
        before = [sorted(optimizer.state[p]) for p in params]
        give_grads(params[:1], 0)
        optimizer.step()
        after = [sorted(optimizer.state[p]) for p in params]
        keys.append((before, after))
    assert keys[0] == keys[1]
    ours = getattr(kernels, name)(make_params(1), **OPTIONS[name])
    ours.add_param_group({"params": [late]})
    assert ("sum" in ours.state[late]) == (name == "Adagrad")


def test_adagrad_starts_added_groups_from_the_constructors_accumulator() -> None:
    results = []
    for package in (torch.optim, kernels):
        params = make_params(2)
        optimizer = package.Adagrad(params[:1], initial_accumulator_value=0.5)
        optimizer.add_param_group({"params": params[1:], "initial_accumulator_value": 0.25})
        give_grads(params, 0, scale=0.0)
        optimizer.step()
        results.append([float(optimizer.state[p]["sum"].max()) for p in params])
    assert results[0] == results[1] == [0.5, 0.5]


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
    "one-cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.2, total_steps=12),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "plateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.parametrize("schedule", sorted(SCHEDULERS))
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_schedulers(name: str, schedule: str) -> None:
    results, seen = [], []
    for params, optimizer in both(name):
        scheduler = SCHEDULERS[schedule](optimizer)
        for step in range(8):
            give_grads(params, step)
            optimizer.step()
            scheduler.step(*([1.0] if schedule == "plateau" else []))
        results.append(params)
        group = optimizer.param_groups[0]
        seen.append((group["lr"], group.get("betas"), group.get("momentum")))
    assert wrong(*results) == 0
    assert seen[0] == seen[1]


def test_tensor_lr_is_read_at_every_step() -> None:
    results = []
    for package in (torch.optim, kernels):
        params, lr = make_params(), torch.tensor(0.1)
        optimizer = package.SGD(params, lr=lr, momentum=0.9)
        for step in range(4):
            lr.fill_(0.1 / (step + 1))
            give_grads(params, step)
            optimizer.step()
        results.append(params)
    assert wrong(*results) == 0
    assert kernels.Adam(make_params(), lr=torch.tensor(0.1)).recipe.name == "for-loop"


@pytest.mark.parametrize("mode", ["plain", "unscale", "clip"])
@pytest.mark.parametrize("name", sorted(EXACT))
def test_grad_scaler(name: str, mode: str) -> None:
    results: list[Any] = []
    scales: list[list[float]] = []
    for params, optimizer in both(name):
        scaler = torch.amp.GradScaler("cpu", init_scale=3000.0, growth_interval=2)
        scales.append([])
        for step in range(7):
            give_grads(params, step, scale=float(scaler.scale(torch.ones(()))))
            if step == 3 or (step == 0 and name != "SGD"):
                params[1].grad[0, 0] = float("inf")
            if mode != "plain":
                scaler.unscale_(optimizer)
            if mode == "clip":
                torch.nn.utils.clip_grad_norm_(params, 1.0)
            scaler.step(optimizer)
            scaler.update()
            scales[-1].append(scaler.get_scale())
        results.append([*params, *_states(optimizer)])
    assert wrong(*results) == 0
    assert scales[0] == scales[1]
    assert len(set(scales[0])) > 1


def test_skipped_first_step_leaves_momentum_unborn() -> None:
    params = make_params()
    optimizer = kernels.SGD(params, lr=0.1, momentum=0.9, dampening=0.5, recipe="fused")
    expected = make_params()
    plain = kernels.SGD(expected, lr=0.1, momentum=0.9, dampening=0.5, recipe="fused")
    give_grads(params[:1], 0)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert wrong(params, make_params()) == 0
    assert not _states(optimizer)
    del optimizer.found_inf
    for chosen, one in ((params, optimizer), (expected, plain)):
        give_grads(chosen, 1)
        one.step()
    assert wrong(params, expected) == 0


def test_found_inf_of_two_devices_skips() -> None:
    params = make_params()
    optimizer = kernels.Adam(params, recipe="fused")
    give_grads(params, 0)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(2.0)
    params.append(torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16)))
    params[-1].grad = torch.ones(4, dtype=torch.bfloat16)
    optimizer.add_param_group({"params": params[-1:]})
    optimizer.step()
    assert wrong(params[:3], make_params()) == 0
    assert [float(optimizer.state[p]["step"]) for p in params] == [0.0] * 4


def test_closure_hooks_and_zero_grad() -> None:
    log = []
    params = make_params(1)
    optimizer = kernels.SGD(params, lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: log.append("before"))
    optimizer.register_step_post_hook(lambda *_: log.append("after"))

    def closure() -> torch.Tensor:
        log.append("closure")
        optimizer.zero_grad()
        loss = (params[0] ** 2).sum()
        loss.backward()
        return loss.detach()

    first = optimizer.step(closure)
    assert float(optimizer.step(closure)) < float(first)
    assert log == ["before", "closure", "after"] * 2
    optimizer.zero_grad(set_to_none=False)
    assert params[0].grad is not None and not params[0].grad.any()
    optimizer.zero_grad()
    assert params[0].grad is None
    before = params[0].detach().clone()
    assert optimizer.step() is None
    assert wrong(params, [before]) == 0


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
@pytest.mark.parametrize("name", [*NAMES, "AdamAtan2"])
def test_copies_of_an_optimizer_go_their_own_way(name: str, how: str) -> None:
    params = make_params()
    optimizer = getattr(kernels, name)(params, **OPTIONS.get(name, {}), backend="reference")
    give_grads(params, 0)
    optimizer.step()
    copied = pickle.loads(pickle.dumps(optimizer)) if how == "pickle" else copy.deepcopy(optimizer)
    others = copied.param_groups[0]["params"]
    frozen = [p.detach().clone() for p in params]
    give_grads(others, 1)
    copied.step()
    assert wrong(params, frozen) == 0
    give_grads(params, 1)
    optimizer.step()
    assert wrong(params, others) == 0
    assert wrong(_states(optimizer), _states(copied)) == 0
    assert type(copied) is type(optimizer) and copied.backend == "reference" and copied.recipe is optimizer.recipe


def test_switches_that_are_refused_say_why() -> None:
    params = make_params(1)
    with pytest.raises(ValueError, match="differentiable=True: these kernels record no graph"):
        kernels.SGD(params, differentiable=True)
    with pytest.raises(RuntimeError, match="`fused` and `foreach` cannot be `True` together"):
        kernels.Adam(params, fused=True, foreach=True)
    with pytest.raises(ValueError, match="recipe: foreach and fused choose a recipe too"):
        kernels.Adam(params, fused=True, recipe="foreach")
    with pytest.raises(ValueError, match="recipe 'quick': Adam has none of that name; choose one of foreach"):
        kernels.Adam(params, recipe="quick")
    with pytest.raises(ValueError, match="backend 'gpu': no such backend; choose auto"):
        kernels.Adam(params, backend="gpu")
    assert kernels.Adam(params, capturable=True).recipe.name == "foreach-capturable"
    assert kernels.Adam(params, capturable=True, foreach=False).recipe.name == "for-loop-capturable"
    assert kernels.Adam(params, fused=True, capturable=True).recipe.name == "fused"


def test_refresh_sends_changed_hyperparameters_without_a_step() -> None:
    params = make_params()
    optimizer = kernels.SGD(params, lr=0.1)
    give_grads(params, 0)
    optimizer.step()
    (plan,) = optimizer._known.plans
    sent = plan.rows.device
    optimizer.param_groups[0]["lr"] = 0.25
    before = [p.detach().clone() for p in params]
    optimizer.refresh()
    assert plan.rows.device is sent and float(sent[0, 3]) == -0.25
    assert wrong(params, before) == 0


def test_refresh_leaves_steps_that_are_counted_on_the_host_alone() -> None:
    params = make_params()
    optimizer = kernels.Adam(params, recipe="foreach")
    give_grads(params, 0)
    optimizer.step()
    for entry in optimizer.state.values():
        # A count before the first step, whose bias correction would be 0.
        entry["step"].fill_(0.0)
    optimizer.refresh()


def test_backward_through_stepped_parameters_fails_as_in_torch() -> None:
    for package in (torch.optim, kernels):
        p = torch.nn.Parameter(torch.randn(64))
        loss = (p * p).sum()
        p.grad = torch.ones(64)
        package.SGD([p], lr=0.1).step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_foreign_state_and_unborn_parameters_do_not_disturb() -> None:
    lazy = torch.nn.LazyLinear(3)
    params = make_params(1)
    optimizer = kernels.AdamW([*lazy.parameters(), *params])
    optimizer.state["note"] = 3
    for step in range(3):
        give_grads(params, step)
        if step:
            lazy(torch.ones(2, 5)).sum().backward()
        optimizer.step()
        optimizer.state[f"more {step}"] = {"x": 1}
    optimizer.share_memory()
    assert [float(optimizer.state[p]["step"]) for p in (*lazy.parameters(), *params)] == [2.0, 2.0, 3.0]
    assert params[0].is_shared() is False and optimizer.state[params[0]]["exp_avg"].is_shared()
    expected = make_params(1)
    plain = kernels.AdamW(expected)
    for step in range(3):
        give_grads(expected, step)
        plain.step()
    assert wrong(params, expected) == 0


@pytest.mark.parametrize("module", [torch.optim, kernels])
def test_adam_checkpoint_leaves_the_decay_of_adamw_decoupled(module: Any) -> None:
    p = torch.nn.Parameter(torch.ones(64))
    source = module.Adam([p], lr=0.1, weight_decay=0.5)
    p.grad = torch.full((64,), 0.01)
    source.step()
    ends = []
    for target in (torch.optim.AdamW, kernels.AdamW):
        q = torch.nn.Parameter(torch.ones(64))
        optimizer = target([q], lr=0.1, weight_decay=0.5)
        optimizer.load_state_dict(copy.deepcopy(source.state_dict()))
        for _ in range(3):
            q.grad = torch.full((64,), 0.01)
            optimizer.step()
        ends.append(q.detach())
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-6)


def test_a_schedule_may_step_past_zero() -> None:
    ends = []
    for module in (torch.optim, kernels):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = module.SGD([p], lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / 2)
        for _ in range(5):
            p.grad = torch.ones(3)
            optimizer.step()
            schedule.step()
        ends.append(p.detach())
    assert torch.equal(*ends)


def test_a_step_replaced_by_a_number_is_taken() -> None:
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = kernels.Adam([p])
    for step in (1, 8):
        p.grad = torch.ones(4)
        optimizer.step()
        assert float(optimizer.state[p]["step"]) == step
        optimizer.state[p]["step"] = 7
