"""Networks as ``torch.nn`` modules: a factory, a loss and a stream of data, by name.

Any module can be studied: an entry in `MODULES` is all that the module engine (`engines.module`) asks. The networks
that are written by hand for other engines (`networks`) are here too, with the same initialisations and data.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from ..support.errors import check_choice
from .data import SamplesFirst, Stream, words
from .networks import NETWORKS, Head, Network
from .transformer import TextStream, Transformer, text_digest

Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(outputs, targets)``: of one model, a number; outputs arrive in float32."""


@dataclass(frozen=True, kw_only=True)
class ModuleNetwork:
    """A module, what it is trained on, and how many train together.

    Attributes:
        name: as in the pairs files.
        make: ``make()``: a new module on the CPU, in float32, drawn from torch's default generator, which is seeded for
            each initialisation.
        loss: from one model's outputs, in float32, and its targets to a number.
        stream: ``stream(seed=…, inits=…, device=…)``: its data; inputs [families, …] of which one model takes […].
        draw: ``draw(seed, inits)``: initial parameters [inits, n] in place of those that ``make`` draws, float32 in
            the order of ``module.parameters()``.
        together: models per call: their forward and backward are one batch. Every call has this size (the last is
            filled up), since a batch's size and what is left over after whole vectors decide bits; 64 leaves nothing
            over, whatever the module. Wide modules can do with fewer, which stay in cache.
        data_digest: of data that come from outside the repository and the packages whose versions a run compares.
    """

    name: str
    make: Callable[[], nn.Module]
    loss: Loss
    stream: Callable[..., Stream]
    draw: Callable[[int, Sequence[int]], Tensor] | None = None
    together: int = 64
    data_digest: Callable[[], str] | None = None

    def __post_init__(self) -> None:
        if self.together < 1:
            raise ValueError(f"network {self.name}: together is {self.together}; give the models of a call, 1 or more")

    def built(self, seed: int, init: int) -> nn.Module:
        """The module of one initialisation; torch's generator is left as it was."""
        with torch.random.fork_rng(devices=()), torch.device("cpu"):
            torch.manual_seed(int(words(seed, f"{self.name}/module", init, 1)[0] >> 1))
            module = self.make()
        if self.draw is not None:
            nn.utils.vector_to_parameters(self.draw(seed, [init])[0], module.parameters())
        return module.train()

    @property
    def parameters(self) -> int:
        """n, the number of trained parameters of one model."""
        return _parameters(self)


@functools.cache
def _parameters(network: ModuleNetwork) -> int:
    return sum(p.numel() for p in network.built(0, 0).parameters() if p.requires_grad)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of outputs […, classes] against classes […], int64."""
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


class Square(nn.Module):
    """x²."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return x * x


def module_of(network: Network) -> nn.Sequential:
    """A hand-batched network as its users would write it."""
    layers: list[nn.Module] = [Square()] if network.squares_input else []
    for inputs, outputs in itertools.pairwise(network.widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _by_head(head: Head) -> Loss:
    """The loss of a hand-batched network, for autograd, from outputs and targets [samples, outputs]."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return head.loss(outputs.t().unsqueeze(0), targets.t().unsqueeze(0)).squeeze(0)

    return loss


def by_hand(network: Network) -> ModuleNetwork:
    """The entry of a hand-batched network."""

    def stream(*, seed: int, inits: Sequence[int], device: torch.device) -> Stream:
        return SamplesFirst(network.stream(seed=seed, inits=inits, device=device))

    return ModuleNetwork(
        name=network.name,
        make=lambda: module_of(network),
        loss=_by_head(network.head),
        stream=stream,
        draw=network.initial,
    )


TRANSFORMER: Final = ModuleNetwork(
    name="char-transformer",
    make=Transformer,
    loss=cross_entropy,
    stream=TextStream,
    together=8,
    data_digest=text_digest,
)

MODULES: Final[dict[str, ModuleNetwork]] = {
    entry.name: entry for entry in (*map(by_hand, NETWORKS.values()), TRANSFORMER)
}
"""Every network, by name. A new module is an entry here."""


def get_module(name: str) -> ModuleNetwork:
    """The network of that name; InputError if there is none."""
    return MODULES[check_choice("network", name, MODULES)]


def data_digests(networks: Sequence[str]) -> dict[str, str]:
    """Digests of the networks' data that come from outside, by name."""
    entries = (MODULES[name] for name in networks if name in MODULES)
    return {f"data of {entry.name}": entry.data_digest() for entry in entries if entry.data_digest is not None}
