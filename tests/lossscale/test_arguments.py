"""Public callables refuse what they cannot use: one line with the argument, its value and what to give."""

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import lossscale
from lossscale.support.arguments import real_number, switch, whole_number


def _adam() -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])


class _Scaler:
    """Has a GradScaler's methods and tells less."""

    def is_enabled(self) -> bool:
        return True

    def get_scale(self) -> float:
        return 1.0

    def state_dict(self) -> dict[str, Any]:
        return {"scale": 1.0}


NO_WHOLE_NUMBERS = [1.5, 2.0, "x", None, True, [3], math.nan, torch.ones(2), torch.tensor(1.0), np.bool_(True), 1j]
NO_NUMBERS = ["x", "1", None, True, [1.0], 1j, torch.ones(2), torch.tensor(True), np.array([1.0, 2.0])]


@pytest.mark.parametrize("name", ["every", "elements"])
def test_the_probes_counts_are_whole_numbers(name: str) -> None:
    for wrong in NO_WHOLE_NUMBERS:
        with pytest.raises(TypeError, match=f"^{name} .*: must be a whole number; give one such as") as error:
            lossscale.Probe(_adam(), **{name: wrong})
        assert "\n" not in str(error.value)
    for wrong in (0, -3, np.int64(-1), torch.tensor(0)):
        with pytest.raises(ValueError, match=f"^{name} .*: must be at least 1; give one such as"):
            lossscale.Probe(_adam(), **{name: wrong})
    for right in (1, np.int64(2), torch.tensor(3), 10**30):
        lossscale.Probe(_adam(), **{name: right}).detach()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "x"}, "^model 'x': is no torch.nn.Module; give the module"),
        ({"model": [torch.nn.Linear(1, 1)]}, "^model .*: is no torch.nn.Module"),
        ({"scaler": _Scaler()}, "^scaler _Scaler: is no GradScaler; give a torch.amp.GradScaler"),
        ({"scaler": True}, "^scaler bool: is no GradScaler"),
    ],
)
def test_what_else_the_probe_refuses(given: dict[str, Any], words: str) -> None:
    optimizer = _adam()
    with pytest.raises(TypeError, match=words):
        lossscale.Probe(optimizer, **given)
    assert not optimizer._optimizer_step_pre_hooks  # nothing stays behind


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("max_norm", (-1.0, math.nan, -math.inf), "must be at least 0; give the largest norm"),
        ("norm_type", (0, -1.0, math.nan, -math.inf), "must be above 0; give the p of the norm"),
        ("eps", (-1e-6, math.nan, math.inf), "must be finite and at least 0; give torch's 1e-6"),
    ],
)
def test_clipping_takes_numbers_in_range(name: str, wrong: tuple[float, ...], words: str) -> None:
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.tensor([3.0, 4.0])
    for kind, values in ((ValueError, wrong), (TypeError, NO_NUMBERS)):
        for value in values:
            with pytest.raises(kind, match=f"^{name} .*{re.escape(words)}") as error:
                lossscale.clip_grad_norm_([p], **{"max_norm": 1.0, name: value})
            assert "\n" not in str(error.value)
    assert p.grad.tolist() == [3.0, 4.0]  # nothing was clipped on the way
    for right in (torch.tensor(6.0), np.float32(6), 10**400, math.inf, Fraction(6)):
        assert float(lossscale.clip_grad_norm_([p], right)) == 5.0
    assert lossscale.clip_grad_norm_([p], 6.0, "inf") == 4.0  # as torch takes it
    assert lossscale.clip_grad_norm_([p], 0.0) == 5.0 and p.grad.tolist() == [0.0, 0.0]


def test_what_else_clipping_refuses() -> None:
    table = torch.nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    for parameters, options, kind, words in [
        (table, {}, TypeError, r"^parameters Embedding\(5, 3, sparse=True\): must be a tensor or several; give"),
        (table.named_parameters(), {}, TypeError, r"^parameters: must hold tensors, and one item is \('weight'"),
        ([3], {}, TypeError, r"one item is 3; give model.parameters\(\)"),
        (table.parameters(), {}, ValueError, "^parameters: the gradient of one is sparse"),
        ([], {"foreach": "x"}, TypeError, "^foreach 'x': must be True or False, or None; give one"),
        ([], {"error_if_nonfinite": None}, TypeError, "^error_if_nonfinite None: must be True or False; give one"),
    ]:
        with pytest.raises(kind, match=words):
            lossscale.clip_grad_norm_(parameters, 1.0, **options)


@pytest.mark.parametrize("name", ["eps", "r", "beta2", "step"])
def test_convert_eps_takes_numbers_in_range(name: str) -> None:
    right: dict[str, Any] = {"eps": 1e-8, "source": "hat", "target": "outside", "r": 0.0, "beta2": 0.9, "step": 3}
    wrong = {"eps": (-1, math.inf), "r": (-1, math.inf), "beta2": (-0.1, 1.0), "step": (0, 0.5, -math.inf)}
    for kind, values in ((ValueError, (*wrong[name], math.nan)), (TypeError, NO_NUMBERS)):
        for value in values:
            expected = ValueError if name == "step" and value is None else kind
            with pytest.raises(expected, match=f"^{name} .*give") as error:
                lossscale.convert_eps(**{**right, name: value})
            assert "\n" not in str(error.value)
    for number in (np.float32(right[name]), torch.tensor(right[name], dtype=torch.float64)):
        found = lossscale.convert_eps(**{**right, name: number})
        assert type(found) is float
        assert found == pytest.approx(lossscale.convert_eps(**right), rel=1e-6)


@pytest.mark.parametrize("convention", [None, 3, ["hat"], "Hat "])
def test_convert_eps_names_the_conventions(convention: Any) -> None:
    with pytest.raises(ValueError, match=r"^source .*: unknown; give one of outside, inside, hat"):
        lossscale.convert_eps(1e-8, convention, "inside")


def test_convert_eps_at_the_ends_of_the_numbers() -> None:
    # r² alone would be infinite; near it eps is e² + 2 r e.
    assert lossscale.convert_eps(1e-8, "inside", "outside", r=1e200) == pytest.approx(0.5e-208)
    with pytest.raises(ValueError, match="is below every number as inside eps; give a larger one"):
        lossscale.convert_eps(1e-200, "outside", "inside")


def test_the_checks_themselves() -> None:
    assert whole_number("n", np.int8(3), least=0, example=1) == 3
    assert real_number("x", 3, lambda x: x > 0, "give one") == 3.0 and switch("s", None, optional=True) is None
    with pytest.raises(TypeError) as error:
        switch("s", "y" * 500)
    assert len(str(error.value)) < 150
