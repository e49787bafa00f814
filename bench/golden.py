"""Recorded bits of torch's own kernels: the file format, replay through real torch.optim, and the recorder.

The format is that of `tests/golden/golden.npz`: `cases.json` (uint8 text) lists the cases, arrays are `index/name` with
raw bits as uint32 (fp32) or uint16 (bf16, fp16). A whole-run case (recipes `foreach` and `for-loop`) has initial
parameters `p0.i`, gradients `gT.i`, parameters `pT.i` after step T and final states `state.NAME.i`; a one-step case
(recipe `fused`) has `in.NAME` and `out.NAME`. A recording adds `meta.json` (device, versions) and the tables
`bias_correction/BETA`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kernels
from lossscale.support import files

from .conformance import bitwise
from .conformance.inputs import TORCH_DTYPES

RECORDED = Path(__file__).resolve().parents[1] / "tests" / "golden" / "golden.npz"
BIAS_CORRECTIONS = kernels.BIAS_CORRECTIONS
STATES = {
    "SGD": ("momentum_buffer",),
    "Adam": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "AdamW": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "RMSprop": ("square_avg", "momentum_buffer", "grad_avg"),
    "Adagrad": ("sum",),
}
Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Golden:
    """A recording: its cases, and the arrays of case k under `k/name`."""

    cases: list[dict[str, Any]]
    arrays: Arrays

    def of(self, index: int) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays of one case by name."""
        return {name: self.arrays[f"{index}/{name}"] for name in self.cases[index]["arrays"]}


def load(path: Path = RECORDED) -> Golden:
    """Read a recording."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return Golden(cases=json.loads(arrays.pop("cases.json").tobytes()), arrays=arrays)


def to_tensor(bits: np.ndarray[Any, Any], dtype: str, device: torch.device, *, offset: int = 0) -> torch.Tensor:
    """The tensor with these bits on `device`, starting `offset` elements into its storage."""
    signed = bits.view(np.int32 if bits.dtype == np.uint32 else np.int16).copy()
    values = torch.from_numpy(signed).view(TORCH_DTYPES[dtype])
    storage = torch.zeros(len(bits) + offset, dtype=values.dtype, device=device)
    storage[offset:].copy_(values)
    return storage[offset:]


def to_bits(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The bits of a tensor as uint32 or uint16, flattened."""
    # A copy: on the CPU the tensor may be stepped on before the bits are written.
    whole = bitwise.integer_view(tensor.detach().reshape(-1)).cpu().numpy().copy()
    return whole.view(np.uint32 if whole.dtype == np.int32 else np.uint16)


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
        names = (name for name in STATES[case["optimizer"]] if state.get(name) is not None)
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
    lists = [[inputs[name]] if name in inputs else [] for name in ("param", "grad", *STATES[case["optimizer"]])]
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
            yield {**row, "outcome": "error", "detail": f"{type(error).__name__}: {error}"[:500]}
            continue
        wrong = {name: count for name, count in outputs.items() if count}
        yield {**row, "outcome": "mismatch" if wrong else "identical", "elements": wrong}


def write(path: Path, cases: list[dict[str, Any]], arrays: dict[str, Any], meta: Mapping[str, Any]) -> None:
    """Write a recording whole."""
    text = {"cases.json": cases, "meta.json": meta}
    packed = {name: np.frombuffer(json.dumps(value).encode(), dtype=np.uint8) for name, value in text.items()}
    with files.whole_file(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **{**packed, **arrays})
