"""Random optimizer configurations, and one step of each on a backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import kernels
from kernels.algorithm import Algorithm, Recipe
from kernels.launch import Bucket, step_bucket
from kernels.powers import power_table

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = (0, 1, 3, 4, 7, 31, 64, 67, 257, 1023, 1024, 1025, 2600)


@dataclass(frozen=True)
class Configuration:
    """Everything that decides a run, drawn from one seed."""

    seed: int

    def draw(self) -> dict[str, Any]:
        """Algorithm, recipe, options, dtypes, layout and values."""
        rng = np.random.default_rng(self.seed)
        algorithm = kernels.ALGORITHMS[str(rng.choice(sorted(kernels.ALGORITHMS)))]
        recipe = algorithm.recipe(str(rng.choice(sorted(algorithm.recipes))))
        param = DTYPES[rng.integers(3)]
        state = param if rng.random() < 0.7 else DTYPES[rng.integers(3)]
        grad = param if rng.random() < 0.8 else DTYPES[rng.integers(3)]
        return {
            "algorithm": algorithm,
            "recipe": recipe,
            "hyper": random_hyper(algorithm, rng),
            "param": param,
            "grad": grad,
            "state": state,
            "copy": DTYPES[rng.integers(3)] if rng.random() < 0.2 else None,
            "sizes": [SIZES[k] for k in rng.integers(len(SIZES), size=rng.integers(1, 5))],
            "offset": [int(k) for k in rng.integers(0, 3, size=8) * (rng.random() < 0.4)],
            "values": str(rng.choice(["normal", "wide", "subnormal", "special"])),
            "grad_scale": None if rng.random() < 0.7 else float(rng.choice([2.0**16, 3000.0, 0.3, 2.0**-20])),
            "found_inf": None if rng.random() < 0.8 else float(rng.random() < 0.3),
            "steps": int(rng.choice([1, 2, 5])),
            "start": int(rng.choice([0, 0, 0, 9, 999, 30000])),
            "rng": rng,
        }


def random_hyper(algorithm: Algorithm, rng: np.random.Generator) -> Any:
    """Hyperparameters that reach every branch: 0, 1 and both sides of one half included."""
    beta = (0.0, 0.3, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.123)
    choices = {
        "lr": (1e-3, 0.05, 1.0, 0.0, 7e-6),
        "betas": tuple((float(a), float(b)) for a in beta for b in beta),
        "eps": (1e-8, 1e-3, 0.0, 1e-10),
        "weight_decay": (0.0, 0.0, 0.1, 1e-2, 0.7),
        "momentum": (0.0, 0.9, 0.5, 1.0),
        "dampening": (0.0, 0.3, 1.0),
        "alpha": (0.99, 0.5, 0.3, 0.0, 1.0),
        "lr_decay": (0.0, 0.013, 0.5),
        "initial_accumulator_value": (0.0, 0.1),
    }
    values: dict[str, Any] = {}
    for name in algorithm.hyperparameters.__dataclass_fields__:
        if name == "decoupled_weight_decay":
            continue
        options = choices.get(name, (False, True))
        values[name] = options[rng.integers(len(options))]
    if values.get("nesterov"):
        values["momentum"], values["dampening"] = values["momentum"] or 0.9, 0.0
    return algorithm.hyperparameters(**values)


def random_values(rng: np.random.Generator, size: int, kind: str) -> np.ndarray:
    """float64 values of a kind; "special" mixes zeros of both signs, infinities, NaN and subnormals in."""
    x = rng.standard_normal(size)
    if kind == "wide":
        x = x * np.exp2(rng.integers(-60, 60, size))
    elif kind == "subnormal":
        x = x * np.exp2(rng.integers(-150, -120, size))
    elif kind == "special":
        special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3e38, 6e-8, 65504.0, 1.0])
        pick = rng.random(size) < 0.5
        x = np.where(pick, special[rng.integers(len(special), size=size)], x)
    return x


def _tensor(values: np.ndarray, dtype: torch.dtype, offset: int) -> torch.Tensor:
    storage = torch.zeros(values.size + 80, dtype=dtype)
    start = (-storage.data_ptr() // storage.element_size()) % (64 // storage.element_size()) + offset
    view = storage[start : start + values.size]
    with np.errstate(all="ignore"):
        view.copy_(torch.from_numpy(values.astype(np.float32)))
    return view


def run(seed: int, backend: str) -> dict[str, torch.Tensor]:
    """Steps of configuration ``seed`` on ``backend``: every tensor that a step may write."""
    drawn = Configuration(seed).draw()
    rng, sizes, kind = drawn["rng"], drawn["sizes"], drawn["values"]
    algorithm: Algorithm = drawn["algorithm"]
    recipe: Recipe = drawn["recipe"]
    hyper = drawn["hyper"]
    tensors = range(len(sizes))

    def make(dtype: torch.dtype, which: int, *, positive: bool = False) -> list[torch.Tensor]:
        raw = [random_values(rng, n, kind) for n in sizes]
        return [_tensor(np.abs(x) if positive else x, dtype, drawn["offset"][which]) for x in raw]

    params = make(drawn["param"], 0)
    kept = algorithm.state_names(hyper)
    states = [
        make(drawn["state"], 2 + k, positive=state.degree == 2) if state.name in kept else None
        for k, state in enumerate(algorithm.states)
    ]
    states += [None] * (3 - len(states))
    copies = None if drawn["copy"] is None else make(drawn["copy"], 6)
    powers = power_table(torch.device("cpu"))
    grads: list[torch.Tensor] = []
    for t in range(1, drawn["steps"] + 1):
        grads = make(drawn["grad"], 1)
        step = float(drawn["start"] + t)
        rows = [recipe.row(hyper, step, t == 1 and drawn["start"] == 0, powers)]
        step_bucket(
            recipe,
            algorithm.flags(hyper),
            Bucket(params=params, grads=grads, states=states, row_of=[0] * len(sizes), copies=copies),
            rows=torch.tensor(rows, dtype=torch.float64),
            steps=torch.full((len(sizes),), step),
            powers=powers.values,
            grad_scale=None if drawn["grad_scale"] is None else torch.tensor(drawn["grad_scale"]),
            found_inf=None if drawn["found_inf"] is None else torch.tensor(drawn["found_inf"]),
            backend=backend,
        )
    written = {"param": params, "grad": grads}
    written |= {s.name: kept for s, kept in zip(algorithm.states, states, strict=False) if kept is not None}
    if copies is not None:
        written["copy"] = copies
    return {f"{name}.{i}": values[i] for name, values in written.items() for i in tensors}
