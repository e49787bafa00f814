"""Recorded cases through real torch.optim, on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ..conformance import bitwise
from ..conformance.rows import Outcome
from ..optimizers import state_names
from .format import Arrays, Golden, to_bits, to_tensor


def run(case: Mapping[str, Any], arrays: Arrays, device: torch.device) -> dict[str, np.ndarray[Any, Any]]:
    """Run a case's inputs through real torch.optim on `device`; the outputs under the recording's names."""
    return _run_fused(case, arrays, device) if case["recipe"] == "fused" else _run_steps(case, arrays, device)


def _run_steps(case: Mapping[str, Any], arrays: Arrays, device: torch.device) -> dict[str, np.ndarray[Any, Any]]:
    count, dtype = len(case["tensors"]), case["dtype"]
    params = [to_tensor(arrays[f"p0.{i}"], dtype, device).requires_grad_() for i in range(count)]
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in case["options"].items()}
    made = getattr(torch.optim, case["optimizer"])
    optimizer = made(params, **options, foreach=case["recipe"] == "foreach")
    out = {}
    for step in range(1, case["steps"] + 1):
        for i, param in enumerate(params):
            param.grad = to_tensor(arrays[f"g{step}.{i}"], dtype, device)
        optimizer.step()
        out.update({f"p{step}.{i}": to_bits(param) for i, param in enumerate(params)})
    for i, param in enumerate(params):
        state = optimizer.state[param]
        names = (name for name in state_names(case["optimizer"]) if state.get(name) is not None)
        out.update({f"state.{name}.{i}": to_bits(state[name]) for name in names})
    return out


def _run_fused(case: Mapping[str, Any], arrays: Arrays, device: torch.device) -> dict[str, np.ndarray[Any, Any]]:
    # The recording's unaligned path has the parameter one element off a 16-byte boundary and everything else on one.
    unaligned = case["path"] == "unaligned"
    inputs = {
        name.removeprefix("in."): to_tensor(bits, case["dtype"], device, offset=int(unaligned and name == "in.param"))
        for name, bits in arrays.items()
        if name.startswith("in.")
    }
    options = dict(case["options"])
    scale = None if case["grad_scale"] is None else torch.full((), case["grad_scale"], device=device)
    lists = [[inputs[name]] if name in inputs else [] for name in ("param", "grad", *state_names(case["optimizer"]))]
    if case["optimizer"] == "SGD":
        first = options.pop("first_step", False)
        options = {"dampening": 0.0, "nesterov": False, **options}
        torch._fused_sgd_(*lists, **options, is_first_step=first, grad_scale=scale, found_inf=None)
    else:
        lists.append([torch.full((), case["step"], device=device)])
        if case["optimizer"] == "Adagrad":
            torch._fused_adagrad_(*lists, **options, grad_scale=scale, found_inf=None)
        else:
            beta1, beta2 = options.pop("betas")
            operator = torch._fused_adamw_ if case["optimizer"] == "AdamW" else torch._fused_adam_
            operator(*lists, **options, beta1=beta1, beta2=beta2, grad_scale=scale, found_inf=None)
    return {f"out.{name}": to_bits(tensor) for name, tensor in inputs.items()}


def differing(recorded: np.ndarray[Any, Any], found: np.ndarray[Any, Any], dtype: str) -> int:
    """Number of elements whose bits differ; any NaN equals any NaN."""
    cpu = torch.device("cpu")
    if recorded.shape != found.shape:
        return max(recorded.size, found.size)
    return int(bitwise.unequal(to_tensor(recorded, dtype, cpu), to_tensor(found, dtype, cpu)).sum())


def replay(golden: Golden, device: torch.device, indices: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
    """Run recorded cases through real torch on `device`: one row per case, with the differing elements per array."""
    for index in range(len(golden.cases)) if indices is None else indices:
        case, arrays = golden.cases[index], golden.of(index)
        row = {
            "case": index,
            **{key: case.get(key) for key in ("optimizer", "recipe", "dtype", "path", "grad_scale", "options")},
        }
        try:
            found = run(case, arrays, device)
            outputs = {name: differing(arrays[name], bits, case["dtype"]) for name, bits in found.items()}
        except Exception as error:
            yield {**row, "outcome": Outcome.ERROR, "detail": f"{type(error).__name__}: {error}"[:500]}
            continue
        wrong = {name: count for name, count in outputs.items() if count}
        yield {**row, "outcome": Outcome.MISMATCH if wrong else Outcome.IDENTICAL, "elements": wrong}
