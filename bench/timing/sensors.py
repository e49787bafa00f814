"""A GPU's clocks, power and temperature, and whether it is held back: read beside every sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

THROTTLES: Mapping[str, int] = {
    "power cap": 0x04,
    "hardware slowdown": 0x08,
    "software thermal slowdown": 0x20,
    "hardware thermal slowdown": 0x40,
    "power brake": 0x80,
}
"""What slows a device down against its will, by the driver library's bits (nvml.h, nvmlClocksEventReasons).

Idleness, clocks that somebody set and boost groups are bits too: those are how the machine is meant to run.
"""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A device at one moment.

    Attributes:
        sm_mhz, memory_mhz: clocks.
        temperature_c: of the chip.
        power_w: what it draws.
        throttled_by: names of `THROTTLES` that are set.
    """

    sm_mhz: int
    memory_mhz: int
    temperature_c: int
    power_w: float
    throttled_by: tuple[str, ...] = ()


class Sensors(Protocol):
    """What a clock asks."""

    def read(self) -> Reading | None:
        """The device now; None where nothing can be read."""


class NoSensors:
    """Of a device that cannot be asked: without nvidia-ml-py, or with a driver that refuses."""

    def read(self) -> Reading | None:
        """None."""
        return None


class Nvml:
    """The driver's library, by nvidia-ml-py."""

    def __init__(self, library: Any, device: Any) -> None:
        self._nvml, self._device = library, device
        # Renamed in the library of driver 535 and after.
        self._reasons = getattr(library, "nvmlDeviceGetCurrentClocksEventReasons", None) or getattr(
            library, "nvmlDeviceGetCurrentClocksThrottleReasons", None
        )

    def read(self) -> Reading | None:
        """The device now; None if the driver refuses."""
        nvml, device = self._nvml, self._device
        try:
            set_bits = int(self._reasons(device)) if self._reasons is not None else 0
            return Reading(
                sm_mhz=nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
                memory_mhz=nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM),
                temperature_c=nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
                power_w=nvml.nvmlDeviceGetPowerUsage(device) / 1000,
                throttled_by=tuple(name for name, bit in THROTTLES.items() if set_bits & bit),
            )
        except nvml.NVMLError:
            return None


def cuda_sensors() -> Sensors:
    """Those of torch's current CUDA device, which need not be the library's first."""
    try:
        import pynvml
        import torch

        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        return Nvml(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
    except Exception:
        # Times without temperatures are still times; the document then has no readings.
        return NoSensors()


def spread(readings: Sequence[Reading]) -> dict[str, Any]:
    """Of many readings the medians, the slowest and hottest, and what held the device back; empty for none."""
    if not readings:
        return {}
    return {
        "readings": len(readings),
        "sm_mhz": median(one.sm_mhz for one in readings),
        "sm_mhz_least": min(one.sm_mhz for one in readings),
        "memory_mhz": median(one.memory_mhz for one in readings),
        "temperature_c": median(one.temperature_c for one in readings),
        "temperature_c_most": max(one.temperature_c for one in readings),
        "power_w": median(one.power_w for one in readings),
        "power_w_most": max(one.power_w for one in readings),
        "throttled_readings": sum(bool(one.throttled_by) for one in readings),
        "throttled_by": sorted({name for one in readings for name in one.throttled_by}),
    }
