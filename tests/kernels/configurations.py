"""Random optimizer configurations, and the steps of each on a backend."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch

import kernels
from kernels import tables
from kernels.algorithm import Algorithm, Recipe
from kernels.backends import step_bucket
from kernels.launch.buckets import Bucket
from kernels.rounding.powers import power_table

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = (0, 1, 3, 4, 7, 31, 64, 67, 257, 1023, 1024, 1025, 2600)
BIG = (65535, 65536, 65537, 66600, 131075)
"""Around the lane pattern's period and the interpreter's block."""
STARTS = (0, 0, 0, 9, 999, 19_998, 30_000, 172_900, 2**24 - 2)
"""Steps taken before: on both sides of the recorded and the whole bias-correction tables, and of float32's integers."""
SCALES = (2.0**16, 3000.0, 0.3, 2.0**-20, 2.0**127, 2.0**-140, -8.0, 0.0, -0.0, float("inf"), float("nan"))
KINDS = ("normal", "wide", "subnormal", "huge", "ties", "special")
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3e38, 6e-8, 65504.0, 2.0**60, -(2.0**60), 1.0])


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Everything that decides a run but its values.

    Attributes:
        algorithm, recipe: what is stepped.
        hypers: records with the same flags; tensor i has ``hypers[i % len(hypers)]``.
        param, grad, state, copy: dtypes; no low-precision copy when None.
        sizes: elements of each tensor, or one (models, width) pair for a population.
        offsets: elements past a 64-byte boundary, by tensor list.
        values: one of `KINDS`.
        grad_scale, found_inf: not given when None.
        steps: how many.
        starts: steps already taken; tensor i has ``starts[i % len(starts)]``.
        block: of the interpreter.
    """

    algorithm: Algorithm
    recipe: Recipe
    hypers: tuple[Any, ...]
    param: torch.dtype
    grad: torch.dtype
    state: torch.dtype
    copy: torch.dtype | None
    sizes: tuple[int, ...]
    population: bool
    offsets: tuple[int, ...]
    values: str
    grad_scale: float | None
    found_inf: float | None
    steps: int
    starts: tuple[int, ...]
    block: int

    def __str__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return str(shown | {"algorithm": self.algorithm.name, "recipe": self.recipe.name})


def draw(seed: int) -> tuple[Configuration, np.random.Generator]:
    """The configuration of a seed, and the generator that draws its values."""
    rng = np.random.default_rng(seed)

    def one(choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    name, recipe_name = one(
        [(name, r) for name in sorted(kernels.ALGORITHMS) for r in kernels.ALGORITHMS[name].recipes]
    )
    algorithm = kernels.ALGORITHMS[name]
    recipe = algorithm.recipe(recipe_name)
    hyper = random_hyper(algorithm, rng)
    param = one(DTYPES)
    population = rng.random() < 0.12
    shape = rng.random()
    if shape < 0.02:
        sizes: tuple[int, ...] = (one(BIG), 5)
    elif shape < 0.06:
        sizes = tuple(int(n) for n in rng.integers(0, 70, size=rng.integers(10, 40)))
    else:
        sizes = tuple(one(SIZES) for _ in range(rng.integers(1, 5)))
    spread = one(((0,), (0,), (0, 4), (0, 1, 2)))
    width = int(rng.integers(1, 300))
    return Configuration(
        algorithm=algorithm,
        recipe=recipe,
        hypers=(hyper, *(vary(algorithm, hyper, rng) for _ in range(one((0, 0, 1, 2))))),
        param=param,
        grad=param if population or rng.random() < 0.8 else one(DTYPES),
        state=param if population or rng.random() < 0.7 else one(DTYPES),
        copy=None if population or rng.random() < 0.8 else one(DTYPES),
        sizes=(width,) * int(rng.integers(1, 6)) if population else sizes,
        population=population,
        offsets=tuple(one(spread) for _ in range(8)),
        values=one(KINDS),
        grad_scale=None if population or rng.random() < 0.7 else one(SCALES),
        found_inf=None if population or rng.random() < 0.8 else one((0.0, 0.0, 1.0, 2.0)),
        steps=one((1, 2, 3)),
        starts=(0,) if population else tuple(one(STARTS) for _ in range(one((1, 1, 2)))),
        block=65536 if shape < 0.06 else one((65536, 65536, 1024, 512)),
    ), rng


_BETAS = (0.0, 1e-9, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.123)
_CHOICES: dict[str, tuple[Any, ...]] = {
    "lr": (1e-3, 0.05, 1.0, 0.0, 7e-6, 1e30, 1e-40),
    "betas": tuple((a, b) for a in _BETAS for b in _BETAS),
    "eps": (1e-8, 1e-8, 1e-3, 0.3, 0.0, 1e-10, 1e-46, 1e30),
    "weight_decay": (0.0, 0.0, 0.1, 1e-2, 0.97, 1e6, 1e300),
    "momentum": (0.0, 0.9, 0.5, 1.0, 1e20),
    "dampening": (0.0, 0.3, 1.0, 1.7, -0.4),
    "alpha": (0.99, 0.5, 0.3, 0.0, 1e-9, 1.0, 1.5, 2.0),
    "lr_decay": (0.0, 0.785, 0.37, 1e9),
    "initial_accumulator_value": (0.0, 0.1),
}


def random_hyper(algorithm: Algorithm, rng: np.random.Generator) -> Any:
    """Hyperparameters that reach every branch: 0, 1 and both sides of one half included."""
    values: dict[str, Any] = {}
    for name in algorithm.hyperparameter_names:
        if name == "decoupled_weight_decay":
            continue
        options = _CHOICES.get(name, (False, True))
        values[name] = options[rng.integers(len(options))]
    if values.get("nesterov"):
        values["momentum"], values["dampening"] = values["momentum"] or 0.9, 0.0
    return algorithm.hyperparameters(**values)


def vary(algorithm: Algorithm, hyper: Any, rng: np.random.Generator) -> Any:
    """Another record that runs the same code."""
    for name in algorithm.hyperparameter_names:
        if name not in _CHOICES:
            continue
        value = _CHOICES[name][rng.integers(len(_CHOICES[name]))]
        # Nesterov's record refuses some combinations.
        with contextlib.suppress(ValueError):
            other = dataclasses.replace(hyper, **{name: value})
            hyper = other if algorithm.flags(other) == algorithm.flags(hyper) else hyper
    return hyper


def random_values(rng: np.random.Generator, size: int, kind: str) -> np.ndarray:
    """float64 values of a kind.

    "ties" has few significant bits, so that sums cancel and fall halfway between 16-bit neighbours; "special" mixes in
    zeros of both signs, infinities, NaN and subnormals.
    """
    x = rng.standard_normal(size)
    if kind == "wide":
        x = x * np.exp2(rng.integers(-60, 60, size))
    elif kind == "subnormal":
        x = x * np.exp2(rng.integers(-150, -120, size))
    elif kind == "huge":
        x = x * np.exp2(rng.integers(55, 127, size))
    elif kind == "ties":
        x = rng.integers(-512, 513, size) / 256
    elif kind == "special":
        x = np.where(rng.random(size) < 0.5, SPECIAL[rng.integers(len(SPECIAL), size=size)], x)
    return x


def placed(values: np.ndarray, dtype: torch.dtype, offset: int) -> torch.Tensor:
    """The values as a tensor that starts so many elements past a 64-byte boundary."""
    storage = torch.zeros(values.size + 80, dtype=dtype)
    start = (-storage.data_ptr() // storage.element_size()) % (64 // storage.element_size()) + offset
    view = storage[start : start + values.size]
    with np.errstate(all="ignore"):
        view.copy_(torch.from_numpy(values.astype(np.float32)))
    return view


def run(seed: int, backend: str) -> dict[str, torch.Tensor]:
    """Steps of configuration ``seed`` on ``backend``: every tensor that a step may write."""
    drawn, rng = draw(seed)
    with mock.patch.object(tables, "INTERPRETER_BLOCK", drawn.block):
        return _run_population(drawn, rng, backend) if drawn.population else _run_bucket(drawn, rng, backend)


def _run_bucket(drawn: Configuration, rng: np.random.Generator, backend: str) -> dict[str, torch.Tensor]:
    algorithm, tensors = drawn.algorithm, range(len(drawn.sizes))

    def make(dtype: torch.dtype, which: int, *, positive: bool = False) -> list[torch.Tensor]:
        raw = [random_values(rng, n, drawn.values) for n in drawn.sizes]
        return [placed(np.abs(x) if positive else x, dtype, drawn.offsets[which]) for x in raw]

    params = make(drawn.param, 0)
    names = algorithm.state_names(drawn.hypers[0])
    states = [
        make(drawn.state, 2 + k, positive=state.degree == 2) if state.name in names else None
        for k, state in enumerate(algorithm.states)
    ]
    states += [None] * (3 - len(states))
    copies = None if drawn.copy is None else make(drawn.copy, 6)
    powers = power_table(torch.device("cpu"))
    pairs = [(drawn.hypers[i % len(drawn.hypers)], drawn.starts[i % len(drawn.starts)]) for i in tensors]
    distinct = list(dict.fromkeys(pairs))
    row_of = [distinct.index(pair) for pair in pairs]
    grads: list[torch.Tensor] = []
    for t in range(1, drawn.steps + 1):
        grads = make(drawn.grad, 1)
        bucket = Bucket(params=params, grads=grads, states=states, row_of=row_of, copies=copies)
        row = drawn.recipe.row_for(bucket.dtypes)
        rows = [row(hyper, float(start + t), start + t == 1, powers) for hyper, start in distinct]
        step_bucket(
            drawn.recipe,
            algorithm.flags(drawn.hypers[0]),
            bucket,
            rows=torch.tensor(rows, dtype=torch.float64),
            steps=torch.tensor([float(start + t) for _, start in pairs]),
            powers=powers.values,
            grad_scale=None if drawn.grad_scale is None else torch.tensor(drawn.grad_scale),
            found_inf=None if drawn.found_inf is None else torch.tensor(drawn.found_inf),
            backend=backend,
        )
    written = {"param": params, "grad": grads}
    written |= {s.name: kept for s, kept in zip(algorithm.states, states, strict=False) if kept is not None}
    if copies is not None:
        written["copy"] = copies
    return {f"{name}.{i}": values[i] for name, values in written.items() for i in tensors}


def _run_population(drawn: Configuration, rng: np.random.Generator, backend: str) -> dict[str, torch.Tensor]:
    models, width = len(drawn.sizes), drawn.sizes[0]

    def make(which: int) -> torch.Tensor:
        values = random_values(rng, models * width, drawn.values)
        return placed(values, drawn.param, drawn.offsets[which]).view(models, width)

    hypers = [drawn.hypers[i % len(drawn.hypers)] for i in range(models)]
    params = make(0)
    population = kernels.Population(drawn.algorithm.name, hypers, params, recipe=drawn.recipe.name, backend=backend)
    for _ in range(drawn.steps):
        population.step(make(1))
    return {"param": params, **population.state}
