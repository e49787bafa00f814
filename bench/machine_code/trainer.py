"""The trainer's kernels compiled ahead of time: registers, spills, and only operations that are rounded to nearest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .compile import Job
from .reading import kept_reading, read_job

COLUMNS = (
    "network",
    "algorithm",
    "recipe",
    "policy",
    "scalars",
    "pass",
    "arch",
    "registers",
    "spills",
    "compile_s",
    "verdict",
)
APPROXIMATE = frozenset({"rcp.approx.ftz.f32", "rsqrt.approx.ftz.f32"})
"""What an optimistic pass begins its roots and quotients with, and corrects."""
UNLIMITED = ("sm_100",)
"""Reported, not held to a limit, as the kernels are that write gradients: there the compiler spills a little."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A kernel of the trainer.

    Attributes:
        network, algorithm, recipe, policy: as `kernels.Trainer` takes them; recipe None is the default.
        own: whether models of a block have hyperparameters of their own.
        keep_gradients: whether gradients are written.
        optimistic: whether it is the first of two passes.
        arch: such as "sm_90".
    """

    arch: str
    network: str = "mlp-6-6-1"
    algorithm: str = "adam"
    recipe: str | None = None
    policy: str = "fp32"
    own: bool = False
    keep_gradients: bool = False
    optimistic: bool = False


def trained(architectures: list[str]) -> Iterator[Trained]:
    """Every algorithm, every policy, and what else changes the code."""
    import kernels

    for arch in architectures:
        for algorithm in ("adam", "adamw", "sgd", "rmsprop", "adagrad"):
            yield Trained(arch=arch, algorithm=algorithm)
        for policy in kernels.POLICIES:
            if policy != "fp32":
                yield Trained(arch=arch, policy=policy)
        yield Trained(arch=arch, recipe="fused")
        yield Trained(arch=arch, own=True)
        yield Trained(arch=arch, keep_gradients=True)
        for algorithm in ("adam", "adamw", "rmsprop", "adagrad"):
            yield Trained(arch=arch, algorithm=algorithm, optimistic=True)
        for policy, formats in kernels.POLICIES.items():
            if policy != "fp32" and formats.params == "fp32":
                yield Trained(arch=arch, policy=policy, optimistic=True)
        yield Trained(arch=arch, recipe="fused", optimistic=True)
        yield Trained(arch=arch, own=True, optimistic=True)
        yield Trained(arch=arch, keep_gradients=True, optimistic=True)


def job_of(chosen: Trained) -> Job:
    """What to compile."""
    import kernels
    from kernels.population import training_arguments, training_constants, training_options

    algorithm = kernels.get_algorithm(chosen.algorithm)
    hyper = algorithm.hyperparameters()
    depends: tuple[str, ...] = ()
    if chosen.own:
        # As where learning rates differ, which the step size has from both.
        kinds = {"eps": "by_model", "-step_size": "by_both", "-lr": "by_model"}
        depends = tuple(kinds.get(column, "by_step") for column in algorithm.recipe(chosen.recipe).columns)
    constants = training_constants(
        kernels.NETWORKS[chosen.network],
        kernels.POLICIES[chosen.policy],
        algorithm.recipe(chosen.recipe),
        flags=algorithm.flags(hyper),
        states=sum(1 << k for k, state in enumerate(algorithm.states) if state.when(hyper)),
        shared=not chosen.own,
        keep_gradients=chosen.keep_gradients,
        optimistic=chosen.optimistic,
        depends=depends,
    )
    return Job(
        kernel=kernels.population.train_kernel.train_kernel,
        constants=constants,
        options=training_options(),
        arch=chosen.arch,
        arguments=training_arguments(kernels.POLICIES[chosen.policy]),
        aligned=len(kernels.population.train_kernel.POINTERS),
    )


def examine(chosen: Trained) -> dict[str, Any]:
    """A row whose `verdict` is "holds" or says what is broken; `compile_s` only where it was compiled now."""
    job = job_of(chosen)
    new = kept_reading(job) is None
    began = time.monotonic()
    reading = read_job(job)
    broken = []
    limited = chosen.arch not in UNLIMITED and not chosen.keep_gradients
    if (reading.resources.stack or reading.resources.spills) and limited:
        broken.append(f"{reading.resources.stack} bytes of stack, {reading.resources.spills} local accesses")
    improper = {*reading.improper} - (APPROXIMATE if chosen.optimistic else frozenset())
    if improper:
        broken.append("not rounded to nearest: " + ", ".join(sorted(improper)))
    return {
        "network": chosen.network,
        "algorithm": chosen.algorithm,
        "recipe": chosen.recipe or "default",
        "policy": chosen.policy + (", gradients kept" if chosen.keep_gradients else ""),
        "scalars": "per model" if chosen.own else "per block",
        "pass": "first of two" if chosen.optimistic else "",
        "arch": chosen.arch,
        "registers": reading.resources.registers,
        "spills": reading.resources.spills,
        "compile_s": round(time.monotonic() - began, 1) if new else None,
        "verdict": "; ".join(broken) or "holds",
    }
