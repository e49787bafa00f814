"""The same training by JAX and optax, in the forms that people would write."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from .peers import Peer
from .problem import Problem


def jax_missing() -> str:
    """Why JAX cannot take part; empty where it can."""
    lacking = [name for name in ("jax", "optax") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(lacking)} not installed" if lacking else ""


def jax_peers() -> Iterator[Peer]:
    """jit(vmap(scan)) over families and arms, and the same written by hand with the models last."""
    missing = jax_missing()
    yield Peer(provider="jax", engine="jit(vmap(vmap(scan))) + optax", make=_jax_vmap, early=True, missing=missing)
    yield Peer(
        provider="jax", engine="jit(scan), models last by hand, + optax", make=_jax_by_hand, early=True, missing=missing
    )


def prepare(device: str) -> None:
    """What JAX reads when it is first imported: leave the memory to others; on a CPU as many threads as torch has."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if device == "cpu" and torch.get_num_threads() == 1:
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ.setdefault("XLA_FLAGS", flags)


def _training(loss: Any) -> Any:
    """``train(params, data, scale, lr, eps)``: a scan over the steps."""
    import jax
    import optax

    def train(params: Any, data: Any, scale: Any, lr: Any, eps: Any) -> Any:
        optimizer = optax.adam(lr, eps=eps)

        def step(carry: Any, sample: Any) -> Any:
            params, state = carry
            grads = jax.grad(loss)(params, sample, scale)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), data)[0][0]

    return train


def _jax_vmap(given: Problem) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    families, arms = given.families, given.arms
    inputs, width, _ = given.network.widths

    def loss(params: Any, sample: Any, scale: Any) -> Any:
        w1, b1, w2, b2 = params
        hidden = jax.nn.relu(w1 @ (sample[:inputs] * sample[:inputs]) + b1)
        return scale * (sample[inputs:] - jnp.exp(jax.nn.sigmoid(w2 @ hidden + b2)))[0]

    both = jax.jit(jax.vmap(jax.vmap(_training(loss), in_axes=(0, None, 0, 0, 0))))
    flat = jnp.asarray(given.params.cpu().numpy()).reshape(families, arms, -1)
    weights = width * inputs
    params = (
        flat[..., :weights].reshape(families, arms, width, inputs),
        flat[..., weights : weights + width],
        flat[..., weights + width : -1].reshape(families, arms, 1, width),
        flat[..., -1:],
    )
    data = jnp.asarray(given.data.cpu().numpy().transpose(1, 0, 2))
    scale = jnp.tile(jnp.asarray(given.loss_scale, jnp.float32), (families, 1))
    lr, eps = (jnp.asarray(values, jnp.float32).reshape(families, arms) for values in (given.lr, given.eps))

    def run() -> Any:
        trained = jax.block_until_ready(both(params, data, scale, lr, eps))
        parts = [x.reshape(families * arms, -1) for x in trained]
        return lambda: torch.from_numpy(np.concatenate([np.asarray(x) for x in parts], 1))

    return run


def _jax_by_hand(given: Problem) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    families, arms = given.families, given.arms
    inputs, width, _ = given.network.widths
    bias, last = width * inputs, width * inputs + width

    def loss(params: Any, sample: Any, scale: Any) -> Any:
        a = jnp.repeat(sample * sample, arms, 1)
        labels = jnp.repeat(sample[inputs], arms)
        hidden = [
            jax.nn.relu(sum(params[j * inputs + i] * a[i] for i in range(inputs)) + params[bias + j])
            for j in range(width)
        ]
        z = sum(params[last + j] * hidden[j] for j in range(width)) + params[-1]
        return jnp.sum(scale * (labels - jnp.exp(jax.nn.sigmoid(z))))

    compiled = jax.jit(_training(loss))
    params = jnp.asarray(given.params.cpu().numpy().T)
    data = jnp.asarray(given.data.cpu().numpy().transpose(0, 2, 1))
    scale = jnp.tile(jnp.asarray(given.loss_scale, jnp.float32), families)
    lr, eps = (jnp.asarray(values, jnp.float32) for values in (given.lr, given.eps))

    def run() -> Any:
        found = jax.block_until_ready(compiled(params, data, scale, lr, eps))
        return lambda: torch.from_numpy(np.asarray(found).T.copy())

    return run
