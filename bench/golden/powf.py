"""The recorded tables of `1 - powf(beta, t)`, held against what a device computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

BETAS = (0.5, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)
TABLE_STEPS = 20_000


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
