"""Replays recorded bits of torch's CUDA kernels (tests/golden) through our backends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kernels
from kernels import bits
from kernels.backends import step_bucket
from kernels.launch.buckets import Bucket
from kernels.rounding.powers import power_table

GOLDEN = Path(__file__).parents[1] / "golden" / "golden.npz"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_cases(path: Path = GOLDEN) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The case descriptions and the raw arrays."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return json.loads(bytes(arrays.pop("cases.json"))), arrays


def as_tensor(raw: np.ndarray, dtype: torch.dtype, *, offset: int = 0) -> torch.Tensor:
    """The recorded bits as a tensor; ``offset`` elements past a 16-byte boundary."""
    integers = torch.from_numpy(raw.view(np.int32 if raw.dtype == np.uint32 else np.int16).copy())
    values = integers.view(dtype)
    storage = torch.zeros(values.numel() + 64, dtype=dtype)
    start = (-storage.data_ptr() // storage.element_size()) % (64 // storage.element_size()) + offset
    view = storage[start : start + values.numel()]
    view.copy_(values)
    return view.view(values.shape)


def replay(case: dict[str, Any], arrays: dict[str, np.ndarray], index: int, backend: str) -> dict[str, int]:
    """Elements that differ, by array name (empty when all bits agree)."""
    run = _replay_fused if case["recipe"] == "fused" else _replay_steps
    return {name: count for name, count in run(case, arrays, index, backend).items() if count}


def _replay_steps(case: dict[str, Any], arrays: dict[str, np.ndarray], index: int, backend: str) -> dict[str, int]:
    dtype, tensors = DTYPES[case["dtype"]], range(len(case["tensors"]))
    params = [torch.nn.Parameter(as_tensor(arrays[f"{index}/p0.{i}"], dtype)) for i in tensors]
    optimizer = getattr(kernels, case["optimizer"])(params, recipe=case["recipe"], backend=backend, **case["options"])
    wrong = {}
    for step in range(1, case["steps"] + 1):
        for i, p in enumerate(params):
            p.grad = as_tensor(arrays[f"{index}/g{step}.{i}"], dtype)
        optimizer.step()
        for i, p in enumerate(params):
            wrong[f"p{step}.{i}"] = bits.mismatches(p.detach(), as_tensor(arrays[f"{index}/p{step}.{i}"], dtype))
    for name in case["arrays"]:
        if name.startswith("state."):
            _, state, i = name.split(".")
            expected = as_tensor(arrays[f"{index}/{name}"], dtype)
            wrong[name] = bits.mismatches(optimizer.state[params[int(i)]][state], expected)
    return wrong


def _replay_fused(case: dict[str, Any], arrays: dict[str, np.ndarray], index: int, backend: str) -> dict[str, int]:
    dtype, algorithm = DTYPES[case["dtype"]], kernels.get_algorithm(case["optimizer"].lower())
    options = dict(case["options"])
    first = bool(options.pop("first_step", False))
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    hyper = algorithm.hyperparameters(**options)
    recipe = algorithm.recipe("fused")

    def given(name: str) -> torch.Tensor:
        shift = 1 if case["path"] == "unaligned" and name == "param" else 0
        return as_tensor(arrays[f"{index}/in.{name}"], dtype, offset=shift)

    param, grad = given("param"), given("grad")
    names = algorithm.state_names(hyper)
    kept = {
        name: given(name) if f"{index}/in.{name}" in arrays else torch.full_like(param, float("nan")) for name in names
    }
    powers = power_table(torch.device("cpu"))
    step = float(case["step"] or 1)
    row = recipe.row(hyper, step, first, powers)
    step_bucket(
        recipe,
        algorithm.flags(hyper),
        Bucket(
            params=[param],
            grads=[grad],
            states=[[kept[s.name]] if s.name in kept else None for s in algorithm.states]
            + [None] * (3 - len(algorithm.states)),
            row_of=[0],
        ),
        rows=torch.tensor([row], dtype=torch.float64),
        steps=torch.tensor([step]),
        powers=powers.values,
        grad_scale=None if case["grad_scale"] is None else torch.tensor(case["grad_scale"]),
        backend=backend,
    )
    outputs = {"param": param, "grad": grad, **kept}
    return {
        name: bits.mismatches(outputs[name[4:]], as_tensor(arrays[f"{index}/{name}"], dtype))
        for name in case["arrays"]
        if name.startswith("out.")
    }
