"""How much memory is free."""

from __future__ import annotations

from typing import Final

UNKNOWN: Final = 1 << 32
"""What is said to be free where the system does not say."""


def free_host_bytes() -> int:
    """What the system says is available to a new process."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - not a file on disk
            fields = dict(line.split(":", 1) for line in lines)
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return UNKNOWN


def free_bytes(device: str) -> int:
    """Free on ``cpu`` or ``cuda``, what torch keeps there for itself included."""
    if device == "cpu":
        return free_host_bytes()
    import torch

    held = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return int(torch.cuda.mem_get_info()[0]) + held
