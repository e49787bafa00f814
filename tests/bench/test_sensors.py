"""Clocks, power and temperature beside the samples; what was measured on a device held back; when rounds end."""

from types import SimpleNamespace
from typing import Any

import pytest

from bench.providers import TorchOptim
from bench.timing import stopping
from bench.timing.clock import HostClock
from bench.timing.measure import time_workload
from bench.timing.sensors import THROTTLES, Nvml, Reading, Sensors, spread
from bench.timing.stopping import FEWEST, MOST, Rounds, relative_error
from bench.timing.workloads import StepWorkload, many

SMALL = StepWorkload(optimizer="SGD", tensors=many(3, 64))
FOREACH = TorchOptim(implementation="foreach")


class NVMLError(Exception):
    """The library's."""


def library(**functions: Any) -> Any:
    """A stand-in for nvidia-ml-py, whose device draws 250 W at 60 °C."""
    return SimpleNamespace(
        **{
            "NVML_CLOCK_SM": 1,
            "NVML_CLOCK_MEM": 2,
            "NVML_TEMPERATURE_GPU": 0,
            "NVMLError": NVMLError,
            "nvmlDeviceGetClockInfo": lambda device, kind: {1: 1980, 2: 2619}[kind],
            "nvmlDeviceGetTemperature": lambda device, kind: 60,
            "nvmlDeviceGetPowerUsage": lambda device: 250_000,
            **functions,
        }
    )


@pytest.mark.parametrize(
    "name", ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"]
)
def test_the_driver_library_is_read_under_both_of_its_names(name: str) -> None:
    # Idle, clocks set by the user, and the power cap: only the last holds the device back.
    found = Nvml(library(**{name: lambda device: 0x1 | 0x2 | 0x4}), "device").read()
    assert found == Reading(sm_mhz=1980, memory_mhz=2619, temperature_c=60, power_w=250.0, throttled_by=("power cap",))
    every = Nvml(library(**{name: lambda device: 0xFF}), "device").read()
    assert every is not None and every.throttled_by == tuple(THROTTLES)


def test_a_driver_that_refuses_gives_no_reading() -> None:
    def refuses(device: Any) -> int:
        raise NVMLError("not supported")

    assert Nvml(library(nvmlDeviceGetPowerUsage=refuses), "device").read() is None


class Hot(Sensors):
    """A device that is held back at some readings."""

    def __init__(self, *at: int) -> None:
        self.at, self.count = at, 0

    def read(self) -> Reading:
        self.count += 1
        by = ("hardware thermal slowdown",) if self.count in self.at or not self.at else ()
        return Reading(sm_mhz=1980 - 500 * bool(by), memory_mhz=2619, temperature_c=60, power_w=250.0, throttled_by=by)


class SensedDevice(HostClock):
    """A device with sensors whose every kernel takes its number of microseconds."""

    def __init__(self, sensors: Sensors) -> None:
        super().__init__()
        self.sensors, self.kernels = sensors, 0

    def kernel(self, work: Any, sleep_s: float) -> tuple[int | None, float]:
        work()
        self.kernels += 1
        return 1_000 * self.kernels, 0.0

    def reading(self) -> Reading | None:
        return self.sensors.read()


def test_throttled_samples_are_set_aside_and_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "RELATIVE_ERROR", 1e9)
    seen: list[Reading] = []
    # Readings stand between samples: the third one speaks of the second sample and of the third.
    (row,), _ = time_workload(SMALL, [FOREACH], SensedDevice(Hot(3)), 5.0, seen)
    assert row.rounds == FEWEST + 2 and row.stopped_by == "relative error"
    assert row.throttled_ns["kernel"] == [2_000, 3_000] and row.throttled_by == ["hardware thermal slowdown"]
    assert row.samples_kernel_ns == [1_000, *range(4_000, 10_000, 1_000)] and not row.throttled
    assert row.kernel_time_ns == 6_000 and len(row.samples_step_ns) == FEWEST
    found = spread(seen)
    assert found["readings"] == len(seen) == FEWEST + 2 and found["throttled_readings"] == 1
    assert (found["sm_mhz"], found["sm_mhz_least"], found["power_w_most"]) == (1980, 1480, 250.0)
    assert found["throttled_by"] == ["hardware thermal slowdown"] and spread([]) == {}


def test_a_device_that_never_recovers_has_times_that_say_so() -> None:
    (row,), _ = time_workload(SMALL, [FOREACH], SensedDevice(Hot()), 0.05)
    assert row.throttled and row.rounds >= 3 and row.step_time_ns and len(row.samples_kernel_ns) == row.rounds
    assert row.samples_kernel_ns == row.throttled_ns["kernel"]


def test_the_relative_error_of_a_median() -> None:
    assert relative_error([100] * 5) is None
    assert relative_error([100] * 6) == 0.0
    # 95 % at ten samples: from the second smallest to the second largest.
    assert relative_error([90, 96, 98, 99, 100, 100, 101, 102, 104, 130]) == pytest.approx((104 - 96) / 2 / 100)


@pytest.mark.parametrize(
    ("samples", "limit_s", "count", "why"),
    [
        ([100] * 8, 60.0, FEWEST, "relative error"),
        ([100, 110] * 8, 60.0, MOST, "rounds"),
        ([100, 110] * 8, -1e-9, 3, "time"),
        ([100, 110] * 8, 1e-9, 3, "time"),
        ([], 0.0, 3, "time"),
    ],
)
def test_when_rounds_end(samples: list[int], limit_s: float, count: int, why: str) -> None:
    rounds = Rounds(limit_s=limit_s)
    while rounds.go_on(rounds.count, [samples, [7] * 8]):
        pass
    assert (rounds.count, rounds.stopped_by) == (count, why)
