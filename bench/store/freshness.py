"""What a result says of its machine and of the kernels it timed, and what follows from that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA = 1
# What two timings must share before their ratio means anything.
_MACHINE = ("device", "device_name", "processor", "cores", "torch_build", "cuda")


def header(device: str) -> dict[str, Any]:
    """Schema, machine, versions and the fingerprint of every algorithm: what makes a result fresh or stale."""
    import torch

    import kernels
    from lossscale.support import provenance

    fingerprints = {name: kernels.fingerprint(name) for name in kernels.ALGORITHMS}
    found = {"schema": SCHEMA, "provenance": provenance.collect(device).as_dict(), "fingerprints": fingerprints}
    # On a CPU a step is parted among torch's threads.
    return found | ({"threads": torch.get_num_threads()} if device == "cpu" else {})


def stale(document: Mapping[str, Any]) -> list[str]:
    """Algorithms of today's registry whose machine code is no longer what the result was made with."""
    import kernels

    recorded = document.get("fingerprints", {})
    return [name for name in kernels.ALGORITHMS if recorded.get(name) != kernels.fingerprint(name)]


def unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What sets the machines of two results apart, one line each; empty for timings that may be compared."""
    machines = first.get("provenance", {}), second.get("provenance", {})
    lines = [
        f"{name}: {machines[0].get(name)} and {machines[1].get(name)}"
        for name in _MACHINE
        if machines[0].get(name) != machines[1].get(name)
    ]
    threads = first.get("threads"), second.get("threads")
    if None not in threads and threads[0] != threads[1]:
        lines.append(f"threads: {threads[0]} and {threads[1]}")
    packages = [machine.get("packages", {}) for machine in machines]
    return lines + [
        f"{name}: {packages[0].get(name)} and {packages[1].get(name)}"
        for name in ("torch", "triton")
        if packages[0].get(name) != packages[1].get(name)
    ]
