"""Low-precision parameters with float32 masters in the optimizer's state: one launch, torch's float32 bits."""

import copy
import io
from typing import Any

import pytest
import torch

import kernels
from kernels import bits

LOW = (torch.bfloat16, torch.float16)
CASES: tuple[tuple[str, dict[str, Any], dict[str, Any], str], ...] = (
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, {"foreach": True}, "foreach"),
    ("AdamW", {"lr": 0.1}, {"fused": True}, "cpu-fused"),
)
BACKENDS = ("reference", "simd", pytest.param("interpreter", marks=pytest.mark.interpreter))


def values(seed: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in ((64,), (8, 16))]


def wrong(a: list[Any], b: list[Any]) -> int:
    return sum(bits.mismatches(x.detach(), y.detach()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_masters_are_torchs_float32_parameters(case: Any, dtype: torch.dtype, backend: str) -> None:
    name, options, switches, recipe = case
    params = [torch.nn.Parameter(t) for t in values(1, dtype)]
    # A transposed one, and one with gaps.
    params += [torch.nn.Parameter(values(3, dtype)[1].t()), torch.nn.Parameter(values(4, dtype)[1][:, ::2])]
    masters = [torch.nn.Parameter(p.detach().float()) for p in params]
    ours = getattr(kernels, name)(params, **options, recipe=recipe, backend=backend, master_weights=True)
    theirs = getattr(torch.optim, name)(masters, **options, **switches)
    for step in range(4):
        for k, (p, m) in enumerate(zip(params, masters, strict=True)):
            grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + k)).to(dtype)
            p.grad, m.grad = grad, torch.empty_like(m).copy_(grad)
        ours.step()
        theirs.step()
    assert wrong([ours.state[p]["master_param"] for p in params], masters) == 0
    assert wrong(params, [m.detach().to(dtype) for m in masters]) == 0
    for name, value in theirs.state[masters[0]].items():
        assert torch.equal(ours.state[params[0]][name], value)


@pytest.mark.parametrize("copied", ["file", "memory"])
def test_checkpoint_keeps_float32(copied: str) -> None:
    straight, resumed = ([torch.nn.Parameter(t) for t in values(1, torch.bfloat16)] for _ in range(2))
    one, two = (kernels.AdamW(p, lr=0.01, master_weights=True) for p in (straight, resumed))
    for step in range(6):
        if step == 3:
            saved = copy.deepcopy(two.state_dict())
            if copied == "file":
                file = io.BytesIO()
                torch.save(saved, file)
                file.seek(0)
                saved = torch.load(file)
            two = kernels.AdamW(resumed, lr=1.0, master_weights=True)
            two.load_state_dict(saved)
        for params, optimizer in ((straight, one), (resumed, two)):
            for p, g in zip(params, values(10 + step, torch.bfloat16), strict=True):
                p.grad = g
            optimizer.step()
    for p, q in zip(straight, resumed, strict=True):
        assert {v.dtype for v in two.state[q].values()} == {torch.float32}
        assert wrong(list(one.state[p].values()), list(two.state[q].values())) == 0
    assert wrong(straight, resumed) == 0


def test_torchs_low_precision_checkpoint_is_taken_up_and_given_back() -> None:
    theirs_params, params = ([torch.nn.Parameter(t) for t in values(1, torch.bfloat16)] for _ in range(2))
    theirs, ours = torch.optim.AdamW(theirs_params), kernels.AdamW(params, master_weights=True)
    for p, g in zip(theirs_params, values(2, torch.bfloat16), strict=True):
        p.grad = g
    theirs.step()
    ours.load_state_dict(theirs.state_dict())
    for p, q, g in zip(params, theirs_params, values(3, torch.bfloat16), strict=True):
        p.data.copy_(q)
        p.grad = q.grad = g
    ours.step()
    state = ours.state[params[0]]
    assert state["exp_avg"].dtype == state["master_param"].dtype == torch.float32 and float(state["step"]) == 2.0
    theirs.load_state_dict(ours.state_dict())
    theirs.step()
    assert theirs.state[theirs_params[0]]["exp_avg"].dtype == torch.bfloat16


def test_small_updates_are_not_lost() -> None:
    results = {}
    for masters in (False, True):
        p = torch.nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
        optimizer = kernels.SGD([p], lr=1e-4, master_weights=masters)
        for _ in range(100):
            p.grad = torch.ones_like(p)
            optimizer.step()
        results[masters] = float(p.detach()[0])
    assert results[False] == 1.0 and abs(results[True] - 0.99) < 0.004


def test_float32_parameters_have_no_master_and_scaling_works() -> None:
    p, q = torch.nn.Parameter(torch.ones(64)), torch.nn.Parameter(torch.ones(64, dtype=torch.float16))
    optimizer = kernels.Adam([p, q], recipe="fused", master_weights=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(()))
    p.grad, q.grad = torch.full_like(p, 8.0), torch.full_like(q, 8.0)
    scaler.step(optimizer)
    assert "master_param" not in optimizer.state[p] and optimizer.master_weights
    assert float(q.grad[0]) == 1.0 and torch.equal(optimizer.state[q]["master_param"], p.detach())
