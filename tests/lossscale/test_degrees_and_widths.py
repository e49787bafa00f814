"""SGD's decay, an eps inside the root, wide networks, cut batches and scales: the parts of the studies, small."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels import get_algorithm
from lossscale import studies
from lossscale.analysis.judging import Lines
from lossscale.design.study import StudyContext
from lossscale.engines.scaler import Growth
from lossscale.runs.controls import pair_lines
from lossscale.studies.bf16_ratchet import batches
from lossscale.studies.epsilon_law import widths
from lossscale.studies.exactness import degrees
from lossscale.studies.grad_scaler import script as grad_scaler
from lossscale.studies.mid_run.script import _arms


def context(name: str) -> StudyContext:
    study = studies.get(name)
    return StudyContext(study=study, run=Path(), seed=3, steps=None, quick=True, device="cpu", backend="auto")


def test_an_eps_inside_the_root_has_degree_2_and_no_other() -> None:
    assert not degrees.inside_root(3, 2.0**10, 2.0**20).any()
    assert degrees.inside_root(3, 2.0**10, 2.0**10).double().mean() > 0.99
    assert degrees.inside_root(3, 3.0, 9.0).any(), "3 is no power of two"


def test_loss_times_s_is_lr_times_s_only_with_the_decay_mapped() -> None:
    lines = Lines(studies.get("exactness"))
    degrees.judge_decay(lines, context("exactness"))
    found = {(row["arm"], row["scale"]): (row["measured"], row["verdict"]) for row in lines._rows}
    assert found == {
        (arm, scale): (share, "holds")
        for arm, share in (("loss", 0.0), ("loss, decay mapped", 1.0))
        for scale in (2.0**-4, 2.0**4)
    }


@pytest.mark.parametrize("copies", [1, 4])
def test_gradients_of_a_mean_over_units_are_autograds(copies: int) -> None:
    generator = torch.Generator().manual_seed(1)
    params = widths.drawn(generator, 3, 8).expand(-1, copies, -1, -1).clone()
    params[..., widths.FEATURES] = torch.randn(3, copies, 8, generator=generator)
    inputs = 2.0 * torch.rand(3, 4, widths.FEATURES, generator=generator) - 1.0
    leaf, x = params.double().requires_grad_(), inputs.double()
    before = torch.einsum("icuf,isf->iscu", leaf[..., : widths.FEATURES], x) + leaf[:, None, ..., widths.FEATURES]
    mean = (leaf[:, None, ..., -1] * before.relu()).mean(dim=(2, 3))
    (0.5 * (mean - 1.0 - x[..., 0] * x[..., 1]) ** 2).mean(1).sum().backward()
    assert leaf.grad is not None
    assert (widths.gradients(params, inputs).double() - leaf.grad).abs().max() < 1e-7


def test_a_network_of_copies_is_the_one_it_copies_under_eps_over_c_alone() -> None:
    base = widths.Wide(context("epsilon-law"), 8, 8, 1, 2.0**-6)
    copied, left = (widths.Wide(context("epsilon-law"), 8, 8, 4, eps) for eps in (2.0**-8, 2.0**-6))
    for wide in (base, copied, left):
        wide.advance(20)
    assert torch.equal(copied.params, base.params.expand_as(copied.params))
    assert not torch.equal(left.params, base.params.expand_as(left.params))
    assert torch.equal(copied.eps_share(), copied.eps_share().clamp(0.0, 1.0))
    assert (left.eps_share() > copied.eps_share()).all()


def test_a_cut_batch_averages_over_as_many_samples() -> None:
    row = batches.cut(0.95, 16)
    assert row.beta2**16 == pytest.approx(0.95) and row.sigma == 4.0 and row.falls_to == 0.1
    for beta2, parts in batches.EXPECTED.items():
        assert beta2 ** (1 / parts) > 1 - 2.0**-8 > beta2 ** (2 / parts), "the first power of two beyond the border"
        assert parts in batches.CUTS[beta2] and parts // 2 in batches.CUTS[beta2]


def test_only_powers_of_two_leave_the_bits_of_training_without_a_scale() -> None:
    for backoff, same in ((0.5, True), (1 / 3, False)):
        scaling = grad_scaler.Scaling(initial=2.0**24, growth=Growth(interval=100, backoff=backoff))
        skips: list[torch.Tensor] = []
        one = grad_scaler.train(context("grad-scaler"), "sgd", range(4), (1.0,), scaling, skips=skips)
        other = grad_scaler.train(context("grad-scaler"), "sgd", range(4), (1.0,), None, skips=skips)
        assert torch.stack(skips).sum(0).min() > 3, "every network began with steps that overflow"
        assert torch.equal(one.params, other.params) == same


def test_a_scripts_arm_has_the_lines_of_a_grids_pairs() -> None:
    study, device = studies.get("mid-run"), torch.device("cpu")
    record = get_algorithm("adam").hyperparameters(lr=0.01)
    arms = _arms(context("mid-run"), device, range(8), "adam", [record] * 6)
    still, lines = Lines(study), Lines(study)
    pair_lines(still, arms, 5, arm="floor", scale=3.0)
    assert [row["verdict"] for row in still._rows if row["prediction"]] == ["not judged"], "nothing has moved"
    arms.advance(range(1, 4), [1.0, 1.0, 1.0, 1.0, 1.0, 3.0])
    pair_lines(lines, arms, 5, arm="floor", scale=3.0)
    rows = {row["quantity"]: row for row in lines._rows}
    apart, way = arms.of(5).double() - arms.of(0).double(), arms.of(0).double() - arms.of(0, arms.initial).double()
    d = (apart.norm(dim=1) / way.norm(dim=1)).numpy()
    assert rows["q99_distance_over_moved"]["measured"] == d.max() and rows["q99_distance_over_moved"]["pairs"] == 8
    assert rows["median_distance_over_moved"]["measured"] == pytest.approx(np.median(d), rel=1e-12)
    size = arms.of(0).double().norm(dim=1).numpy()
    rel = np.median(apart.norm(dim=1).numpy() / size)
    assert rows["median_rel_distance"]["measured"] == pytest.approx(rel, rel=1e-12)
    assert rows["identical_share"]["measured"] == 0.0 and not math.isnan(rows["moved"]["measured"])
    assert {row["against"] for row in lines._rows} == {"base"}
