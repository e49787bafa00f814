"""Our engines as peers: the trainer, the population step on other gradients, and the engines of paired runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import kernels
import lossscale

from .peers import Peer, records
from .problem import Problem
from .torch_peers import gradient_function

MODULE_MODELS: Final = 512
"""Models of the module engine: it takes 64 a call, whatever their number."""


def ours(backend: str) -> Iterator[Peer]:
    """Every engine that trains this network, the fastest first."""

    def trainer(given: Problem, own: bool) -> Callable[[], Any]:
        params = given.params.clone()
        every = records(given)
        run = kernels.Trainer(
            "adam",
            every if own else every[: given.arms],
            params,
            network=given.network,
            loss_scale=given.loss_scale,
            backend=backend,
        )

        def train() -> Any:
            run.restart(given.params)
            run.run(given.data)
            return params

        return train

    yield Peer(provider="ours", engine=f"trainer, {backend}", make=lambda given: trainer(given, False), early=True)
    yield Peer(
        provider="ours",
        engine=f"trainer, {backend}, hyperparameters per model",
        make=lambda given: trainer(given, True),
        early=True,
    )
    step = "auto" if backend in ("auto", "triton") else backend
    yield Peer(
        provider="ours",
        engine="population step + torch.func",
        make=lambda given: _population_step(given, step),
    )
    for engine, most in (("batched", None), ("module", MODULE_MODELS)):
        yield Peer(
            provider="ours",
            engine=f"{engine} engine",
            make=lambda given, engine=engine: _engine(given, engine),  # type: ignore[misc]
            most=most,
        )


def _population_step(given: Problem, backend: str) -> Callable[[], Any]:
    """`kernels.Population` on gradients that torch.func forms of the flat parameters."""
    gradient = gradient_function(given)

    def train() -> Any:
        params = given.params.clone()
        population = kernels.Population("adam", records(given), params, backend=backend)
        for sample in given.data:
            population.step(gradient(params, sample))
        return params

    return train


def _engine(given: Problem, engine: str) -> Callable[[], Any]:
    return lossscale.given_run(
        engine,
        given.network.widths,
        given.params,
        given.data,
        algorithm="adam",
        hyperparameters=records(given),
        loss_scale=given.loss_scale,
    )
