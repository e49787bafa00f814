"""One problem for everybody: initial parameters, samples, loss scales and hyperparameters from a fixed generator."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

import kernels

NETWORK = kernels.NETWORKS["mlp-6-6-1"]
SEED = 11
LR: Final = 1e-3
EPS: Final = 1e-8
TIMED_SCALES: Final = tuple(2.0 ** (k - 4) for k in range(8))
"""Loss scales of the arms where peers are timed."""
SCALES = (1.0, 8.0, 1024.0, 2.0**-6, 3.7, 65536.0, 2.0**-20, 100.0)
"""Loss scales of the arms; some overflow float16."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a population trains on.

    Attributes:
        params: float32 [models, n]; the arms of a family are next to each other and start alike.
        data: float32 [steps, families, features].
        arms: models of a family.
        network: of every model.
        shared: whether all models have one learning rate and one eps, for who cannot do otherwise.
    """

    params: Tensor
    data: Tensor
    arms: int
    network: kernels.Network = NETWORK
    shared: bool = False

    @property
    def models(self) -> int:
        """How many."""
        return len(self.params)

    @property
    def families(self) -> int:
        """How many."""
        return len(self.params) // self.arms

    @property
    def steps(self) -> int:
        """How many."""
        return len(self.data)

    @property
    def hidden(self) -> int:
        """Width of the hidden layer."""
        return self.network.widths[1]

    @property
    def loss_scale(self) -> tuple[float, ...]:
        """Of every arm."""
        return TIMED_SCALES[: self.arms]

    @property
    def lr(self) -> list[float]:
        """Of every model; the arms' differ by eighths."""
        own = 0.0 if self.shared else 1 / 8
        return [LR * (1 + own * arm) for arm in range(self.arms)] * self.families

    @property
    def eps(self) -> list[float]:
        """Of every model, none like another, by so little that results agree with those of equal ones."""
        own = 0.0 if self.shared else 1e-3 / self.models
        return [EPS * (1 + own * model) for model in range(self.models)]

    def first(self, models: int) -> Problem:
        """The same of its first models, as many whole families as they hold."""
        families = min(self.families, max(1, models // self.arms))
        return dataclasses.replace(
            self, params=self.params[: families * self.arms], data=self.data[:, :families].contiguous()
        )

    def alike(self) -> Problem:
        """The same with one learning rate and one eps."""
        return dataclasses.replace(self, shared=True)


def of_width(hidden: int) -> kernels.Network:
    """The article's network with that many hidden units."""
    widths = (NETWORK.widths[0], hidden, NETWORK.widths[2])
    return dataclasses.replace(NETWORK, name="-".join(map(str, ("mlp", *widths))), widths=widths)


def problem(
    *,
    models: int,
    steps: int,
    arms: int = len(SCALES),
    device: str = "cpu",
    network: kernels.Network = NETWORK,
) -> Problem:
    """A problem of these sizes; raw words of PCG64 alone decide it, whatever the versions."""
    families = models // arms
    drawn = _uniforms(SEED, families * network.parameters).reshape(families, -1)
    bound = 1 / np.sqrt(network.widths[0])
    params = np.repeat(((2 * drawn - 1) * bound).astype(np.float32), arms, 0)
    data = _uniforms(SEED + 1, steps * families * network.features).reshape(steps, families, -1)
    return Problem(
        params=torch.from_numpy(params).to(device),
        data=torch.from_numpy(data.astype(np.float32)).to(device),
        arms=arms,
        network=network,
    )


def _uniforms(seed: int, count: int) -> np.ndarray:
    """float64 in [0, 1)."""
    return (np.random.PCG64(seed).random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def records(algorithm: str, count: int, **options: Any) -> list[Any]:
    """Hyperparameters of so many arms: the learning rates differ, the rest is torch's default or an option."""
    make = kernels.get_algorithm(algorithm).hyperparameters
    return [make(lr=2.0**-7 * (1 + k / 8), **options) for k in range(count)]


def digest(tensor: Tensor) -> str:
    """Hash of a tensor's bits, every NaN alike."""
    canonical = torch.where(tensor.isnan(), torch.full_like(tensor, torch.nan), tensor).cpu().contiguous()
    return hashlib.sha256(kernels.bits.bit_view(canonical).numpy().tobytes()).hexdigest()[:16]
