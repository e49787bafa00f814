"""Steps on gradients that a study writes itself: populations in a policy's formats, for laws of a single element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels import DTYPES, Population, get_algorithm

from ..design.policies import get_policy
from ..design.study import StudyContext


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """In which formats a step is taken, and whose rounding it has.

    Attributes:
        name: as studies speak of it.
        policy: preset: formats of parameters (and gradients) and of the state.
        recipe: ``foreach`` rounds to the parameters' format after every operation, ``fused`` only what it stores.
    """

    name: str
    policy: str
    recipe: str = "foreach"

    @property
    def params(self) -> torch.dtype:
        """The parameters' dtype, in which gradients come too."""
        return DTYPES[get_policy(self.policy).params].torch

    @property
    def state(self) -> torch.dtype:
        """The states' dtype."""
        return DTYPES[get_policy(self.policy).state].torch

    @property
    def cell(self) -> dict[str, Any]:
        """Its columns of a summary."""
        return {"policy": self.policy, "recipe": self.recipe}

    def population(
        self, context: StudyContext, algorithm: str, rows: Sequence[dict[str, Any]], elements: int
    ) -> Population:
        """A population with a model of ``elements`` parameters, all 0, for each row of hyperparameters."""
        make = get_algorithm(algorithm).hyperparameters
        params = torch.zeros(len(rows), elements, dtype=self.params, device=context.device)
        return Population(
            algorithm,
            [make(**row) for row in rows],
            params,
            recipe=self.recipe,
            backend=context.backend,
            state_dtype=self.state,
        )

    def grads(self, population: Population, values: Tensor) -> Tensor:
        """Gradients [models, elements] in the format that the population takes, on its device."""
        return values.to(population.params.device, self.params).expand(population.params.shape).contiguous()


FP32 = Arithmetic(name="float32", policy="fp32")
FP32_FUSED = Arithmetic(name="float32, fused", policy="fp32", recipe="fused")
BF16_STATE = Arithmetic(name="bfloat16 state", policy="bf16-state")
BF16 = Arithmetic(name="bfloat16", policy="bf16-true")
BF16_FUSED = Arithmetic(name="bfloat16, fused", policy="bf16-true", recipe="fused")
FP16_STATE = Arithmetic(name="float16 state", policy="fp16-state")
FP16 = Arithmetic(name="float16", policy="fp16-true")
FP16_FUSED = Arithmetic(name="float16, fused", policy="fp16-true", recipe="fused")


def step_from_zero(population: Population, grads: Tensor) -> Tensor:
    """[models, elements] float64: this step's update alone, its size rounded but no parameter's spacing in it.

    The parameters are 0 before the step, so that what they become is the update.
    """
    population.params.zero_()
    population.step(grads)
    return population.params.double().cpu()
