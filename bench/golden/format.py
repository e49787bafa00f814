"""Recorded bits of torch's own kernels: the file format.

The format is that of `tests/golden/golden.npz`: `cases.json` (uint8 text) lists the cases, arrays are `index/name` with
raw bits as uint32 (fp32) or uint16 (bf16, fp16). A whole-run case (recipes `foreach` and `for-loop`) has initial
parameters `p0.i`, gradients `gT.i`, parameters `pT.i` after step T and final states `state.NAME.i`; a one-step case
(recipe `fused`) has `in.NAME` and `out.NAME`. A recording adds `meta.json` (device, versions) and the tables
`bias_correction/BETA`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kernels
from lossscale.support import files

from ..conformance import bitwise

RECORDED = Path(__file__).resolve().parents[2] / "tests" / "golden" / "golden.npz"
BIAS_CORRECTIONS = kernels.BIAS_CORRECTIONS
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
    values = torch.from_numpy(signed).view(kernels.DTYPES[dtype].torch)
    storage = torch.zeros(len(bits) + offset, dtype=values.dtype, device=device)
    storage[offset:].copy_(values)
    return storage[offset:]


def to_bits(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The bits of a tensor as uint32 or uint16, flattened."""
    # A copy: on the CPU the tensor may be stepped on before the bits are written.
    whole = bitwise.integer_view(tensor.detach().reshape(-1)).cpu().numpy().copy()
    return whole.view(np.uint32 if whole.dtype == np.int32 else np.uint16)


def write(path: Path, cases: list[dict[str, Any]], arrays: dict[str, Any], meta: Mapping[str, Any]) -> None:
    """Write a recording whole."""
    text = {"cases.json": cases, "meta.json": meta}
    packed = {name: np.frombuffer(json.dumps(value).encode(), dtype=np.uint8) for name, value in text.items()}
    with files.whole_file(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **{**packed, **arrays})
