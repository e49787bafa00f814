"""Awkward tensors: torch's behaviour or one clear error, never a wrong update and never a stale address."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch

import kernels
from kernels import bits

Param = torch.nn.Parameter
SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}


def values(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def wrong(a: list[Any], b: list[Any]) -> int:
    return sum(bits.mismatches(x.detach(), y.detach()) for x, y in zip(a, b, strict=True))


def expanded_from(p: Param) -> torch.Tensor:
    return torch.full((), 0.5).expand(p.shape)


LAYOUTS: dict[str, Callable[[], Param]] = {
    "contiguous": lambda: Param(values(6, 8)),
    "transposed": lambda: Param(values(8, 6).t()),
    "channels-last": lambda: Param(values(4, 3, 5, 2).to(memory_format=torch.channels_last)),
    "permuted": lambda: Param(values(3, 4, 5).permute(2, 0, 1)),
    "sliced": lambda: Param(values(6, 20)[:, 3:11]),
    "strided": lambda: Param(values(40)[::3]),
    "sliced-transposed": lambda: Param(values(9, 7)[1:5, ::2].t()),
    "one-column": lambda: Param(values(6, 5)[:, :1]),
    "empty": lambda: Param(values(0, 4)),
    "scalar": lambda: Param(values()),
    "odd-strides-of-one": lambda: Param(values(5).as_strided((5, 1), (1, 99))),
    "unaligned": lambda: Param(values(65)[1:]),
}
GRADS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "like": lambda p: torch.randn_like(p),
    "contiguous": lambda p: torch.randn(p.shape),
    "reversed-order": lambda p: torch.randn(p.shape[::-1]).permute(tuple(reversed(range(p.dim())))),
    "gappy": lambda p: torch.randn((*p.shape, 2))[..., 0],
    "expanded": expanded_from,
}


BACKENDS = ("reference", "simd", pytest.param("interpreter", marks=pytest.mark.interpreter))


@pytest.mark.parametrize("gradient", sorted(GRADS))
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_step_as_in_torch(backend: str, layout: str, gradient: str) -> None:
    results = []
    for package, extra in ((torch.optim, {}), (kernels, {"backend": backend})):
        p, plain = LAYOUTS[layout](), Param(values(5, seed=3))
        base = p.detach()._base
        optimizer = package.SGD([plain, p], **SGD, **extra)
        torch.manual_seed(4)
        for _ in range(3):
            p.grad, plain.grad = GRADS[gradient](p), torch.randn(5)
            kept, before = p.grad, p.grad.clone()
            optimizer.step()
            assert p.grad is kept and torch.equal(kept, before)
        # The base of a slice: what lies between the elements is untouched.
        results.append([p, plain, optimizer.state[p]["momentum_buffer"], *([] if base is None else [base])])
    assert wrong(*results) == 0


def test_gradient_of_another_layout_is_unscaled_in_place() -> None:
    p, q = Param(values(8, 8)), Param(values(8, 8))
    p.grad, q.grad = values(8, 8, seed=2).t() * 4, (values(8, 8, seed=2).t() * 4).contiguous()
    for x in (p, q):
        optimizer = kernels.Adam([x], recipe="fused")
        optimizer.grad_scale = torch.tensor(4.0)
        optimizer.step()
    assert wrong([p, p.grad], [q, q.grad]) == 0
    assert torch.equal(p.grad, values(8, 8, seed=2).t())
    p.grad = torch.ones(()).expand(8, 8)
    with pytest.raises(ValueError, match=r"grad of strides \(0, 0\): its elements share memory"):
        optimizer = kernels.Adam([p], recipe="fused")
        optimizer.grad_scale = torch.tensor(4.0)
        optimizer.step()


def refused(make: Callable[[], list[Any]], error: type[Exception], match: str, *, at: str = "step") -> None:
    """The error comes at the constructor or at the step, and nothing was changed."""
    params = make()
    before = [p.detach().clone() for p in params]
    with pytest.raises(error, match=match):
        optimizer = kernels.SGD(params, **SGD)
        assert at == "step"
        optimizer.step()
    assert all(map(torch.equal, params, before))


def _with_grad(p: Any) -> Any:
    p.grad = torch.ones_like(p)
    return p


def test_parameters_that_are_refused() -> None:
    buffer = values(40)
    refused(
        lambda: [Param(values(3).double())], TypeError, "a parameter of torch.float64: .* use torch.optim.SGD", at=""
    )
    refused(lambda: [Param(torch.zeros(3, dtype=torch.complex64))], TypeError, "a parameter of torch.complex64", at="")
    refused(lambda: [torch.zeros(3, dtype=torch.int64)], TypeError, "a parameter of torch.int64", at="")
    # As in torch a model may be built on the meta device and get its memory later; it is refused where it is stepped.
    meta = kernels.SGD([_with_grad(Param(torch.zeros(3, device="meta")))])
    with pytest.raises(ValueError, match="a parameter on meta; move it"):
        meta.step()
    with pytest.raises(TypeError, match=r"layout torch\.sparse_coo; give an ordinary dense tensor"):
        kernels.SGD([torch.eye(3).to_sparse().requires_grad_()])
    shared = "parameters share memory"
    refused(lambda: [_with_grad(Param(torch.ones(1).expand(5)))], ValueError, shared)
    refused(lambda: [_with_grad(Param(buffer[:10])), _with_grad(Param(buffer[9:]))], ValueError, shared)
    refused(lambda: [_with_grad(Param(buffer.as_strided((3, 3), (1, 1))))], ValueError, shared)
    refused(lambda: [_with_grad(Param(buffer[::2])), _with_grad(Param(buffer[::3]))], ValueError, shared)
    # Two storages of one memory, and halves of an element.
    array = buffer.numpy()
    cuts = [torch.from_numpy(part) for part in (array[::2], array[4::3])]
    refused(lambda: [_with_grad(Param(cut)) for cut in cuts], ValueError, shared)
    half = buffer.view(torch.bfloat16)[1::4]
    refused(lambda: [_with_grad(Param(buffer[::2])), _with_grad(Param(half))], ValueError, shared)
    with pytest.warns(UserWarning, match="duplicate"):
        p = _with_grad(Param(values(3)))
        optimizer = kernels.SGD([p, p])
    with pytest.raises(ValueError, match="a parameter is given twice"):
        optimizer.step()


def test_neighbours_and_interleaved_views_are_separate() -> None:
    def storages(b: Any) -> list[Any]:
        return [torch.from_numpy(b.numpy()[start::2]) for start in (0, 1)]

    for cut in (lambda b: (b[:10], b[10:]), lambda b: (b[::2], b[1::2]), storages):
        results = []
        for package in (torch.optim, kernels):
            params = [_with_grad(Param(part)) for part in cut(values(40))]
            package.SGD(params, **SGD).step()
            results.append(params)
        assert wrong(*results) == 0


def test_gradients_that_are_refused() -> None:
    p, other = Param(values(4, 4)), Param(values(3))
    optimizer = kernels.SGD([other, p], **SGD)
    other.grad = torch.ones(3)
    p.grad = torch.eye(4).to_sparse()
    with pytest.raises(RuntimeError, match=r"SGD does not support sparse gradients; use torch\.optim\.SGD"):
        optimizer.step()
    # Nothing was created or stepped: the next step is the first.
    assert torch.equal(other, values(3)) and not optimizer.state[other]
    p.grad = torch.ones(4, 4)
    optimizer.step()
    # Sparse from now on, after a step that went well.
    p.grad = torch.eye(4).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize(("name", "takes"), [("SGD", "SGD"), ("Adagrad", "Adagrad"), ("AdamW", "SparseAdam")])
def test_sparse_gradients_are_sent_to_the_class_of_torch_that_takes_them(name: str, takes: str) -> None:
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=rf"{name} does not support sparse gradients; use torch\.optim\.{takes},"):
        getattr(kernels, name)(embedding.parameters(), lr=0.1).step()
    theirs = torch.nn.Embedding(5, 2, sparse=True)
    theirs(torch.tensor([1])).sum().backward()
    getattr(torch.optim, takes)(theirs.parameters(), lr=0.1).step()


def test_parameters_of_several_dtypes_step_like_each_alone() -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    results = []
    for package in (torch.optim, kernels):
        params = [Param(values(9, seed=k).to(dtype)) for k, dtype in enumerate(dtypes * 2)]
        optimizer = package.SGD(params, **SGD)
        for step in range(3):
            for k, p in enumerate(params):
                p.grad = values(9, seed=100 * step + k).to(p.dtype)
            optimizer.step()
        results.append(params)
    for a, b in zip(*results, strict=True):
        # torch's CPU kernels keep intermediate float32 values in low precision; CUDA's, and ours, round each operation.
        assert torch.allclose(a.float(), b.float(), rtol=0.0 if a.dtype == torch.float32 else 0.02, atol=0.02)
        assert a.dtype == b.dtype
    assert wrong(results[0][0::3], results[1][0::3]) == 0


# -- what changes between steps ----------------------------------------------------------------------------------


def _pair(name: str, backend: str, **options: Any) -> list[tuple[list[Param], torch.optim.Optimizer]]:
    made = []
    ours = {"recipe": "cpu-fused", "backend": backend}
    for package, extra in ((torch.optim, {"fused": True}), (kernels, ours)):
        params = [Param(values(64, seed=k)) for k in range(3)]
        made.append((params, getattr(package, name)(params, **options, **extra)))
    return made


def swap_data(params: list[Param], optimizer: torch.optim.Optimizer) -> None:
    params[1].data = values(64, seed=50)


def swap_same_memory(params: list[Param], optimizer: torch.optim.Optimizer) -> None:
    params[1].grad = None
    params[1].data = params[1].data[:32]
    optimizer.state[params[1]] = {}


def replace_step(params: list[Param], optimizer: torch.optim.Optimizer) -> None:
    optimizer.state[params[1]]["step"] = torch.tensor(100.0)


def change_step(params: list[Param], optimizer: torch.optim.Optimizer) -> None:
    optimizer.state[params[1]]["step"].fill_(7.0)


def replace_moment(params: list[Param], optimizer: torch.optim.Optimizer) -> None:
    optimizer.state[params[0]]["exp_avg"] = values(64, seed=9)


def swap_moment_data(params: list[Param], optimizer: torch.optim.Optimizer) -> None:
    optimizer.state[params[0]]["exp_avg_sq"].data = values(64, seed=9).square()


def clear_state(params: list[Param], optimizer: torch.optim.Optimizer) -> None:
    optimizer.state.clear()


def forget_one(params: list[Param], optimizer: torch.optim.Optimizer) -> None:
    del optimizer.state[params[2]]


def turn_states(params: list[Param], optimizer: torch.optim.Optimizer) -> None:
    # The same dicts in the same order, each for another parameter.
    turned = dict(zip([*params[1:], params[0]], (optimizer.state[p] for p in params), strict=True))
    optimizer.state = defaultdict(dict, turned)


def rename_moments(params: list[Param], optimizer: torch.optim.Optimizer) -> None:
    # The same tensors in the same order, each under another name.
    for entry in optimizer.state.values():
        step, first, second = entry.values()
        entry.clear()
        entry.update(step=step, exp_avg_sq=first.abs_(), exp_avg=second)


def load_own(params: list[Param], optimizer: torch.optim.Optimizer) -> None:
    saved = optimizer.state_dict()
    for entry in saved["state"].values():
        entry["exp_avg"] = entry["exp_avg"] * 2
    optimizer.load_state_dict(saved)


def replace_parameter(params: list[Param], optimizer: torch.optim.Optimizer) -> None:
    new = Param(values(64, seed=77))
    optimizer.state[new] = optimizer.state.pop(params[0])
    optimizer.param_groups[0]["params"][0] = params[0] = new


def drop_gradient(params: list[Param], optimizer: torch.optim.Optimizer) -> None:
    params[0].requires_grad_(False)
    params[0].grad = None


def other_group(params: list[Param], optimizer: torch.optim.Optimizer) -> None:
    group = optimizer.param_groups[0]
    moved = group["params"].pop()
    optimizer.param_groups.append({**group, "params": [moved], "lr": 0.5})


CHANGES = (
    swap_data, swap_same_memory, replace_step, change_step, replace_moment, swap_moment_data, clear_state,
    forget_one, turn_states, rename_moments, load_own, replace_parameter, drop_gradient, other_group,
)  # fmt: skip


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh-gradients", "kept-gradients"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("backend", BACKENDS)
def test_changes_between_steps_are_seen(backend: str, change: Callable[..., None], fresh: bool) -> None:
    results = []
    for params, optimizer in _pair("AdamW", backend, lr=0.1):
        for step in range(5):
            if step == 2:
                change(params, optimizer)
            for k, p in enumerate(params):
                if not p.requires_grad:
                    continue
                new = values(64, seed=10 * step + k)[: p.numel()].view(p.shape)
                if fresh or p.grad is None:
                    p.grad = new
                else:
                    p.grad.copy_(new)
            optimizer.step()
        results.append([*params, *(v for p in params for v in optimizer.state[p].values())])
    assert wrong(*results) == 0


@pytest.mark.parametrize("kept", [True, False], ids=["state-kept", "state-swapped"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_other_strides_under_the_same_objects_are_seen(backend: str, kept: bool) -> None:
    results = []
    for package, extra in ((torch.optim, {}), (kernels, {"backend": backend})):
        params = [Param(values(8, 8)), Param(values(5).to(torch.bfloat16)), Param(values(6))]
        optimizer = package.SGD(params, **SGD, **extra)
        for step in range(4):
            if step == 2:
                params[0].grad = None
                params[0].data = params[0].data.t().clone(memory_format=torch.preserve_format)
                if not kept:
                    buffer = optimizer.state[params[0]]["momentum_buffer"]
                    buffer.data = buffer.data.t().clone(memory_format=torch.preserve_format)
            for p in params:
                p.grad = values(*p.shape, seed=step).to(p.dtype)
            optimizer.step()
        stepped = params[0::2]  # torch's bfloat16 on the CPU has roundings of its own
        results.append([*stepped, *(optimizer.state[p]["momentum_buffer"] for p in stepped)])
    assert wrong(*results) == 0


def test_state_that_does_not_fit_is_refused() -> None:
    def broken(name: str, value: Any) -> Callable[[], Any]:
        p = _with_grad(Param(values(8)))
        optimizer = kernels.Adam([p])
        optimizer.step()
        optimizer.state[p][name] = value
        return optimizer.step

    with pytest.raises(ValueError, match=r"state 'exp_avg' of shape \(3,\) on cpu: its parameter has shape \(8,\)"):
        broken("exp_avg", torch.zeros(3))()
    with pytest.raises(TypeError, match=r"state 'exp_avg_sq' of torch\.float64"):
        broken("exp_avg_sq", torch.zeros(8, dtype=torch.float64))()
    with pytest.raises(TypeError, match="state 'exp_avg': a list, no tensor"):
        broken("exp_avg", [0.0] * 8)()
    with pytest.raises(TypeError, match=r"states of torch.bfloat16, torch.float32 for one parameter"):
        broken("exp_avg", torch.zeros(8, dtype=torch.bfloat16))()


def test_converted_model_is_seen() -> None:
    model = torch.nn.Linear(8, 8)
    optimizer = kernels.Adam(model.parameters())
    for p in model.parameters():
        _with_grad(p)
    optimizer.step()
    # Parameters, gradients and their objects stay, the dtype changes under them.
    model.double()
    with pytest.raises(TypeError, match=r"a parameter of torch\.float64"):
        optimizer.step()
    model.to(torch.bfloat16)
    for p in model.parameters():
        _with_grad(p)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert all(bool((p != b).all()) for p, b in zip(model.parameters(), before, strict=True))


def test_checkpoint_in_another_memory_format() -> None:
    results = []
    for package, extra in ((torch.optim, {"foreach": False}), (kernels, {})):
        source = Param(values(4, 3, 5, 2))
        first = package.SGD([source], **SGD, **extra)
        source.grad = values(4, 3, 5, 2, seed=2)
        first.step()
        p = Param(source.detach().to(memory_format=torch.channels_last))
        second = package.SGD([p], **SGD, **extra)
        second.load_state_dict(first.state_dict())
        p.grad = values(4, 3, 5, 2, seed=3)
        second.step()
        results.append([p, second.state[p]["momentum_buffer"]])
    assert wrong(*results) == 0


def test_default_dtype_and_device_do_not_matter() -> None:
    expected = [Param(values(64))]
    p = [Param(values(64))]
    torch.set_default_dtype(torch.float64)
    try:
        for params, name in ((p, "double"), (expected, "single")):
            if name == "single":
                torch.set_default_dtype(torch.float32)
            optimizer = kernels.Adagrad(params, recipe="fused", lr_decay=0.1)
            population = kernels.Population(
                "adam",
                [kernels.get_algorithm("adam").hyperparameters()],
                params[0].detach().view(1, -1),
                recipe="fused",
            )
            for _ in range(2):
                params[0].grad = values(64, seed=2) if name == "single" else values(64, seed=2).float()
                params[0].grad = torch.ones(64, dtype=torch.float32)
                optimizer.step()
                population.step(torch.ones(1, 64, dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    assert wrong(p, expected) == 0
