"""Whether a cohort fits into memory."""

from __future__ import annotations

import itertools
import os

import kernels

from ..design.grid import NetworkInits
from ..design.policies import Policy
from ..design.spec import RunSpec
from ..support import memory
from ..support.errors import InputError


def check_memory(spec: RunSpec, network: NetworkInits, policy: Policy, numbers: int, *, call_bytes: int = 0) -> None:
    """Refuse a cohort that is larger than what is free, and say what fits.

    Args:
        spec: of the run.
        network: of the cohort.
        policy: its formats.
        numbers: n, the parameters of a model.
        call_bytes: what forward and backward keep besides.

    Raises:
        InputError: with the number of initialisations that fit.
    """
    inits, members = network.cohort_inits, len(spec.family)
    states = max(len(kernels.get_algorithm(item.algorithm).states) for item in spec.optimizers)
    size = {name: kernels.DTYPES[value].bytes for name, value in vars(policy).items()}
    # initial, before and now; gradients; states; and what an observation forms in double.
    held = 3 * size["params"] + size["grads"] + states * size["state"] + 4 * 8
    paired = 6 * 8 * len(spec.pairings)
    family = numbers * (held * members + paired)
    free = memory.free_bytes(spec.device)
    # Every core has a worker, and every worker a cohort.
    workers = len(os.sched_getaffinity(0)) if spec.device == "cpu" else 1
    together = sum(1 for _ in itertools.islice(spec.cohorts(), workers))
    needed, fits = inits * family + call_bytes, (free // together - call_bytes) // family
    if needed * together > free:
        large = f"{inits} initialisations in a cohort are {inits * members:,} models of {numbers:,} numbers"
        several = f", {together} such cohorts at a time {needed * together / 1e9:.1f} GB" if together > 1 else ""
        give = f"give the study cohort_inits={fits}" if fits > 0 else "not even one fits: give fewer arms and scales"
        remedy = f"{large} and take about {needed / 1e9:.1f} GB{several}, of {free / 1e9:.1f} that are free; {give}"
        raise InputError("--network", network.network, remedy)
