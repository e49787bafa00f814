"""Which bits a GPU recording adds to the ones we have, and the powf tables."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import golden
from .conformance.cases import DTYPES, LAYOUTS, OPTIMIZERS, Case, option_sets
from .conformance.inputs import TORCH_DTYPES, make_gradients, make_parameters

BETAS = (0.5, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)
TABLE_STEPS = 20_000
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
                if optimizer in ("Adam", "AdamW") and len(options) <= 3:
                    for recipe in ("foreach", "for-loop"):
                        yield {**base, "recipe": recipe, "options": {**options, "capturable": True}}, "normal"


def fused_cases() -> Iterator[tuple[dict[str, Any], str]]:
    """(case, value class) of one fused step on special and wide values, both memory paths, with and without scale."""
    for optimizer in (name for name in OPTIMIZERS if name != "RMSprop"):
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
        names = ["param", "grad", *golden.STATES[case["optimizer"]]]
        if not case["options"].get("amsgrad", case["optimizer"] not in ("Adam", "AdamW")):
            names = [name for name in names if name != "max_exp_avg_sq"]
        if case["optimizer"] == "SGD" and not case["options"]["momentum"]:
            names.remove("momentum_buffer")
        arrays = {}
        for role, name in enumerate(names):
            tensor = _values(case, values, role, (case["n"],))[0]
            # Second moments are never negative.
            tensor = tensor.abs() if name in ("exp_avg_sq", "max_exp_avg_sq", "sum") else tensor
            arrays[f"in.{name}"] = golden.to_bits(tensor)
        return arrays
    arrays = {f"p0.{i}": golden.to_bits(t) for i, t in enumerate(_values(case, values, 0, _SHAPES))}
    for step in range(1, _STEPS + 1):
        pieces = _values(case, values, step, _SHAPES)
        arrays.update({f"g{step}.{i}": golden.to_bits(t) for i, t in enumerate(pieces)})
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
            found = {**inputs, **golden.run(case, inputs, device)}
        except Exception as error:
            label = f"{case['optimizer']} {case['recipe']} {case['dtype']} {case['options']}"
            refused.append(f"{label}: {type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}")
            continue
        arrays.update({f"{len(cases)}/{name}": bits for name, bits in found.items()})
        cases.append({**case, "values": values, "arrays": sorted(found)})
    return cases, arrays, refused


def bias_corrections(device: torch.device, steps: int = TABLE_STEPS) -> dict[str, np.ndarray[Any, Any]]:
    """`1 - powf(beta, t)` in float32 for t = 1..steps by beta, from elementwise `torch.pow` on `device`."""
    exponents = torch.arange(1, steps + 1, dtype=torch.float32, device=device)
    tables = {}
    for beta in BETAS:
        base = torch.tensor(beta, dtype=torch.float32, device=device)
        tables[str(beta)] = (1 - torch.pow(base, exponents)).cpu().numpy()
    return tables


def compare_tables(tables: Mapping[str, np.ndarray[Any, Any]], recorded: Path) -> list[dict[str, Any]]:
    """Differing steps of each table against the recorded one."""
    rows = []
    with np.load(recorded) as stored:
        for name, table in tables.items():
            known = stored[name][: len(table)]
            wrong = np.flatnonzero(known.view(np.uint32) != table[: len(known)].view(np.uint32))
            rows.append(
                {
                    "check": "torch.pow against the recorded powf table",
                    "beta": float(name),
                    "steps": len(known),
                    "differing": len(wrong),
                    "first_step": int(wrong[0]) + 1 if len(wrong) else None,
                }
            )
    return rows


def recorded_tables(path: Path, steps: int) -> dict[str, np.ndarray[Any, Any]]:
    """The recorded `1 - powf(beta, t)` for t = 1..steps, by beta."""
    with np.load(path) as stored:
        return {str(beta): stored[str(beta)][:steps] for beta in BETAS}


def foreach_powf(device: torch.device, tables: Mapping[str, np.ndarray[Any, Any]]) -> list[dict[str, Any]]:
    """Whether `torch._foreach_pow(beta, steps)` on 0-dim tensors (capturable Adam's) gives the tables."""
    rows: list[dict[str, Any]] = []
    for beta in (0.9, 0.999):
        table = tables[str(beta)]
        row: dict[str, Any] = {"check": "_foreach_pow", "beta": beta, "steps": len(table)}
        try:
            steps = torch.arange(1, len(table) + 1, dtype=torch.float32, device=device)
            powers = torch.stack(list(torch._foreach_pow(beta, list(steps.unbind()))))
            wrong = np.flatnonzero((1 - powers).cpu().numpy().view(np.uint32) != table.view(np.uint32))
            rows.append({**row, "differing": len(wrong), "first_step": int(wrong[0]) + 1 if len(wrong) else None})
        except Exception as error:
            rows.append({**row, "outcome": "error", "detail": f"{type(error).__name__}: {error}"[:300]})
    return rows


def fused_powf(device: torch.device, tables: Mapping[str, np.ndarray[Any, Any]]) -> list[dict[str, Any]]:
    """Whether fused Adam's own powf is in the tables: its output, predicted from them, for every step.

    One fused call steps one single-element tensor per step number. The moments it stores are read back, so that only
    the bias corrections, a division, a root and a product are predicted (all correctly rounded in numpy).
    """
    rows: list[dict[str, Any]] = []
    for beta1, beta2 in ((0.9, 0.999), (0.8, 0.99), (0.95, 0.9999), (0.5, 0.98), (0.85, 0.995)):
        bc1, bc2 = tables[str(beta1)], tables[str(beta2)]
        rng = np.random.default_rng(7)
        host = {name: rng.uniform(0.5, 2.0, len(bc1)).astype(np.float32) for name in ("g", "m", "v")}
        on = {name: torch.from_numpy(values.copy()).to(device) for name, values in host.items()}
        on["p"] = torch.zeros(len(bc1), device=device)
        steps = torch.arange(1, len(bc1) + 1, dtype=torch.float32, device=device)
        tensors = {name: list(on[name].unsqueeze(1).unbind()) for name in "pgmv"}
        row: dict[str, Any] = {"check": "fused Adam's powf", "betas": [beta1, beta2], "steps": len(bc1)}
        try:
            torch._fused_adam_(
                tensors["p"],
                tensors["g"],
                tensors["m"],
                tensors["v"],
                [],
                list(steps.unbind()),
                lr=0.37,
                beta1=beta1,
                beta2=beta2,
                weight_decay=0.0,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )
        except Exception as error:
            rows.append({**row, "outcome": "error", "detail": f"{type(error).__name__}: {error}"[:300]})
            continue
        m, v = on["m"].cpu().numpy(), on["v"].cpu().numpy()
        step_size = np.float32(0.37) / bc1
        d = np.sqrt(v) / np.sqrt(bc2) + np.float32(1e-8)
        predicted = np.float32(0) - (step_size * m) / d
        wrong = np.flatnonzero(predicted.view(np.uint32) != on["p"].cpu().numpy().view(np.uint32))
        first = int(wrong[0]) + 1 if len(wrong) else None
        rows.append({**row, "differing": len(wrong), "first_step": first})
    return rows


def meta(device: torch.device) -> dict[str, Any]:
    """Device and versions of a recording."""
    from lossscale.support import provenance

    return {**provenance.collect(device.type).as_dict(), "dtypes": {k: str(v) for k, v in TORCH_DTYPES.items()}}
