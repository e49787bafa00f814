"""Whole runs on this device against the same runs on a CPU: recorded hashes, and the CPU beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

import kernels

from .problem import SCALES, digest, problem, records

EXPECTED = Path(__file__).with_name("expected.json")
"""Hashes of parameters and states by case, recorded on a CPU by the vector backend."""
MODELS, STEPS = 1024, 200


@dataclass(frozen=True, kw_only=True)
class Case:
    """One whole run.

    Attributes:
        algorithm, recipe, policy: as `kernels.Trainer` takes them; recipe None is the default.
        options: of the hyperparameters.
        split: how many launches.
        own: whether every model has hyperparameters of its own (per lane), not its arm's.
        steps: how many.
    """

    algorithm: str
    recipe: str | None = None
    policy: str = "fp32"
    options: Mapping[str, Any] = field(default_factory=dict)
    split: int = 1
    own: bool = False
    steps: int = STEPS

    @property
    def name(self) -> str:
        """Unique among cases."""
        options = [f"{key}={value}" for key, value in self.options.items()]
        more = [f"split={self.split}"] * (self.split > 1) + ["own"] * self.own
        return " ".join([self.policy, self.algorithm, self.recipe or "default", *options, *more])


def cases() -> Iterator[Case]:
    """Most important first: every policy and algorithm, then what else the kernel is compiled for."""
    for policy in kernels.POLICIES:
        yield Case(algorithm="adam", policy=policy)
    for algorithm in ("adamw", "sgd", "rmsprop", "adagrad"):
        yield Case(algorithm=algorithm)
    yield Case(algorithm="adam", recipe="fused")
    yield Case(algorithm="adam", own=True)
    yield Case(algorithm="adam", split=3)
    yield Case(algorithm="sgd", options={"momentum": 0.9})
    for policy in kernels.POLICIES:
        if policy != "fp32":
            for algorithm in ("adamw", "sgd", "rmsprop", "adagrad"):
                yield Case(algorithm=algorithm, policy=policy)
    yield Case(algorithm="adam", recipe="fused", policy="bf16-true")
    yield Case(algorithm="adam", recipe="fused", options={"weight_decay": 0.1})
    yield Case(algorithm="adam", recipe="for-loop")
    yield Case(algorithm="adam", options={"amsgrad": True})
    yield Case(algorithm="rmsprop", options={"momentum": 0.9, "centered": True})
    yield Case(algorithm="adagrad", recipe="fused")
    yield Case(algorithm="adam_atan2")


def run_case(
    case: Case, device: str, *, models: int = MODELS, steps: int | None = None, spoilt: bool = False
) -> dict[str, Tensor]:
    """Parameters and states after the run, by name; ``spoilt``: the first model has a NaN, and takes two passes."""
    steps = case.steps if steps is None else steps
    given = problem(models=models, steps=steps, device=device)
    formats = kernels.POLICIES[case.policy]
    params = given.params.to(formats.dtype("params")).clone()
    if spoilt:
        params[0, 0] = float("nan")
    trainer = kernels.Trainer(
        case.algorithm,
        records(case.algorithm, models if case.own else len(SCALES), **case.options),
        params,
        policy=case.policy,
        recipe=case.recipe,
        loss_scale=SCALES,
    )
    for part in range(case.split):
        begin, end = (steps * k // case.split for k in (part, part + 1))
        trainer.run(given.data[begin:end])
    return {"params": params, **trainer.state}


def record_expected(path: Path = EXPECTED) -> None:
    """Run every case on this CPU and write the hashes."""
    found = {case.name: {name: digest(x) for name, x in run_case(case, "cpu").items()} for case in cases()}
    path.write_text(json.dumps(found, indent=1) + "\n")


def compare_case(case: Case, device: str, expected: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Run a case here; against the recorded hashes, and where they differ against this machine's CPU, bit by bit."""
    found = run_case(case, device)
    wanted = expected[case.name]
    differing = [name for name, x in found.items() if digest(x) != wanted[name]]
    row: dict[str, Any] = {
        "case": case.name,
        "models": MODELS,
        "steps": case.steps,
        "nonfinite": int((~found["params"].isfinite()).any(1).sum()),
        "tensors": len(found),
        "tensors_unlike_recorded": differing,
        "outcome": "differs" if differing else "equal",
    }
    if differing and device != "cpu":
        here = run_case(case, "cpu")
        row["bits_unlike_this_cpu"] = {name: kernels.bits.mismatches(found[name].cpu(), here[name]) for name in found}
    return row
