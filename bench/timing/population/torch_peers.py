"""The same training by torch alone: torch.func and torch.optim, TabPack's packed optimizer, a loop over models."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch

from .peers import Peer
from .problem import EPS, LR, Problem

LOOP_MODELS: Final = 8
"""Models that the plain loop is asked to train: it takes as long for each."""
TABPACK: Final = "tabpack-paper"
"""The distribution that TabPack's repository makes, whose module `project.optim` has the packed optimizers."""


def torch_peers() -> Iterator[Peer]:
    """Everybody."""
    for name in ("foreach", "fused"):
        yield Peer(
            provider="torch",
            engine=f"torch.func.vmap + {name}",
            make=lambda given, name=name: _torch_func(given, {name: True}),  # type: ignore[misc]
            own=("s",),
            early=True,
        )
    yield Peer(provider="tabpack", engine="torch.func.vmap + AdamWPack", make=_tabpack, missing=tabpack_missing())
    yield Peer(provider="torch", engine="loop over models", make=_loop, most=LOOP_MODELS)


def _shapes(given: Problem) -> tuple[tuple[int, ...], ...]:
    """Of a model's tensors."""
    inputs, width, _ = given.network.widths
    return ((width, inputs), (width,), (1, width), (1,))


def _pieces(given: Problem) -> list[torch.Tensor]:
    """The parameters as stacked tensors of their own."""
    shapes = _shapes(given)
    ends = [0, *itertools.accumulate(torch.Size(shape).numel() for shape in shapes)]
    return [
        given.params[:, a:b].reshape(-1, *shape).clone()
        for (a, b), shape in zip(itertools.pairwise(ends), shapes, strict=True)
    ]


def _loss(params: Any, sample: Any, scale: Any) -> Any:
    """Of one model."""
    w1, b1, w2, b2 = params
    inputs = w1.shape[1]
    hidden = torch.relu(w1 @ sample[:inputs].square() + b1)
    return (scale * (sample[inputs:] - torch.sigmoid(w2 @ hidden + b2).exp())).squeeze()


def gradient_function(given: Problem) -> Callable[[Any, Any], Any]:
    """``gradient(params, sample)``: [models, n] of flat parameters [models, n] and a sample [families, features]."""
    shapes = _shapes(given)
    sizes = [torch.Size(shape).numel() for shape in shapes]
    scale = torch.tensor(given.loss_scale, device=given.params.device).repeat(given.families)

    def loss(flat: Any, sample: Any, scale: Any) -> Any:
        parts = [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
        return _loss(parts, sample, scale)

    mapped: Any = torch.func.vmap(torch.func.grad(loss))
    return lambda params, sample: mapped(params, sample.repeat_interleave(given.arms, 0), scale)


def _torch_func(given: Problem, keywords: dict[str, Any]) -> Callable[[], Any]:
    """torch.optim on the stacked parameters: one learning rate and one eps for all of them."""

    def optimizer(params: list[Any]) -> Any:
        return torch.optim.Adam(params, lr=LR, eps=EPS, **keywords)

    return _stacked(given, optimizer, lambda piece: piece.requires_grad_())


def _stacked(given: Problem, optimizer_of: Any, parameter: Callable[[Any], Any]) -> Callable[[], Any]:
    """Gradients by torch.func, and an optimizer of stacked tensors."""
    scale = torch.tensor(given.loss_scale, device=given.params.device).repeat(given.families)
    gradient: Any = torch.func.vmap(torch.func.grad(_loss))

    def train() -> Any:
        params = [parameter(piece) for piece in _pieces(given)]
        optimizer = optimizer_of(params)
        for sample in given.data:
            each = sample.repeat_interleave(given.arms, 0)
            found = gradient([p.detach() for p in params], each, scale)
            for p, grad in zip(params, found, strict=True):
                p.grad = grad
            optimizer.step()
        return torch.cat([p.detach().flatten(1) for p in params], 1)

    return train


def tabpack_missing() -> str:
    """Why TabPack's packed optimizers cannot take part; empty where they can."""
    try:
        importlib.metadata.version(TABPACK)
    except importlib.metadata.PackageNotFoundError:
        return (
            f"no distribution {TABPACK}, which is not on PyPI; install it from its repository, on Python 3.12 or later"
        )
    return "" if importlib.util.find_spec("project") else f"{TABPACK} has no module project"


def _tabpack(given: Problem) -> Callable[[], Any]:
    """AdamW without decay is Adam."""
    from project.nn import ParameterPack  # type: ignore[import-not-found, unused-ignore]
    from project.optim import AdamWPack  # type: ignore[import-not-found, unused-ignore]

    def optimizer(params: list[Any]) -> Any:
        return AdamWPack(params, lr=given.lr, eps=given.eps, weight_decay=0.0, pack_size=given.models)

    return _stacked(given, optimizer, ParameterPack)


def _loop(given: Problem) -> Callable[[], Any]:
    """One model after the other, each with torch.optim.Adam of its own."""
    scale = given.loss_scale * given.families

    def train() -> Any:
        stacked = _pieces(given)
        trained = []
        for model in range(given.models):
            params = [piece[model].clone().requires_grad_() for piece in stacked]
            optimizer = torch.optim.Adam(params, lr=given.lr[model], eps=given.eps[model])
            for sample in given.data[:, model // given.arms]:
                optimizer.zero_grad()
                _loss(params, sample, scale[model]).backward()
                optimizer.step()
            trained.append(torch.cat([p.detach().flatten() for p in params]))
        return torch.stack(trained)

    return train
