"""The same training by JAX and by torch.func, each in the forms that people would write, and ours."""

from __future__ import annotations

import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import kernels

from .problem import NETWORK, Problem

LR, EPS = 1e-3, 1e-8
SCALES = tuple(2.0 ** (k - 4) for k in range(8))
"""Loss scales of the arms in timings."""
REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One way to train a population.

    Attributes:
        provider, engine: for the table.
        make: of a problem, a function that trains from the start and gives the parameters [models, n].
    """

    provider: str
    engine: str
    make: Callable[[Problem], Callable[[], Any]]


def ours(backend: str) -> Iterator[Peer]:
    """Scales, learning rates and eps per arm; and of every model's own."""

    def make(given: Problem, own: bool = False) -> Callable[[], Any]:
        # Records that differ, as the peers' vectors may: the results agree to far below the tolerance.
        count = given.models if own else given.arms
        make_record = kernels.get_algorithm("adam").hyperparameters
        hypers = [make_record(lr=LR, eps=EPS * (1 + k / count / 1000)) for k in range(count)]

        params = given.params.clone()
        trainer = kernels.Trainer("adam", hypers, params, loss_scale=SCALES, backend=backend)

        def train() -> Any:
            trainer.restart(given.params)
            trainer.run(given.data)
            return params

        return train

    yield Peer(provider="ours", engine=f"trainer, {backend}", make=make)
    yield Peer(provider="ours", engine=f"trainer, {backend}, hyperparameters per model", make=lambda p: make(p, True))


def torch_func() -> Iterator[Peer]:
    """torch.func.grad under vmap, and torch.optim on the stacked parameters: one learning rate and eps for all."""

    def make(given: Problem, keywords: dict[str, Any]) -> Callable[[], Any]:
        shapes = ((6, 6), (6,), (1, 6), (1,))
        scale = torch.tensor(SCALES, device=given.params.device).repeat(given.families)

        def loss(params: Any, sample: Any, scale: Any) -> Any:
            w1, b1, w2, b2 = params
            hidden = torch.relu(w1 @ sample[:6].square() + b1)
            return (scale * (sample[6:] - torch.sigmoid(w2 @ hidden + b2).exp())).squeeze()

        gradient: Any = torch.func.vmap(torch.func.grad(loss))

        def train() -> Any:
            ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
            pieces = [given.params[:, a:b] for a, b in itertools.pairwise(ends)]
            params = [
                piece.reshape(-1, *shape).clone().requires_grad_() for piece, shape in zip(pieces, shapes, strict=True)
            ]
            optimizer = torch.optim.Adam(params, lr=LR, eps=EPS, **keywords)
            for sample in given.data:
                each = sample.repeat_interleave(given.arms, 0)
                found = gradient([p.detach() for p in params], each, scale)
                for p, grad in zip(params, found, strict=True):
                    p.grad = grad
                optimizer.step()
            return torch.cat([p.detach().flatten(1) for p in params], 1)

        return train

    for name in ("foreach", "fused"):
        yield Peer(
            provider="torch",
            engine=f"torch.func.vmap + {name}",
            make=lambda given, name=name: make(given, {name: True}),  # type: ignore[misc]
        )


def jax_missing() -> str:
    """Why JAX cannot take part; empty where it can."""
    lacking = [name for name in ("jax", "optax") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(lacking)} not installed" if lacking else ""


def jax_forms() -> Iterator[Peer]:
    """jit(vmap(scan)) over families and arms, and the same written by hand with the models last; none without JAX."""
    if jax_missing():
        return
    yield Peer(provider="jax", engine="jit(vmap(vmap(scan))) + optax", make=_jax_vmap)
    yield Peer(provider="jax", engine="jit(scan), models last by hand, + optax", make=_jax_by_hand)


def _jax_step(loss: Any, lr: Any, eps: Any) -> Any:
    import jax
    import optax

    optimizer = optax.adam(lr, eps=eps)

    def step(carry: Any, sample: Any) -> Any:
        params, state, scale = carry
        grads = jax.grad(loss)(params, sample, scale)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state, scale), None

    return optimizer, step


def _jax_vmap(given: Problem) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    families, arms = given.families, given.arms

    def loss(params: Any, sample: Any, scale: Any) -> Any:
        w1, b1, w2, b2 = params
        hidden = jax.nn.relu(w1 @ (sample[:6] * sample[:6]) + b1)
        return scale * (sample[6:] - jnp.exp(jax.nn.sigmoid(w2 @ hidden + b2)))[0]

    def train(params: Any, data: Any, scale: Any, lr: Any, eps: Any) -> Any:
        optimizer, step = _jax_step(loss, lr, eps)
        return jax.lax.scan(step, (params, optimizer.init(params), scale), data)[0][0]

    both = jax.jit(jax.vmap(jax.vmap(train, in_axes=(0, None, 0, 0, 0))))
    flat = jnp.asarray(given.params.cpu().numpy()).reshape(families, arms, -1)
    params = (
        flat[..., :36].reshape(families, arms, 6, 6),
        flat[..., 36:42],
        flat[..., 42:48].reshape(families, arms, 1, 6),
        flat[..., 48:],
    )
    data = jnp.asarray(given.data.cpu().numpy().transpose(1, 0, 2))
    scale = jnp.tile(jnp.asarray(SCALES, jnp.float32), (families, 1))
    lr, eps = (jnp.full((families, arms), x, jnp.float32) for x in (LR, EPS))

    def run() -> Any:
        w1, b1, w2, b2 = jax.block_until_ready(both(params, data, scale, lr, eps))
        parts = [x.reshape(families * arms, -1) for x in (w1, b1, w2, b2)]
        return lambda: torch.from_numpy(np.concatenate([np.asarray(x) for x in parts], 1))

    return run


def _jax_by_hand(given: Problem) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    models, arms = given.models, given.arms

    def loss(params: Any, sample: Any, scale: Any) -> Any:
        a = jnp.repeat(sample * sample, arms, 1)
        labels = jnp.repeat(sample[6], arms)
        hidden = [jax.nn.relu(sum(params[j * 6 + i] * a[i] for i in range(6)) + params[36 + j]) for j in range(6)]
        z = sum(params[42 + j] * hidden[j] for j in range(6)) + params[48]
        return jnp.sum(scale * (labels - jnp.exp(jax.nn.sigmoid(z))))

    def train(params: Any, data: Any, scale: Any, lr: Any, eps: Any) -> Any:
        optimizer, step = _jax_step(loss, lr, eps)
        return jax.lax.scan(step, (params, optimizer.init(params), scale), data)[0][0]

    compiled = jax.jit(train)
    params = jnp.asarray(given.params.cpu().numpy().T)
    data = jnp.asarray(given.data.cpu().numpy().transpose(0, 2, 1))
    scale = jnp.tile(jnp.asarray(SCALES, jnp.float32), models // arms)
    lr, eps = (jnp.full(models, x, jnp.float32) for x in (LR, EPS))

    def run() -> Any:
        found = jax.block_until_ready(compiled(params, data, scale, lr, eps))
        return lambda: torch.from_numpy(np.asarray(found).T.copy())

    return run


def time_peer(peer: Peer, given: Problem, *, repeats: int = REPEATS) -> dict[str, Any]:
    """A row: the first run's time (compilation and all), then the fastest of some; and the final loss."""
    device = given.params.device
    began = time.perf_counter()
    run = peer.make(given)
    result = run()
    _wait(device)
    first_s = time.perf_counter() - began
    samples = []
    for _ in range(repeats):
        _wait(device)
        began = time.perf_counter()
        result = run()
        _wait(device)
        samples.append(time.perf_counter() - began)
    params = (result() if callable(result) else result).to(device)
    per = 1e6 / given.models / given.steps
    return {
        "provider": peer.provider,
        "engine": peer.engine,
        "device": _device_name(peer, device),
        "network": NETWORK.name,
        "optimizer": "Adam",
        "policy": "fp32",
        "models": given.models,
        "steps": given.steps,
        "us_per_model_step": min(samples) * per,
        "samples_us": [sample * per for sample in samples],
        "first_s": first_s,
        "final_loss": final_loss(params, given),
    }


def final_loss(params: Any, given: Problem) -> float:
    """Mean loss of all models on the last sample, in double."""
    sample = given.data[-1].repeat_interleave(given.arms, 0).double()
    p = params.double()
    hidden = torch.relu((p[:, :36].view(-1, 6, 6) @ sample[:, :6, None].square()).squeeze(2) + p[:, 36:42])
    z = (p[:, 42:48] * hidden).sum(1) + p[:, 48]
    return float((sample[:, 6] - torch.sigmoid(z).exp()).mean())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _device_name(peer: Peer, device: torch.device) -> str:
    if peer.provider == "jax":
        import jax

        return str(jax.default_backend())
    return device.type
