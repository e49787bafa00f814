"""The two scripts of the article behind this project, run again: same seed, model, draws, steps and factors.

The article asks whether dividing a loss by 10 equals dividing the learning rate by 10, and trains two copies of one
small network side by side. Its first script multiplies the loss of one copy by 10000 (Adam; SGD in its commented
lines); its second weights two losses. Everything starts from ``manual_seed(20)``, and every step draws an input and a
label. The draws are made on the CPU, whatever the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

import kernels

SEED: Final = 20
STEPS: Final = 20
FACTOR: Final = 10000.0
POWER: Final = 8192.0
"""The power of two nearest to the article's factor: with it, scaling rounds nothing."""
LR: Final = 0.01
EPS: Final = 1e-8
HEAD_WEIGHT: Final = 100.0

ARTICLE, TWO_HEADS = "mlp-6-6-1", "two-heads"
TORCH, OURS = "torch", "kernels"


class ArticleNet(nn.Module):
    """The article's network: the input squared, two Linear layers, and exp of a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The output [1, 1], for both losses, for x of [1, 6]."""
        output: Tensor = self.linear(x**2).exp()
        return output, output


class TwoHeadNet(ArticleNet):
    """The same trunk under two heads of their own, so that two losses do not cancel."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Sequential(nn.Linear(6, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Two outputs [1, 1] for x of [1, 6]."""
        trunk = self.linear[:2](x**2)
        return self.linear[2:](trunk).exp(), self.second(trunk).exp()


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two networks of an experiment: the loss is ``first * (label - out) + second * (label + out')``."""

    arm: str
    first: float = 1.0
    second: float = 0.0
    hyper: Mapping[str, float] = field(default_factory=lambda: {"lr": LR})


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Two networks trained side by side, as one of the scripts does or as a control beside it.

    Attributes:
        name: for tables.
        asks: what is compared, for people.
        optimizer: ``adam`` or ``sgd``.
        scale: the factor between the two.
        one, other: the networks; ``other`` is the article's second.
        network: ARTICLE or TWO_HEADS.
        published: whether the article has it; otherwise it is a control of ours.
        exact: whether both must end with the same bits.
    """

    name: str
    asks: str
    optimizer: str
    scale: float
    one: Side
    other: Side
    network: str = ARTICLE
    published: bool = True
    exact: bool = False


def _both(first: float, second: float) -> Side:
    return Side(arm=f"weights-{first:g}-{second:g}", first=first, second=second)


EXPERIMENTS: Final = (
    Experiment(
        name="adam",
        asks="Adam: loss × 10000 against the plain loss (first script)",
        optimizer="adam",
        scale=FACTOR,
        one=Side(arm="base"),
        other=Side(arm="loss", first=FACTOR),
    ),
    Experiment(
        name="adam-lr",
        asks="Adam: loss × 10000 with learning rate × 10000 against neither (first script, commented line)",
        optimizer="adam",
        scale=FACTOR,
        one=Side(arm="base"),
        other=Side(arm="loss-and-lr", first=FACTOR, hyper={"lr": LR * FACTOR}),
    ),
    Experiment(
        name="sgd",
        asks="SGD: loss × 10000 against learning rate × 10000 (first script, commented lines)",
        optimizer="sgd",
        scale=FACTOR,
        one=Side(arm="lr", hyper={"lr": LR * FACTOR}),
        other=Side(arm="loss", first=FACTOR),
    ),
    Experiment(
        name="sgd-2^13",
        asks="control: the same with 8192 = 2^13, where scaling rounds nothing",
        optimizer="sgd",
        scale=POWER,
        one=Side(arm="lr", hyper={"lr": LR * POWER}),
        other=Side(arm="loss", first=POWER),
        published=False,
        exact=True,
    ),
    Experiment(
        name="adam-mapped-2^13",
        asks="control: Adam with loss × 8192 and eps × 8192 against the plain loss",
        optimizer="adam",
        scale=POWER,
        one=Side(arm="base"),
        other=Side(arm="mapped", first=POWER, hyper={"lr": LR, "eps": EPS * POWER}),
        published=False,
        exact=True,
    ),
    Experiment(
        name="multi-task",
        asks="Adam: loss1 + 100 · loss2 against loss1 + loss2, one output (second script)",
        optimizer="adam",
        scale=HEAD_WEIGHT,
        one=_both(1.0, 1.0),
        other=_both(1.0, HEAD_WEIGHT),
    ),
    Experiment(
        name="two-heads",
        asks="control: loss1 + 100 · loss2 against loss1 + loss2, an output for each loss",
        optimizer="adam",
        scale=HEAD_WEIGHT,
        one=_both(1.0, 1.0),
        other=_both(1.0, HEAD_WEIGHT),
        network=TWO_HEADS,
        published=False,
    ),
    Experiment(
        name="two-heads-common",
        asks="control: 100 · loss1 + 100 · loss2 against loss1 + loss2, an output for each loss",
        optimizer="adam",
        scale=HEAD_WEIGHT,
        one=_both(1.0, 1.0),
        other=_both(HEAD_WEIGHT, HEAD_WEIGHT),
        network=TWO_HEADS,
        published=False,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network after training: all parameters in one row, before and after, float32 on the CPU."""

    initial: Tensor
    params: Tensor

    @property
    def first_layer(self) -> Tensor:
        """[6, 6], the weights that the article prints."""
        return self.params[:36].view(6, 6)

    @property
    def moved(self) -> float:
        """Euclidean distance from the initialisation."""
        return float((self.params.double() - self.initial.double()).norm())


def train(
    experiment: Experiment,
    library: str,
    *,
    recipe: str = "foreach",
    steps: int = STEPS,
    device: str = "cpu",
    backend: str = "auto",
) -> tuple[Trained, Trained]:
    """Run one experiment and leave the global random state as it was.

    Args:
        experiment: which.
        library: ``torch`` for torch.optim, ``kernels`` for this project's optimizers.
        recipe: ``foreach``, or ``cpu-fused``, which is ``fused=True`` for torch.
        steps: how many.
        device: where the networks live.
        backend: of this project's optimizers.
    """
    sides = (experiment.one, experiment.other)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        first = ArticleNet() if experiment.network == ARTICLE else TwoHeadNet()
        initial = _row(first)
        # The article saves the first network and loads it twice; a copy has the same weights too.
        networks = [first.to(device), deepcopy(first).to(device)]
        optimizers = [
            _optimizer(experiment.optimizer, library, recipe, network, side, backend)
            for network, side in zip(networks, sides, strict=True)
        ]
        for x, label in _draws(steps):
            for network, optimizer, side in zip(networks, optimizers, sides, strict=True):
                optimizer.zero_grad()
                _loss(network, x.to(device), label.to(device), side).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    one, other = (Trained(initial=initial, params=_row(network)) for network in networks)
    return one, other


def _draws(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Input [1, 6] and label [1] of every step, in the article's order."""
    for _ in range(steps):
        yield torch.rand(1, 6), torch.rand(1)


def _loss(network: ArticleNet, x: Tensor, label: Tensor, side: Side) -> Tensor:
    """The script's expression: the first is multiplied as the article writes it, whether or not the factor is 1."""
    first, second = network(x)
    loss: Tensor = (label - first) * side.first if side.first != 1.0 else label - first
    if side.second:
        loss = loss + side.second * (label + second)
    return loss


def _optimizer(
    name: str, library: str, recipe: str, network: nn.Module, side: Side, backend: str
) -> torch.optim.Optimizer:
    title = kernels.get_algorithm(name).title
    ours = library == OURS
    make: Callable[..., torch.optim.Optimizer] = getattr(kernels if ours else torch.optim, title)
    if ours:
        return make(network.parameters(), **side.hyper, recipe=recipe, backend=backend)
    return make(network.parameters(), **side.hyper, fused=True if recipe == "cpu-fused" else None)


def _row(network: nn.Module) -> Tensor:
    """[n] all parameters, in torch's order, on the CPU."""
    return torch.cat([parameter.detach().cpu().flatten() for parameter in network.parameters()])


def compare(a: Tensor, b: Tensor) -> dict[str, Any]:
    """identical, differing_elements, max_ulp and rel_distance (|a - b| / |b|) of two rows of parameters."""
    norm = float(b.double().norm())
    distance = float((a.double() - b.double()).norm())
    return {
        "identical": kernels.bits.mismatches(a, b) == 0,
        "differing_elements": kernels.bits.mismatches(a, b),
        "max_ulp": int(kernels.bits.ulp_distance(a, b).max()),
        "rel_distance": distance / norm if distance else 0.0,
    }
