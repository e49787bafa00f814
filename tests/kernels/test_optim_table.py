"""torch's own table of optimizer cases and errors, against the drop-ins; values compared with torch.optim's."""

import copy
import inspect
from typing import Any

import pytest
import torch
from optim_table import CASES, DATABASE, ERRORS, NAMES, Case, ErrorCase, frozen_cases, frozen_errors

import kernels
from kernels import bits

SHAPES = ((64,), (16, 8), (4, 4, 8), (64, 2))
STEPS = 5


def _train(make: Any, options: dict[str, Any], *, groups: bool = False) -> list[torch.Tensor]:
    """Parameters and states after a few steps on fixed gradients."""
    generator = torch.Generator().manual_seed(5)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    split: Any = [{"params": params[:2]}, {"params": params[2:], "lr": 0.05}] if groups else params
    optimizer = make(split, **copy.deepcopy(options))
    for _ in range(STEPS):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    states = [v for p in params for name, v in optimizer.state[p].items() if isinstance(v, torch.Tensor)]
    return [*(p.detach() for p in params), *states]


def _distance(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Largest difference of a tensor, in units of float32's epsilon at its largest value."""
    assert len(ours) == len(theirs)
    pairs = zip(ours, theirs, strict=True)
    relative = [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]
    return max(relative) / torch.finfo(torch.float32).eps


@pytest.mark.parametrize("groups", [False, True], ids=["one-group", "two-groups"])
@pytest.mark.parametrize("implementation", ["foreach", "for-loop"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_of_torch(case: Case, implementation: str, groups: bool) -> None:
    foreach = implementation == "foreach"
    ours, theirs = (
        _train(getattr(package, case.optimizer), {**case.options, "foreach": foreach}, groups=groups)
        for package in (kernels, torch.optim)
    )
    if case.optimizer == "SGD":
        # No root and no quotient: CPU and CUDA round alike.
        assert [bits.mismatches(a, b) for a, b in zip(ours, theirs, strict=True)] == [0] * len(ours)
    else:
        # torch's vectorised CPU root is one ulp off in a fifth of its results, and its addcmul and addcdiv round in
        # another order than CUDA's, which ours reproduces: a few ulp in five steps, not more.
        assert _distance(ours, theirs) < 4


@pytest.mark.parametrize("case", [c for c in CASES if c.optimizer in ("SGD", "Adam", "AdamW", "Adagrad")], ids=str)
def test_bits_of_torchs_fused_kernels_on_the_cpu(case: Case) -> None:
    theirs = _train(getattr(torch.optim, case.optimizer), {**case.options, "fused": True})
    ours = _train(getattr(kernels, case.optimizer), {**case.options, "recipe": "cpu-fused"})
    assert [bits.mismatches(a, b) for a, b in zip(ours, theirs, strict=True)] == [0] * len(ours)


@pytest.mark.parametrize("case", ERRORS, ids=str)
def test_errors_of_torch(case: ErrorCase) -> None:
    outcomes: list[BaseException | Warning] = []
    for package in (torch.optim, kernels):
        # The table's parameters are used up by torch, which writes into its groups.
        params = copy.copy(case.params)
        if isinstance(params, list):
            params = [dict(p) if isinstance(p, dict) else p for p in params]
        make = getattr(package, case.optimizer)
        if issubclass(case.error, Warning):
            with pytest.warns(case.error, match=case.match):
                make(params, **case.options)
            continue
        with pytest.raises(case.error, match=case.match) as caught:
            make(params, **case.options)
        outcomes.append(caught.value)
    assert len({(type(error), str(error)) for error in outcomes}) <= 1


@pytest.mark.skipif(torch.__version__.split("+")[0] != "2.13.0", reason="the copy was made from torch 2.13.0")
def test_frozen_copy_is_torchs_table() -> None:
    assert DATABASE, "torch's table could not be imported"

    def text(cases: list[Any], attribute: str) -> list[str]:
        return sorted(f"{case.optimizer} {getattr(case, attribute)}" for case in cases)

    assert text(frozen_cases(), "options") == text(CASES, "options")
    assert text(frozen_errors(), "options") == text(ERRORS, "options")


@pytest.mark.parametrize("case", frozen_errors(), ids=str)
def test_frozen_errors_hold(case: ErrorCase) -> None:
    test_errors_of_torch(case)


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_torchs_with_ours_added(name: str) -> None:
    theirs = inspect.signature(getattr(torch.optim, name).__init__).parameters
    ours = inspect.signature(getattr(kernels, name).__init__).parameters
    added = {"recipe", "backend", "master_weights"}
    assert [n for n in ours if n not in added] == list(theirs)
    assert all(ours[n].default == theirs[n].default and ours[n].kind == theirs[n].kind for n in theirs)
    with pytest.raises(TypeError, match="unexpected keyword argument 'momentun'"):
        getattr(kernels, name)([torch.nn.Parameter(torch.zeros(1))], momentun=0.9)
