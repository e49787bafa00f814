"""Arms of one network side by side, stepped by hand: for studies that change something between two steps.

What an arm does at which step stands in the study; here is what all of them share: initialisations, data, gradients,
the optimizer's step by `kernels.Population`, and comparisons of two arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from kernels import Population, bits

from ..models.data import Batch, Stream
from .start import one_ulp


class Trainable(Protocol):
    """A network in batched form, as `models.networks.Network` is one."""

    @property
    def parameters(self) -> int:
        """n, of one model."""

    def initial(self, seed: int, inits: Sequence[int]) -> Tensor:
        """[inits, n] float32."""

    def gradients(self, params: Tensor, batch: Batch, loss_scale: Tensor, out: Tensor) -> None:
        """Writes [models, n]; the loss scale is [models], or [models, losses] where there are several."""


class Arms:
    """A population whose models are initialisations × arms, the arms of one initialisation next to each other.

    Args:
        network: the models.
        algorithm: of the step, such as ``"adam"``.
        hyper: a record per arm.
        stream: the data, a batch per step and initialisation.
        seed: of the initialisations.
        inits: which initialisations.
        backend: of the step.
        recipe: whose rounding; None for the algorithm's default.
        moved_by_one_ulp: arms that begin a unit in the last place away.

    Attributes:
        population: parameters [inits · arms, n] and their states; whatever a study changes, it changes there.
        initial: where the models began.
    """

    def __init__(
        self,
        network: Trainable,
        algorithm: str,
        hyper: Sequence[Any],
        *,
        stream: Stream,
        seed: int,
        inits: Sequence[int],
        device: torch.device,
        backend: str = "auto",
        recipe: str | None = None,
        moved_by_one_ulp: Sequence[int] = (),
    ) -> None:
        self.arms = len(hyper)
        self._network, self._stream = network, stream
        drawn = network.initial(seed, inits)
        models = drawn.repeat_interleave(self.arms, 0)
        for arm in moved_by_one_ulp:
            models[arm :: self.arms] = one_ulp(drawn, seed, inits)
        self.initial = models.to(device)
        self.population = Population(
            algorithm, list(hyper) * len(inits), self.initial.clone(), recipe=recipe, backend=backend
        )
        self._grads = torch.empty_like(self.initial)

    @property
    def params(self) -> Tensor:
        """[inits · arms, n], as they stand."""
        return self.population.params

    def of(self, arm: int, tensor: Tensor | None = None) -> Tensor:
        """[inits, n]: an arm's rows, of the parameters or of another tensor of the population."""
        return (self.params if tensor is None else tensor)[arm :: self.arms]

    def gradients(self, step: int, loss_scale: Sequence[Any]) -> Tensor:
        """[inits · arms, n]: every arm's gradient, its loss (or each of its losses) multiplied by its own factor."""
        scale = torch.tensor(loss_scale, dtype=torch.float32, device=self.params.device)
        per_model = scale.repeat(len(self.params) // self.arms, *[1] * (scale.dim() - 1))
        self._network.gradients(self.params, self._stream.batch(step), per_model, self._grads)
        return self._grads

    def advance(self, steps: range, loss_scale: Sequence[Any]) -> None:
        """Plain training for these steps, counted from 1."""
        for step in steps:
            self.population.step(self.gradients(step, loss_scale))

    def go_on_from(self, other: Arms) -> None:
        """Take over where other arms of the same network and algorithm stand: parameters, states, steps."""
        self.params.copy_(other.params)
        for name, state in self.population.state.items():
            state.copy_(other.population.state[name])
        self.population.step_count = other.population.step_count

    def identical(self, arm: int, against: int, tensor: Tensor | None = None) -> Tensor:
        """[inits] bool: whether two arms agree in every bit."""
        return ~bits.mismatch_mask(self.of(arm, tensor), self.of(against, tensor)).any(1)

    def moved(self, arm: int) -> Tensor:
        """[inits] float64: |now − start| / |start|."""
        start = self.of(arm, self.initial).double()
        return _norm(self.of(arm).double() - start) / _norm(start)

    def distance(self, arm: int, against: int) -> Tensor:
        """[inits] float64: d = |arm − against| / |against − its start|."""
        other = self.of(against).double()
        return _norm(self.of(arm).double() - other) / _norm(other - self.of(against, self.initial).double())


def _norm(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return norms
