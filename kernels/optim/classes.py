"""The drop-in class of an algorithm: its constructor, its documentation and its place in pickles."""

from __future__ import annotations

import operator
from typing import Any

from ..algorithm import Algorithm
from .constructors import (
    bind_constructor,
    choose_recipe,
    constructor_signature,
    heed_groups,
    hyperparameters,
    switches,
)
from .optimizer import StepOptimizer


def make_optimizer(algorithm: Algorithm, *, module: str = "kernels") -> type[StepOptimizer]:
    """The drop-in class of an algorithm.

    Args:
        algorithm: from the registry.
        module: where the class will be found under its title; pickles refer to it.
    """
    signature = constructor_signature(algorithm)

    def __init__(self: StepOptimizer, *args: Any, **kwargs: Any) -> None:
        given = heed_groups(algorithm, bind_constructor(algorithm, signature, self, args, kwargs))
        name = choose_recipe(algorithm, given.recipe, given.values)
        hyperparameters(algorithm, given.values)
        defaults = {**given.values, **switches(algorithm.recipe(name), given.values)}
        StepOptimizer.__init__(
            self, given.params, defaults, recipe=name, backend=given.backend, master_weights=given.master_weights
        )

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__.__doc__ = f"As torch.optim.{algorithm.title}, plus ``recipe``, ``backend`` and ``master_weights``."
    recipes = "".join(f"\n    - ``{r.name}``: bit-identical to {r.equals}" for r in algorithm.recipes.values())
    doc = f"""Drop-in for torch.optim.{algorithm.title}: one launch a step.

    Recipes:{recipes}

    Parameters, gradients and states are float32, bfloat16 or float16 and are updated in place.

    Args:
        params: as torch takes them, with torch's hyperparameters and switches after them.
        recipe: whose rounding, instead of ``foreach``, ``fused`` and ``capturable``.
        backend: ``auto``, ``triton`` (CUDA), ``simd`` (CPU), ``interpreter`` or ``reference``.
        master_weights: keep a float32 master of every bfloat16 or float16 parameter, and float32 moments, in the state;
            the step updates the master and rounds it into the parameter.
    """
    return type(
        algorithm.title,
        (StepOptimizer,),
        {
            "__init__": __init__,
            "__doc__": doc,
            "__module__": module,
            "algorithm": algorithm,
            "values_of": staticmethod(operator.itemgetter(*algorithm.hyperparameter_names)),
            "_fixed": tuple(name for name in algorithm.hyperparameter_names if name not in signature.parameters),
        },
    )
