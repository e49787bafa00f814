"""What a step should take: counted launches times the machine's least, and counted bytes by the machine's copy rate.

Two numbers of the machine and none of the case: where the two disagree with a measurement, something else costs time.
`docs/method.md` says what that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from kernels import DTYPES
from lossscale.support.errors import InputError

from ..optimizers import registered, titles
from ..store.schema import StepRow
from .passes import Work, work_of
from .workloads import Tensors, parse_tensors


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the model knows of a machine.

    Attributes:
        copy_gb_per_s: of the largest copy in the result.
        launch_ns: the least that a launch takes (on a CPU a call).
        launch_from: where that comes from: "measured" beside the steps, or "least time a launch" of any step, in a
            result that has no such measurement.
    """

    copy_gb_per_s: float
    launch_ns: float
    launch_from: str


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A row's time by the model.

    Attributes:
        row: what was timed.
        work: its bytes and launches.
        predicted_ns: of the kernels on a GPU, of the whole step on a CPU.
        measured_ns: the median of the same.
    """

    row: StepRow
    work: Work
    predicted_ns: float
    measured_ns: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one: negative where something else costs time."""
        return self.predicted_ns / self.measured_ns - 1

    def as_dict(self) -> dict[str, Any]:
        """A row of a table."""
        row = self.row
        return {
            "provider": row.provider,
            "optimizer": row.optimizer,
            "dtype": row.dtype,
            "workload": row.workload,
            "bytes_moved": self.work.bytes_moved,
            "launches": self.work.launches,
            "predicted_us": self.predicted_ns / 1e3,
            "measured_us": self.measured_ns / 1e3,
            "error": self.error,
        }


def predictions(document: Mapping[str, Any], rows: Iterable[StepRow]) -> tuple[Machine | None, list[Prediction]]:
    """The model's time of every row that has a time and can be counted.

    Args:
        document: of the result; its `ceilings` and `launch_ns` are the machine.
        rows: of the result.

    Returns:
        The machine, None where the result does not say what a copy takes there, and the predictions, in order.
    """
    counted = [(row, work, ns) for row in rows if (ns := busy_ns(row)) and (work := _work(row)) is not None]
    copies = [one["copy_gb_per_s"] for one in document.get("ceilings", [])]
    # Results of the version before have copies alone.
    copies += list(document.get("copy_gb_per_s", {}).values())
    copies += [row.copy_gb_per_s for row, _, _ in counted if row.copy_gb_per_s] if not copies else []
    if not copies or not counted:
        return None, []
    measured = document.get("launch_ns")
    least = min(ns / work.launches for _, work, ns in counted if work.launches)
    machine = Machine(
        copy_gb_per_s=max(copies),
        launch_ns=float(measured or least),
        launch_from="measured" if measured else "least time a launch",
    )
    return machine, [
        Prediction(row=row, work=work, predicted_ns=predict_ns(machine, work), measured_ns=ns)
        for row, work, ns in counted
    ]


def predict_ns(machine: Machine, work: Work) -> float:
    """Nanoseconds of a step's kernels."""
    return work.launches * machine.launch_ns + work.bytes_moved / machine.copy_gb_per_s


def busy_ns(row: StepRow) -> float | None:
    """The time that the model speaks of: the kernels', on a CPU the whole step's; None in a row without times."""
    if row.error or row.differing_elements:
        return None
    # Rows of the version before name no device; those of a GPU have kernel times.
    return row.step_time_ns if row.device == "cpu" else row.kernel_time_ns


def _work(row: StepRow) -> Work | None:
    tensors = _tensors(row.workload)
    if tensors is None or len(tensors.shapes) != row.tensors or tensors.elements != row.elements:
        return None
    if not _is_known(row):
        return None
    # JSON knows no tuples.
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in row.options.items()}
    return work_of(row.provider, row.optimizer, options, row.dtype, tensors.shapes, row.device or "cuda")


def _is_known(row: StepRow) -> bool:
    """Whether there still is such an optimizer, with these options and this dtype: results outlive versions."""
    if row.optimizer not in titles() or row.dtype not in DTYPES:
        return False
    try:
        registered(row.optimizer).hyperparameters(**row.options)
    except (TypeError, ValueError):
        return False
    return True


@cache
def _tensors(name: str) -> Tensors | None:
    try:
        return parse_tensors(name)
    except InputError:
        # A list that later versions no longer have.
        return None
