"""Ways to train a population: what one is, how it is timed, and whether it computes what ours does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

import kernels

from .problem import Problem

REPEATS: Final = 3
TOLERANCE: Final = 1e-3
"""How far final losses may lie apart, relative: a peer that computes something else is refused."""
PER_MODEL: Final = ("s", "eps", "lr")
"""What every model may have of its own."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One way to train a population.

    Attributes:
        provider, engine: for the table.
        make: of a problem, a function that trains from the start and gives the parameters [models, n].
        own: what it can have per model; the rest is one number for all.
        most: models of the largest population that it is asked to train; None for any.
        early: whether it is timed before the others, at every size.
        missing: why it cannot take part; empty where it can.
    """

    provider: str
    engine: str
    make: Callable[[Problem], Callable[[], Any]]
    own: tuple[str, ...] = PER_MODEL
    most: int | None = None
    early: bool = False
    missing: str = ""

    @property
    def name(self) -> str:
        """For lists."""
        return f"{self.provider}, {self.engine}"

    def given(self, whole: Problem) -> Problem:
        """What it trains of a problem: as many models as it is asked to, with what it can have of their own."""
        part = whole if self.most is None else whole.first(self.most)
        return part if self.own == PER_MODEL else part.alike()


def time_peer(peer: Peer, whole: Problem, *, repeats: int = REPEATS, first_s: float = 0.0) -> dict[str, Any]:
    """A row: the fastest of some runs, and the final loss.

    Args:
        peer: who.
        whole: on what.
        repeats: runs after the first.
        first_s: what an earlier first run took. Compilation is in the longer of the two, which the row has.
    """
    given = peer.given(whole)
    device = given.params.device
    row = {
        "provider": peer.provider,
        "engine": peer.engine,
        "device": _device_name(peer, device),
        "network": given.network.name,
        "optimizer": "Adam",
        "policy": "fp32",
        "models": given.models,
        "steps": given.steps,
        "per_model": ", ".join(peer.own),
    }
    if peer.missing:
        return {
            **row,
            "us_per_model_step": None,
            "final_loss": None,
            "outcome": "not installed",
            "reason": peer.missing,
        }
    began = time.perf_counter()
    run = peer.make(given)
    result = run()
    _wait(device)
    first_s = max(first_s, time.perf_counter() - began)
    wall, cpu = [], []
    for _ in range(repeats):
        _wait(device)
        began, worked = time.perf_counter(), time.process_time()
        result = run()
        _wait(device)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - worked)
    params = (result() if callable(result) else result).to(device)
    per = 1e6 / given.models / given.steps
    return {
        **row,
        "us_per_model_step": min(wall) * per,
        "cpu_us_per_model_step": min(cpu) * per,
        "samples_us": [sample * per for sample in wall],
        "first_s": first_s,
        "final_loss": float(final_losses(params, given).mean()),
    }


def agree(peer: Peer, whole: Problem) -> dict[str, Any]:
    """A row: a peer's final losses beside those of ours on the same models, and whether it may be timed.

    Losses of this network lie on both sides of 0, so a model's difference is taken relative to the mean size of a loss.
    The mean must agree, and so must all but one model in a hundred: where a hidden unit's input is next to 0, rounding
    alone decides whether it passes.
    """
    given = peer.given(whole)
    row = {"provider": peer.provider, "engine": peer.engine, "models": given.models, "steps": given.steps}
    if peer.missing:
        return {**row, "outcome": "not installed", "reason": peer.missing}
    began = time.perf_counter()
    result = peer.make(given)()
    _wait(given.params.device)
    first_s = time.perf_counter() - began
    theirs = final_losses((result() if callable(result) else result).to(given.params.device), given)
    ours = final_losses(_reference(given), given)
    size = float(ours.abs().mean())
    apart = (theirs - ours).abs() / size
    mean = abs(float(theirs.mean() - ours.mean())) / size
    most = float(apart.quantile(0.99))
    agrees = mean <= TOLERANCE and most <= TOLERANCE  # not where either is NaN
    return {
        **row,
        "first_s": first_s,
        "final_loss": float(theirs.mean()),
        "reference_loss": float(ours.mean()),
        "relative_difference": mean,
        "relative_difference_of_99_percent": most,
        "outcome": "agrees" if agrees else "refused",
    }


def _reference(given: Problem) -> Any:
    """Parameters after training: a Population's steps on the gradients of `kernels`' tensor operations."""
    params = given.params.clone()
    trainer = kernels.Trainer(
        "adam",
        records(given),
        params,
        network=given.network,
        loss_scale=given.loss_scale,
        backend="reference",
    )
    trainer.run(given.data)
    return params


def records(given: Problem) -> list[Any]:
    """Adam's hyperparameters of every model."""
    make = kernels.get_algorithm("adam").hyperparameters
    return [make(lr=lr, eps=eps) for lr, eps in zip(given.lr, given.eps, strict=True)]


def final_losses(params: Any, given: Problem) -> torch.Tensor:
    """[models] float64: every model's loss on the last sample."""
    sample = given.data[-1].repeat_interleave(given.arms, 0).double()
    p, inputs, width = params.double(), given.network.widths[0], given.hidden
    weights, rest = p[:, : width * inputs].view(-1, width, inputs), p[:, width * inputs :]
    hidden = torch.relu((weights @ sample[:, :inputs, None].square()).squeeze(2) + rest[:, :width])
    z = (rest[:, width:-1] * hidden).sum(1) + rest[:, -1]
    return sample[:, inputs] - torch.sigmoid(z).exp()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _device_name(peer: Peer, device: torch.device) -> str:
    if peer.provider == "jax" and not peer.missing:
        import jax

        return str(jax.default_backend())
    return device.type
