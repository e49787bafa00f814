"""A step that is refused, fails or is interrupted changes nothing: not even which update is the first."""

from typing import Any

import pytest
import torch

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
