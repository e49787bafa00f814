"""One timed step as every result has it: raw samples in nanoseconds, and the columns that people compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

COLUMNS = (
    "provider",
    "optimizer",
    "dtype",
    "workload",
    "device",
    "kernel_us",
    "step_us",
    "host_us",
    "gb_per_s",
    "share_of_ceiling",
)
"""The table of `bench time step`."""

Quantiles = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A provider's step over one workload. Times are None where nothing was timed, or what was timed has wrong bits.

    Attributes:
        provider, optimizer, options, dtype, workload, device: what was timed, and where.
        tensors, elements: of the workload.
        bytes_moved: the fewest that the step can move, by the states that the provider keeps; None where it shows none.
        kernel_time_ns: on the device, the host hidden; `kernel_time_from` says by "events" or "profiler".
        step_time_ns: a whole step as a user's clock sees it, the device idle before and after.
        queued_time_ns: of one step among several that nobody waits for in between.
        host_time_ns: until the host is free again.
        table_upkeep_ns, table_upkeep_moved_ns: of ours on a CPU, the host's share of a launch, and with new gradients.
        gb_per_s: of the fewest bytes, by the kernel's time (on a CPU the step's).
        copy_gb_per_s, share_of_copy: of a copy of as many bytes in the same run.
        state_bytes: of the optimizer's states; peak_bytes: what a step allocates at most while it runs.
        rounds: how often each provider was timed.
        kernel_relative_error, step_relative_error: half the 95 % interval of the median, over the median.
        stopped_by: why there were no more rounds: "relative error", "rounds" or "time".
        throttled: whether the device was held back in so many rounds that the times are those of a slowed one.
        throttled_by: what held it back. throttled_ns: samples taken then, by measure; they are in no median unless
            `throttled`, and were taken again.
        differing_elements: from the provider's reference; None where the provider claims none.
        warm_up_s: the first step, compiling included.
        samples_kernel_ns, samples_step_ns, samples_queued_ns: every sample.
        error: why there are no times; else "".
    """

    provider: str
    optimizer: str
    options: dict[str, Any]
    dtype: str
    workload: str
    device: str
    tensors: int
    elements: int
    bytes_moved: int | None = None
    kernel_time_ns: float | None = None
    kernel_time_from: str | None = None
    kernel_time_quantiles: Quantiles | None = None
    step_time_ns: float | None = None
    step_time_quantiles: Quantiles | None = None
    queued_time_ns: float | None = None
    host_time_ns: float | None = None
    table_upkeep_ns: float | None = None
    table_upkeep_moved_ns: float | None = None
    gb_per_s: float | None = None
    copy_gb_per_s: float | None = None
    share_of_copy: float | None = None
    state_bytes: int | None = None
    peak_bytes: int | None = None
    rounds: int = 0
    kernel_relative_error: float | None = None
    step_relative_error: float | None = None
    stopped_by: str = ""
    throttled: bool = False
    throttled_by: list[str] = field(default_factory=list)
    throttled_ns: dict[str, list[int]] = field(default_factory=dict)
    differing_elements: int | None = None
    warm_up_s: float = 0.0
    samples_kernel_ns: list[int] = field(default_factory=list)
    samples_step_ns: list[int] = field(default_factory=list)
    samples_queued_ns: list[int] = field(default_factory=list)
    error: str = ""

    def _check(self) -> None:
        """What a file may have wrong.

        Raises:
            ValueError: if a field is of another type, a number is not finite or below 0, or a time is not above it.
        """
        for f in dataclasses.fields(self):
            value, kind = getattr(self, f.name), str(f.type)
            if value is None and kind.endswith(" | None"):
                continue
            fits = is_above_zero if f.name.endswith("_time_ns") else _FITS[kind.removesuffix(" | None")]
            if not fits(value):
                what = "no list of times, numbers above 0" if kind == "list[int]" else repr(value)
                raise ValueError(f"{f.name} is {what}")

    def as_dict(self) -> dict[str, Any]:
        """The table's columns, then every field."""
        columns = {
            "provider": self.provider,
            "optimizer": self.optimizer,
            "dtype": self.dtype,
            "workload": self.workload,
            "device": self.device,
            "kernel_us": _us(self.kernel_time_ns),
            "step_us": _us(self.step_time_ns),
            "queued_us": _us(self.queued_time_ns),
            "host_us": _us(self.host_time_ns if self.host_time_ns is not None else self.table_upkeep_ns),
            "gb_per_s": self.gb_per_s,
            "share_of_ceiling": self.share_of_copy,
        }
        return {**columns, **dataclasses.asdict(self)}

    def measured(self, name: str) -> float | None:
        """A field; None in a row without times. Wrong bits have none, whatever an older result says."""
        found: float | None = None if self.error or self.differing_elements else getattr(self, name)
        return found

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> StepRow:
        """A row as it was read, of this version or the one before, which named no workload and no device.

        Raises:
            ValueError: if it is no such row.
        """
        known = {name: found[name] for name in cls.__dataclass_fields__ if name in found}
        try:
            elements, tensors = int(known["elements"]), int(known["tensors"])
            if tensors < 1 or elements < 1:
                raise ValueError(f"{elements} elements in {tensors} tensors")
            known.setdefault("workload", workload_name(tensors, elements))
            known.setdefault("device", "")
            known.setdefault("options", {})
            row = cls(**known)
            row._check()
            return row
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a row of step times: {error}") from error


def workload_name(tensors: int, elements: int) -> str:
    """Name of so many tensors with so many elements in all: "2^20" for one, "10000x64" for many of that mean size."""
    if tensors == 1:
        return f"2^{elements.bit_length() - 1}" if elements & (elements - 1) == 0 else f"1x{elements}"
    return f"{tensors}x{elements // tensors}"


_LARGEST = 2**63
"""What a number may be: no count and no time comes near it, and products of two are still numbers."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LARGEST


def is_above_zero(value: object) -> bool:
    """Whether a value is a finite number above 0, as times and rates are; what is divided by one is finite too."""
    return _is_number(value) and value * _LARGEST > 1  # type: ignore[operator]


def _is_option(value: object) -> bool:
    """Whether a value can be an option: a number, a word, a switch, or several numbers."""
    single = value if isinstance(value, list) else [value]
    return all(one is None or isinstance(one, bool | int | float | str) for one in single)


def _are_times(value: object) -> bool:
    return isinstance(value, list) and all(map(is_above_zero, value))


_FITS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": _is_number,
    "float": _is_number,
    "Quantiles": lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    "list[int]": _are_times,
    "list[str]": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "dict[str, list[int]]": lambda value: isinstance(value, dict) and all(map(_are_times, value.values())),
    "dict[str, Any]": lambda value: isinstance(value, dict) and all(map(_is_option, value.values())),
}
"""Whether a value that was read is of a field's type, as it is written there."""


def _us(time_ns: float | None) -> float | None:
    return None if time_ns is None else time_ns / 1e3
