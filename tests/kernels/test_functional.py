"""The functional API: the same bits as the optimizer classes, its errors, its scaling and copies."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import kernels
from kernels import bits, functional

Tensors = list[torch.Tensor]
SIZES = ((3, 5), (64,), (0,), (), (4, 4))

# name -> (class, options of both, state lists in the function's order)
FUNCTIONS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "sgd_": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}, ("momentum_buffer",)),
    "adam_": ("Adam", {"lr": 0.1, "amsgrad": True}, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")),
    "adamw_": ("AdamW", {"lr": 0.1, "betas": (0.8, 0.95), "maximize": True}, ("exp_avg", "exp_avg_sq")),
    "rmsprop_": (
        "RMSprop",
        {"lr": 0.1, "momentum": 0.9, "centered": True},
        ("square_avg", "momentum_buffer", "grad_avg"),
    ),
    "adagrad_": ("Adagrad", {"lr": 0.1, "lr_decay": 0.1}, ("sum",)),
    "adam_atan2_": ("AdamAtan2", {"lr": 0.1, "weight_decay": 0.1}, ("exp_avg", "exp_avg_sq")),
}
COUNTED = {"adam_", "adamw_", "adagrad_", "adam_atan2_"}


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator).to(dtype) for size in SIZES]


def wrong(a: Tensors, b: Tensors) -> int:
    return sum(bits.mismatches(x.detach(), y.detach()) for x, y in zip(a, b, strict=True))


def _recipes() -> list[tuple[str, str]]:
    return [(f, r) for f, (_, _, _) in FUNCTIONS.items() for r in kernels.get_algorithm(f.rstrip("_")).recipes]


@pytest.mark.parametrize("backend", ["reference", "simd", pytest.param("interpreter", marks=pytest.mark.interpreter)])
@pytest.mark.parametrize(("name", "recipe"), _recipes())
def test_bits_of_the_class(name: str, recipe: str, backend: str) -> None:
    title, options, states = FUNCTIONS[name]
    params = [torch.nn.Parameter(t) for t in tensors(1)]
    if recipe.endswith("-capturable"):
        optimizer = getattr(kernels, title)(
            params, **options, recipe=recipe.removesuffix("-capturable"), capturable=True
        )
    else:
        optimizer = getattr(kernels, title)(params, **options, recipe=recipe)
    assert optimizer.recipe.name == recipe
    mine = tensors(1)
    kept = [[torch.zeros_like(t) for t in mine] for _ in states]
    call: Callable[..., None] = getattr(functional, name)
    for step in (1, 2, 3):
        grads = tensors(10 + step)
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
        count: dict[str, Any] = {"step": float(step)} if name in COUNTED else {}
        if name in COUNTED and step == 2:
            count = {"step": torch.full((len(mine),), 2.0)}
        if name == "sgd_":
            count = {"first": step == 1}
        call(mine, grads, *kept, **options, **count, recipe=recipe, backend=backend)
    assert wrong(params, mine) == 0
    for state, column in zip(states, kept, strict=True):
        assert wrong([optimizer.state[p][state] for p in params], column) == 0


def test_per_tensor_steps_are_each_tensors_own() -> None:
    together, alone = tensors(1), tensors(1)
    states = [[torch.full_like(t, 0.01) for t in together] for _ in range(4)]
    steps = [1.0, 7.0, 1.0, 1000.0, 2.0]
    functional.adam_(together, tensors(2), *states[:2], step=steps)
    for k, step in enumerate(steps):
        functional.adam_(alone[k : k + 1], tensors(2)[k : k + 1], states[2][k : k + 1], states[3][k : k + 1], step=step)
    assert wrong(together, alone) == 0


def test_scale_is_taken_out_and_infinity_skips() -> None:
    params, expected = tensors(1), tensors(1)
    grads, plain = [g * 3 for g in tensors(2)], [g * 3 / 3 for g in tensors(2)]
    zeros = [[torch.zeros_like(t) for t in params] for _ in range(4)]
    flag = torch.tensor(1.0)
    functional.adam_(params, grads, *zeros[:2], step=1.0, recipe="fused", grad_scale=torch.tensor(3.0), found_inf=flag)
    assert wrong([*params, *zeros[0]], [*expected, *zeros[2]]) == 0
    flag.zero_()
    functional.adam_(params, grads, *zeros[:2], step=1.0, recipe="fused", grad_scale=torch.tensor(3.0), found_inf=flag)
    functional.adam_(expected, plain, *zeros[2:], step=1.0, recipe="fused")
    assert wrong([*params, *grads], [*expected, *plain]) == 0


def test_copies_receive_the_rounded_parameters() -> None:
    masters, copies = tensors(1), [t.to(torch.bfloat16) for t in tensors(3)]
    functional.sgd_(masters, tensors(2, torch.bfloat16), lr=0.1, copies=copies)
    assert wrong(copies, [m.to(torch.bfloat16) for m in masters]) == 0
    expected = tensors(1)
    functional.sgd_(expected, [g.float() for g in tensors(2, torch.bfloat16)], lr=0.1)
    assert wrong(masters, expected) == 0


def test_autograd_sees_the_write() -> None:
    p = torch.randn(4, requires_grad=True)
    loss = (p * p).sum()
    functional.sgd_([p], [torch.ones(4)], lr=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_errors_name_what_is_wrong() -> None:
    p, g, s = tensors(1), tensors(2), [torch.zeros_like(t) for t in tensors(1)]
    adam, sgd = functional.adam_, functional.sgd_
    with pytest.raises(ValueError, match="grads: 1 tensors for 5 parameters; give one each"):
        sgd(p, g[:1])
    with pytest.raises(ValueError, match=r"states: \[\] given, these hyperparameters keep \['momentum_buffer'\]"):
        sgd(p, g, momentum=0.9)
    with pytest.raises(ValueError, match=r"these hyperparameters keep \['exp_avg', 'exp_avg_sq'\]; give exactly those"):
        adam(p, g, s, s, s, step=1.0)
    with pytest.raises(ValueError, match=r"step of shape \(2,\): give one number, or one for each of 5 parameters"):
        adam(p, g, s, [t.clone() for t in s], step=[1.0, 2.0])
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        sgd(p, g, lr=-1.0)
    with pytest.raises(ValueError, match="recipe 'fast': SGD has none of that name"):
        sgd(p, g, recipe="fast")
    with pytest.raises(TypeError, match=r"a parameter of torch\.float64"):
        sgd([t.double() for t in p], g)
    with pytest.raises(ValueError, match="parameters share memory"):
        sgd([p[1], p[1][:3]], [g[1], g[1][:3]])
    with pytest.raises(ValueError, match="state 'exp_avg' of shape"):
        adam(p, g, s[::-1], s, step=1.0)
    with pytest.raises(ValueError, match="optimizer 'lion': no such algorithm"):
        functional.step_("lion", None, p, g, {})
    assert wrong(p, tensors(1)) == 0


def test_a_state_that_shares_memory_is_refused_before_anything_changes() -> None:
    p = torch.ones(3)
    with pytest.raises(ValueError, match="share memory"):
        kernels.functional.sgd_([p], [torch.ones(3)], [torch.zeros(1).expand(3)], lr=0.1, momentum=0.9)
    assert torch.equal(p, torch.ones(3))


STATE_LISTS = {name: [s.name for s in kernels.get_algorithm(name).states if s.always] for name in kernels.ALGORITHMS}


@pytest.mark.parametrize("backend", ["simd", "reference"])
@pytest.mark.parametrize(("name", "state"), [(name, state) for name, kept in STATE_LISTS.items() for state in kept])
def test_a_state_of_none_is_refused_by_name(name: str, state: str, backend: str) -> None:
    p = torch.ones(3)
    hyper = kernels.get_algorithm(name).hyperparameters()
    states: dict[str, Any] = {each: [None if each == state else torch.zeros(3)] for each in STATE_LISTS[name]}
    with pytest.raises(KeyError, match=f"state '{state}': None for parameter 0"):
        functional.step_(name, hyper, [p], [torch.ones(3)], states, backend=backend)
    assert torch.equal(p, torch.ones(3))


@pytest.mark.parametrize("recipe", ["foreach", "fused"])
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"step": 0}, ValueError, "step: 0; give the number of this step, 1 for the first"),
        ({"step": -3.0}, ValueError, "step: -3; give"),
        ({"step": torch.tensor([0.0])}, ValueError, "step: 0; give"),
        ({"step": float("nan")}, ValueError, "step: nan; give"),
        ({"step": None}, TypeError, "step: a NoneType; give"),
        ({"grads": [None]}, TypeError, "grads: None for parameter 0; leave out"),
        ({"grads": [torch.ones(3).to_mkldnn()]}, TypeError, "grad: a Tensor of layout torch._mkldnn; give"),
    ],
)
def test_one_error_names_the_argument(given: dict[str, Any], error: type[Exception], message: str, recipe: str) -> None:
    p = torch.ones(3)
    arguments: dict[str, Any] = {
        "params": [p],
        "grads": [torch.ones(3)],
        "exp_avgs": [torch.zeros(3)],
        "exp_avg_sqs": [torch.zeros(3)],
        "step": 1,
        "recipe": recipe,
    }
    with pytest.raises(error, match=message):
        functional.adamw_(**{**arguments, **given})
    assert torch.equal(p, torch.ones(3))
