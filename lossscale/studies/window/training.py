"""Whole runs of many arms at once.

Arms of a family start alike, see the same samples and lie next to each other: tensors are [inits, arms, n].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import kernels

from ...design.policies import Policy
from ...engines.trainer import samples
from ...models.networks import get_network
from .cells import NETWORK


@dataclass(frozen=True, kw_only=True)
class Families:
    """Initialisations and their samples.

    Attributes:
        initial: [inits, n] float32.
        data: [steps + 1, inits, features]: of every step, and one more that nobody trains on.
    """

    initial: Tensor
    data: Tensor

    @property
    def steps(self) -> int:
        """How many there are to train on."""
        return len(self.data) - 1

    def first(self, inits: int) -> Families:
        """The first so many."""
        return Families(initial=self.initial[:inits], data=self.data[:, :inits].contiguous())


def families(seed: int, inits: int, steps: int) -> Families:
    """Initialisations 0, 1, … of a seed, each with samples of its own."""
    network = get_network(NETWORK)
    stream = network.stream(seed=seed, inits=range(inits), device=torch.device("cpu"))
    return Families(initial=network.initial(seed, range(inits)), data=samples(stream, range(1, steps + 2)))


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One model of every family.

    Attributes:
        hyper: its hyperparameters.
        scale: what its loss is multiplied by.
        base: index of the arm that it is compared with.
    """

    hyper: Any
    scale: float = 1.0
    base: int = 0


def with_eps(hyper: Any, eps: float) -> Any:
    """The record with another eps."""
    return dataclasses.replace(hyper, eps=eps)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How models are trained: what all arms share."""

    optimizer: str
    recipe: str
    policy: Policy
    backend: str = "auto"

    @property
    def algorithm(self) -> kernels.Algorithm:
        """From the registry."""
        return kernels.get_algorithm(self.optimizer)

    @property
    def smallest_gradient(self) -> float:
        """The smallest normal one, of the formats that it passes."""
        return max(kernels.DTYPES[name].smallest_normal for name in (self.policy.grads, self.policy.compute))

    @property
    def smallest_state(self) -> float:
        """The smallest normal moment."""
        return kernels.DTYPES[self.policy.state].smallest_normal


class Runs:
    """The arms of all families, trained side by side.

    Args:
        setting: what they share.
        given: families.
        arms: of every family.
        starts: [inits, arms, n] where they start; None for the initialisation.
    """

    def __init__(self, setting: Setting, given: Families, arms: Sequence[Arm], starts: Tensor | None = None) -> None:
        self.setting, self.given, self.arms = setting, given, arms
        drawn = given.initial.to(kernels.DTYPES[setting.policy.params].torch)
        self.initial = drawn
        self.shape = (len(drawn), len(arms), drawn.shape[1])
        first = drawn.unsqueeze(1).expand(self.shape) if starts is None else starts
        records = [arm.hyper for arm in arms]
        self.trainer = kernels.Trainer(
            setting.optimizer,
            records if len(set(records)) > 1 else records[:1],
            first.reshape(-1, self.shape[2]).clone(),
            network=NETWORK,
            policy=kernels.Policy(**vars(setting.policy)),
            recipe=setting.recipe,
            backend=setting.backend,
            loss_scale=[arm.scale for arm in arms],
        )

    @property
    def params(self) -> Tensor:
        """[inits, arms, n] now."""
        return self.trainer.params.view(self.shape)

    @property
    def state(self) -> dict[str, Tensor]:
        """[inits, arms, n] by torch's names."""
        return {name: tensor.view(self.shape) for name, tensor in self.trainer.state.items()}

    @property
    def second_moment(self) -> Tensor:
        """[inits, arms, n], the state of degree 2 that divides: the largest so far under AMSGrad."""
        degrees = self.setting.algorithm.degrees
        return [tensor for name, tensor in self.state.items() if degrees[name] == 2][-1]

    def to(self, step: int) -> None:
        """Train until so many steps are taken."""
        done = self.trainer.step_count
        if step > done:
            self.trainer.run(self.given.data[done:step])

    def step(self) -> Tensor:
        """Take one step; returns the gradients [inits, arms, n] that the optimizer was given."""
        done = self.trainer.step_count
        grads = self.trainer.run(self.given.data[done : done + 1], keep_gradients=True)
        assert grads is not None, "they were asked for"
        return grads[0].view(self.shape)

    def losses(self) -> Tensor:
        """[inits, arms] on the sample that nobody trains on."""
        return self.trainer.losses(self.given.data[-1]).view(self.shape[:2])
