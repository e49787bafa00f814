"""Which bits a GPU recording adds to the ones we have."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ..conformance.cases import DTYPES, LAYOUTS, OPTIMIZERS, Case, recipes_of
from ..conformance.inputs import make_gradients, make_parameters
from ..conformance.option_sets import option_sets
from ..optimizers import registered, state_names
from .format import to_bits
from .replay import run

_SHAPES = (128, 67, 5)
_STEPS = 3


def step_cases() -> Iterator[tuple[dict[str, Any], str]]:
    """(case, value class) of whole runs: for-loop in every dtype, special values, and the capturable variants."""
    for optimizer in OPTIMIZERS:
        for dtype in DTYPES:
            for options in option_sets(optimizer):
                base = {"optimizer": optimizer, "dtype": dtype, "options": dict(options), "steps": _STEPS}
                base["tensors"] = list(_SHAPES)
                yield {**base, "recipe": "for-loop"}, "normal"
                yield {**base, "recipe": "foreach"}, "special"
                if "foreach-capturable" in registered(optimizer).recipes and len(options) <= 3:
                    for recipe in ("foreach", "for-loop"):
                        yield {**base, "recipe": recipe, "options": {**options, "capturable": True}}, "normal"


def fused_cases() -> Iterator[tuple[dict[str, Any], str]]:
    """(case, value class) of one fused step on special and wide values, both memory paths, with and without scale."""
    for optimizer in (name for name in OPTIMIZERS if "fused" in recipes_of(name)):
        for dtype in DTYPES:
            for position, options in enumerate(option_sets(optimizer)):
                path = ("aligned", "unaligned")[position % 2]
                base = {
                    "optimizer": optimizer,
                    "recipe": "fused",
                    "dtype": dtype,
                    "options": _operator_options(optimizer, options),
                    "path": path,
                    "step": None if optimizer == "SGD" else 3.0,
                    "n": 132 if path == "aligned" else 67,
                }
                yield {**base, "grad_scale": None}, "special"
                yield {**base, "grad_scale": 3000.0}, "wide"


def _operator_options(optimizer: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the fused operators take them: every argument named."""
    filled = {
        "SGD": {"lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0},
        "Adagrad": {"lr": 1e-2, "lr_decay": 0.0, "eps": 1e-10, "weight_decay": 0.0},
    }.get(optimizer, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False})
    filled = {**filled, "maximize": False, **options}
    filled.pop("initial_accumulator_value", None)
    return filled


def _values(case: Mapping[str, Any], values: str, role: int, lengths: tuple[int, ...]) -> list[torch.Tensor]:
    """Inputs of a recorded case, of a value class of the conformance cases."""
    count = sum(lengths)
    source = Case(optimizer=case["optimizer"], dtype=case["dtype"], values=values, layout="one", seed=role)
    assert count <= LAYOUTS["one"][0][0]
    cpu = torch.device("cpu")
    flat = make_gradients(source, role, cpu)[0] if role else make_parameters(source, cpu)[0].detach()
    ends = np.cumsum(lengths).tolist()
    return [flat[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def build_inputs(case: dict[str, Any], values: str) -> dict[str, np.ndarray[Any, Any]]:
    """The input arrays of a new case."""
    if case["recipe"] == "fused":
        names = ["param", "grad", *state_names(case["optimizer"])]
        if not case["options"].get("amsgrad", case["optimizer"] not in ("Adam", "AdamW")):
            names = [name for name in names if name != "max_exp_avg_sq"]
        if case["optimizer"] == "SGD" and not case["options"]["momentum"]:
            names.remove("momentum_buffer")
        arrays = {}
        for role, name in enumerate(names):
            tensor = _values(case, values, role, (case["n"],))[0]
            # Second moments are never negative.
            tensor = tensor.abs() if name in ("exp_avg_sq", "max_exp_avg_sq", "sum") else tensor
            arrays[f"in.{name}"] = to_bits(tensor)
        return arrays
    arrays = {f"p0.{i}": to_bits(t) for i, t in enumerate(_values(case, values, 0, _SHAPES))}
    for step in range(1, _STEPS + 1):
        pieces = _values(case, values, step, _SHAPES)
        arrays.update({f"g{step}.{i}": to_bits(t) for i, t in enumerate(pieces)})
    return arrays


def record(
    device: torch.device, deadline: float, *, toy: bool = False
) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """Run the new cases through real torch on `device` until `deadline` (`time.monotonic`).

    Returns:
        The cases that ran, their arrays, and one line for each case that torch refused.
    """
    cases: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    refused: list[str] = []
    wanted = [*step_cases(), *fused_cases()]
    for case, values in wanted[:: 97 if toy else 1]:
        if time.monotonic() > deadline:
            refused.append("time was up before every case was recorded")
            break
        try:
            inputs = build_inputs(case, values)
            found = {**inputs, **run(case, inputs, device)}
        except Exception as error:
            label = f"{case['optimizer']} {case['recipe']} {case['dtype']} {case['options']}"
            refused.append(f"{label}: {type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}")
            continue
        arrays.update({f"{len(cases)}/{name}": bits for name, bits in found.items()})
        cases.append({**case, "values": values, "arrays": sorted(found)})
    return cases, arrays, refused


def meta(device: torch.device) -> dict[str, Any]:
    """Device and versions of a recording."""
    from kernels import DTYPES as known
    from lossscale.support import provenance

    return {
        **provenance.collect(device.type).as_dict(),
        "dtypes": {name: str(dtype.torch) for name, dtype in known.items()},
    }
