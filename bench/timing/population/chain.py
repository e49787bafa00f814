"""The chain of proof: the trainer's own gradients, replayed through torch.optim, lead to the trainer's bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import kernels

from .problem import SCALES, problem, records


@dataclass(frozen=True, kw_only=True)
class Link:
    """A run and the torch optimizer that repeats it.

    Attributes:
        algorithm, recipe, policy: of the trainer.
        keywords: of torch's class, which choose the implementation.
        options: of the hyperparameters.
    """

    algorithm: str
    recipe: str
    policy: str = "fp32"
    keywords: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """In words."""
        return " ".join([self.policy, self.algorithm, self.recipe, *(f"{k}={v}" for k, v in self.options.items())])


def links(device: str) -> Iterator[Link]:
    """What torch has on this device with our bits: foreach and fused on CUDA; on a CPU fused, and SGD in all."""
    if device == "cpu":
        for algorithm in ("adam", "adamw", "sgd", "adagrad"):
            yield Link(algorithm=algorithm, recipe="cpu-fused", keywords={"fused": True})
        yield Link(algorithm="sgd", recipe="cpu-fused", keywords={"fused": True}, options={"momentum": 0.9})
        yield Link(algorithm="sgd", recipe="foreach", keywords={"foreach": True}, options={"momentum": 0.9})
        return
    for policy in ("fp32", "bf16-true"):
        for algorithm in ("adam", "adamw", "sgd", "rmsprop", "adagrad"):
            yield Link(algorithm=algorithm, recipe="foreach", policy=policy, keywords={"foreach": True})
        for algorithm in ("adam", "adamw", "sgd"):
            yield Link(algorithm=algorithm, recipe="fused", policy=policy, keywords={"fused": True})
        momentum = {"momentum": 0.9}
        yield Link(algorithm="sgd", recipe="foreach", policy=policy, keywords={"foreach": True}, options=momentum)


def replay(link: Link, device: str, *, models: int = 1024, steps: int = 200, spoilt: bool = False) -> dict[str, Any]:
    """Train, then give torch.optim the same gradients: a row with the number of differing bits.

    Where it is ``spoilt`` the first model has a NaN, and takes two passes.
    torch takes one tensor per arm, all of its models' parameters together, and a group with the arm's learning rate.
    """
    given = problem(models=models, steps=steps, device=device)
    arms = len(SCALES)
    formats = kernels.POLICIES[link.policy]
    params = given.params.to(formats.dtype("params")).clone()
    if spoilt:
        params[0, 0] = float("nan")
    theirs = [params[arm::arms].clone().requires_grad_() for arm in range(arms)]
    hypers = records(link.algorithm, arms, **link.options)
    trainer = kernels.Trainer(link.algorithm, hypers, params, policy=link.policy, recipe=link.recipe, loss_scale=SCALES)
    grads = trainer.run(given.data, keep_gradients=True)
    assert grads is not None
    groups = [{"params": [p], "lr": hyper.lr} for p, hyper in zip(theirs, hypers, strict=True)]
    title = kernels.get_algorithm(link.algorithm).title
    optimizer = getattr(torch.optim, title)(groups, **link.options, **link.keywords)
    for seen in grads:
        for arm, p in enumerate(theirs):
            p.grad = seen[arm::arms].contiguous()
        optimizer.step()
    differing = {"params": 0, **dict.fromkeys(trainer.state, 0)}
    for arm, p in enumerate(theirs):
        differing["params"] += kernels.bits.mismatches(params[arm::arms], p.detach())
        for name, state in trainer.state.items():
            differing[name] += kernels.bits.mismatches(state[arm::arms], optimizer.state[p][name])
    moved = float((params.float() - given.params).abs().nanmean())
    return {
        "link": link.name,
        "models": models,
        "steps": steps,
        "differing": differing,
        "mean_move": moved,
        "outcome": "differs" if any(differing.values()) else "equal",
    }
