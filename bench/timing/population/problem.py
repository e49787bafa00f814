"""One problem for everybody: initial parameters, samples, loss scales and hyperparameters from a fixed generator."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import kernels

NETWORK = kernels.NETWORKS["mlp-6-6-1"]
SEED = 11
SCALES = (1.0, 8.0, 1024.0, 2.0**-6, 3.7, 65536.0, 2.0**-20, 100.0)
"""Loss scales of the arms; some overflow float16."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a population trains on.

    Attributes:
        params: float32 [models, n]; the arms of a family are next to each other and start alike.
        data: float32 [steps, families, features].
        arms: models of a family.
    """

    params: Tensor
    data: Tensor
    arms: int

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


def problem(*, models: int, steps: int, arms: int = len(SCALES), device: str = "cpu") -> Problem:
    """A problem of these sizes; raw words of PCG64 alone decide it, whatever the versions."""
    families = models // arms
    drawn = _uniforms(SEED, families * NETWORK.parameters).reshape(families, -1)
    bound = 1 / np.sqrt(NETWORK.widths[0])
    params = np.repeat(((2 * drawn - 1) * bound).astype(np.float32), arms, 0)
    data = _uniforms(SEED + 1, steps * families * NETWORK.features).reshape(steps, families, -1)
    return Problem(
        params=torch.from_numpy(params).to(device),
        data=torch.from_numpy(data.astype(np.float32)).to(device),
        arms=arms,
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
