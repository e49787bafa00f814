"""The article's two scripts: the same numbers as a literal copy, and what the study says about them."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from lossscale.analysis.judging import Lines
from lossscale.design.study import StudyContext
from lossscale.design.verdicts import COLUMNS
from lossscale.report.neutral import presentation_of
from lossscale.runs.summary import failed_predictions, read_summary
from lossscale.studies import get
from lossscale.studies.origin import EXACT, article

PRESENTED = presentation_of(get("origin"))
BY_NAME = {experiment.name: experiment for experiment in article.EXPERIMENTS}


def _script(kind: type[torch.optim.Optimizer], one: dict[str, float], other: dict[str, float]) -> list[torch.Tensor]:
    """The first script in plain torch: first-layer weights of both networks after 20 steps."""
    torch.manual_seed(20)
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1), nn.Sigmoid())
    networks = [network, deepcopy(network)]
    optimizers = [kind(network.parameters(), **hyper) for network, hyper in zip(networks, (one, other), strict=True)]
    for _ in range(20):
        x, label = torch.rand(1, 6), torch.rand(1)
        for network, optimizer, factor in zip(networks, optimizers, (None, 10000), strict=True):
            loss = label - network(x**2).exp()
            loss = loss if factor is None else loss * factor
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [network[0].weight.detach() for network in networks]


@pytest.mark.parametrize(
    ("name", "kind", "one", "other"),
    [
        ("adam", torch.optim.Adam, {"lr": 0.01}, {"lr": 0.01}),
        ("adam-lr", torch.optim.Adam, {"lr": 0.01}, {"lr": 0.01 * 10000}),
        ("sgd", torch.optim.SGD, {"lr": 0.01 * 10000}, {"lr": 0.01}),
    ],
)
def test_torch_runs_are_the_published_script(
    name: str, kind: type[torch.optim.Optimizer], one: dict[str, float], other: dict[str, float]
) -> None:
    published = _script(kind, one, other)
    ours = article.train(BY_NAME[name], article.TORCH)
    for weights, trained in zip(published, ours, strict=True):
        assert torch.equal(weights, trained.first_layer)


def test_training_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    article.train(BY_NAME["adam"], article.TORCH, steps=1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_equal_weights_give_no_gradient_and_two_heads_do() -> None:
    for library in (article.TORCH, article.OURS):
        still, moving = article.train(BY_NAME["multi-task"], library)
        assert still.moved == 0.0 and moving.moved > 0.1
        one, other = article.train(BY_NAME["two-heads"], library)
        assert one.moved > 0.1 and other.moved > 0.1
        assert article.compare(other.params, one.params)["rel_distance"] > 0.1
        one, common = article.train(BY_NAME["two-heads-common"], library)
        assert article.compare(common.params, one.params)["rel_distance"] < 1e-3


def test_powers_of_two_give_the_same_bits_with_both_libraries() -> None:
    for experiment in (BY_NAME["sgd-2^13"], BY_NAME["adam-mapped-2^13"]):
        for library in (article.TORCH, article.OURS):
            one, other = article.train(experiment, library)
            assert one.moved > 0.1
            assert article.compare(other.params, one.params)["identical"], (experiment.name, library)


def test_the_study_writes_its_files_and_says_what_happened(tmp_path: Path) -> None:
    study = get("origin")
    assert study.grid is None and study.execute is not None
    study.execute(
        StudyContext(study=study, run=tmp_path, seed=0, steps=None, quick=False, device="cpu", backend="auto")
    )
    summary = read_summary(tmp_path)
    assert list(summary.columns) == list(COLUMNS)
    key = ["network", "optimizer", "options", "recipe", "policy", "arm", "against", "scale", "step", "quantity"]
    assert not summary.duplicated(key).any()
    assert failed_predictions(tmp_path) == []
    judged = summary[summary["verdict"] == "holds"]
    # Judged: SGD against torch (4 networks), the pairs that must be exact, and the loss that cancels.
    assert set(judged["quantity"]) == {"identical_share", "moved", "q99_distance_over_moved"}
    against_torch = judged[judged["against"].str.startswith("torch-")]
    assert set(against_torch["optimizer"]) == {"sgd"} and len(against_torch) == 4
    rows = {row["experiment"]: row for row in PRESENTED.table(tmp_path)}
    assert rows["adam"]["result"] == rows["sgd"]["result"] == "nearly the same"
    assert (
        rows["multi-task"]["result"] == "one never moved: its gradient is 0" and rows["multi-task"]["moved_one"] == 0.0
    )
    assert rows["sgd"]["ours_against_torch"] == "same bits"
    assert "ulp" in rows["adam"]["ours_against_torch"]
    answer = " ".join(PRESENTED.sentences(tmp_path))
    assert "Under SGD yes: at s = 10000 the article's two networks end 8.8e-08 of their size apart" in answer
    assert "at s = 2^13 with the same bits" in answer and "every gradient is 0" in answer
    titles, _, bodies = zip(*PRESENTED.sections(tmp_path), strict=True)
    assert len(titles) == 1 + len(article.EXPERIMENTS)
    page = " ".join(bodies)
    assert "never moves" in page and "the output cancels" in page
    assert page.count("<pre>") == 2 * len(article.EXPERIMENTS)


def test_a_prediction_that_fails_is_recorded_as_failing() -> None:
    one, other = article.train(BY_NAME["sgd"], article.TORCH)
    found = article.compare(other.params, one.params)
    assert not found["identical"] and found["differing_elements"] > 0 and found["max_ulp"] > 0
    assert Lines(get("origin")).add("identical_share", float(found["identical"]), EXACT, arm="loss") == "fails"
