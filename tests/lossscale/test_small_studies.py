"""mid-run, clip, multi-task, grad-scaler: parts against torch and exact arithmetic, and their quick runs whole."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lossscale import studies
from lossscale.design.study import StudyContext
from lossscale.models.data import UniformStream
from lossscale.models.networks import get_network
from lossscale.report.neutral import presentation_of
from lossscale.runs.summary import read_summary
from lossscale.studies.clip.script import TORCH_EPS, clipped, parts_of, torch_clipped
from lossscale.studies.grad_scaler.policies import DeepSpeed, Torch, Wander, skip_rates
from lossscale.studies.mid_run.script import LIMIT, Jump, closed_form, responses, rounding_bound, under_half
from lossscale.studies.multi_task.network import FIRST, SECOND, TRUNK, TwoLosses

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("jump", "peak", "at"),
    [(Jump(beta2=0.999, factor=LIMIT), 6.57, 12), (Jump(beta2=0.95, factor=8.0), 1.11, 17)],
)
def test_a_warm_adam_answers_a_jump_as_its_closed_form_does(jump: Jump, peak: float, at: int) -> None:
    (response,) = responses([jump], device=CPU, backend="auto", seed=3, steps=60)
    form = closed_form(jump.beta2, jump.factor, 60)
    assert np.abs(response / form[:, None] - 1).max() <= rounding_bound(jump.beta2)
    assert abs(response.max() - peak) < 0.005
    assert set(np.unique(response.argmax(axis=0) + 1)) == {form.argmax() + 1} and abs(form.argmax() + 1 - at) <= 1


def test_where_a_response_lies_under_a_half() -> None:
    response = np.array([[0.9, 0.4, 0.3, 0.45, 0.6, 0.7], [0.4, 0.4, 0.6, 0.6, 0.6, 0.49]]).T
    first, last = under_half(response)
    assert first.tolist() == [2, 1] and last.tolist() == [4, 6]


def test_batched_clipping_has_the_bits_of_torch() -> None:
    network = get_network("mlp-6-6-1")
    grads = torch.randn(64, network.parameters, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.randint(
        -4, 3, (64, 1), generator=torch.Generator().manual_seed(1)
    )
    for limit in (0.3, 2.0**-8, 7.0):
        ones = torch.ones(64)
        ours = clipped(grads, parts_of(network), limit * ones, TORCH_EPS * ones)
        assert torch.equal(ours, torch_clipped(grads, parts_of(network), limit))
    assert (ours == grads).all(1).any() and (ours != grads).any(), "some are clipped and some are not"


@pytest.mark.parametrize("network", [TwoLosses(), TwoLosses(frozen=True), TwoLosses(one_output=True)])
def test_gradients_of_two_losses_are_those_of_autograd(network: TwoLosses) -> None:
    inits, weights = range(5), torch.tensor([[1.0, 1.0], [0.5, 4.0]]).repeat(5, 1)
    params = network.initial(7, inits).repeat_interleave(2, 0)
    batch = UniformStream(features=6, seed=7, inits=inits, device=CPU).batch(3)
    found = torch.empty_like(params)
    network.gradients(params, batch, weights, found)
    leaf = params.double().requires_grad_()
    squared = batch.inputs.squeeze(2).double().repeat_interleave(2, 0) ** 2
    hidden = ((leaf[:, :36].view(-1, 6, 6) * squared[:, None]).sum(2) + leaf[:, 36 : TRUNK.stop]).relu()
    outputs = [
        torch.sigmoid((leaf[:, head.start : head.stop - 1] * hidden).sum(1) + leaf[:, head.stop - 1]).exp()
        for head in (FIRST, FIRST if network.one_output else SECOND)
    ]
    (weights[:, 0] * (1 - outputs[0]) + weights[:, 1] * (1 + outputs[1])).sum().backward()
    assert leaf.grad is not None
    wanted = leaf.grad.clone()
    if network.frozen:
        wanted[:, TRUNK] = 0.0
    # float32 rounds each of a handful of operations by at most 2^-24 of terms no larger than 4.
    assert (found.double() - wanted).abs().max() < 64 * 2.0**-24
    if network.one_output:
        assert (found[0::2] == 0).all() and (found[1::2, TRUNK] != 0).any()


@pytest.mark.parametrize(
    ("name", "fails"),
    [
        ("mid-run", {"S5.mid-run.4"}),
        ("clip", {"S5.clip.1"}),
        ("multi-task", set()),
        ("grad-scaler", {"S5.grad-scaler.2"}),
    ],
)
def test_a_quick_run_judges_every_claim(name: str, fails: set[str], tmp_path: Path) -> None:
    study = studies.get(name)
    assert study.execute is not None
    study.execute(StudyContext(study=study, run=tmp_path, seed=0, steps=None, quick=True, device="cpu", backend="auto"))
    summary = read_summary(tmp_path)
    assert set(summary["prediction"]) - {""} == set(study.statements)
    assert set(summary.loc[summary["verdict"] == "fails", "prediction"]) == fails
    assert not summary["verdict"].isin(("unresolved", "not judged")).any()
    shown = presentation_of(study)
    (asked, *said), sections = shown.sentences(tmp_path), list(shown.sections(tmp_path))
    assert (
        "? " in asked and said[-1].startswith("Do the predictions hold? ") and "nan" not in " ".join(said) and sections
    )


def test_dynamic_scales_follow_the_libraries_they_are_named_after() -> None:
    scaler, ours = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=7), Torch(1, interval=7)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    deepspeed, grown = DeepSpeed(1, window=5), []
    for overflow in [step % 23 in (9, 10, 11) for step in range(100)]:
        scaler.scale(parameter * 0.0)  # makes its scale
        parameter.grad = torch.full((1,), math.inf if overflow else 1.0)
        scaler.step(optimizer)
        scaler.update()
        ours.update(np.array([overflow]))
        assert scaler.get_scale() == 2.0 ** int(ours.exponent[0])
        deepspeed.update(np.array([overflow]))
        grown.append(int(deepspeed.exponent[0]))
    # Five steps after the start it grows; of three overflows in a row the first is forgiven and the others halve.
    assert grown[:14] == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, -1, -1, -1]


def test_a_still_maximum_overflows_once_or_twice_after_every_growth() -> None:
    rates = skip_rates((Torch(1), DeepSpeed(1)), Wander(step=0.0), steps=10_005, chains=1, seed=0, burn_in=4_002)
    assert [float(rate[0]) * 10_005 for rate in rates] == [pytest.approx(5, abs=1e-6), pytest.approx(20, abs=1e-6)]
