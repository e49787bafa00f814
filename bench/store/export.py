"""A timing result in forms that others read: records of the PyTorch benchmark database, and one line a sample."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from lossscale.support.output import to_json

from .load import KEY, Result
from .schema import StepRow

_ABOUT = ("options", "device", "device_name", "tensors", "elements", "throttled")
CSV_COLUMNS = (*KEY, *_ABOUT, "measure", "unit", "sample", "value")
_US = ("kernel_time", "step_time", "queued_time")


def pytorch_records(result: Result) -> str:
    """JSON: a list of records, one metric each, with every sample.

    The format is the one of the PyTorch benchmark database (github.com/pytorch/pytorch/wiki, "PyTorch OSS benchmark
    infra"): who runs it adds repository, branch and job on upload.
    """
    return to_json(list(_records(result))) + "\n"


def _records(result: Result) -> Iterator[dict[str, Any]]:
    machine = result.document.get("provenance", {})
    gpu = machine.get("device") == "cuda"
    runner = {
        "name": machine.get("device_name") or machine.get("processor"),
        "type": machine.get("device"),
        "cpu_info": machine.get("processor"),
        "cpu_count": machine.get("cores"),
        **({"gpu_info": machine.get("device_name"), "gpu_count": 1} if gpu else {}),
    }
    packages = {name: {"version": version} for name, version in machine.get("packages", {}).items()}
    for key, row in result.rows.items():
        for metric, unit, values in _metrics(row):
            yield {
                "benchmark": {
                    "name": f"{row.optimizer} step",
                    "mode": "training",
                    "dtype": _dtype(row.dtype),
                    "extra_info": {
                        "options": row.options,
                        "table": key[-1],
                        "revision": machine.get("git_revision"),
                        "differing_elements": row.differing_elements,
                        "throttled": row.throttled,
                    },
                },
                "model": {
                    "name": row.workload,
                    "type": "optimizer",
                    "backend": row.provider,
                    "origins": ["lossscale-bench"],
                    "extra_info": {"tensors": row.tensors, "elements": row.elements},
                },
                "metric": {"name": metric, "benchmark_values": values, "extra_info": {"unit": unit}},
                "runners": [runner],
                "dependencies": packages,
            }


def _metrics(row: StepRow) -> Iterator[tuple[str, str, list[float]]]:
    """Name, unit and values of what a row has; wrong bits have no time, whatever an older result says."""
    if row.error or row.differing_elements:
        return
    samples = (row.samples_kernel_ns, row.samples_step_ns, row.samples_queued_ns)
    for name, found in zip(_US, samples, strict=True):
        if found:
            yield name, "us", [sample / 1e3 for sample in found]
    for name, unit, value in (
        ("host_time", "us", None if row.host_time_ns is None else row.host_time_ns / 1e3),
        ("throughput", "GB/s", row.gb_per_s),
        ("share_of_copy", "1", row.share_of_copy),
        ("state", "bytes", row.state_bytes),
        ("peak", "bytes", row.peak_bytes),
    ):
        if value is not None:
            yield name, unit, [value]


def _dtype(name: str) -> str:
    from kernels import DTYPES

    return str(DTYPES[name].torch).removeprefix("torch.") if name in DTYPES else name


def long_csv(result: Result) -> str:
    """One line a sample, in `CSV_COLUMNS`; lines end as RFC 4180 has them."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(CSV_COLUMNS)
    name = result.document.get("provenance", {}).get("device_name") or ""
    for key, row in result.rows.items():
        about = (to_json(row.options, indent=None), row.device, name, row.tensors, row.elements, int(row.throttled))
        head = (*key, *about)
        for measure, unit, values in _metrics(row):
            writer.writerows((*head, measure, unit, number, value) for number, value in enumerate(values))
    return text.getvalue()


FORMATS: Mapping[str, Any] = {"pytorch": pytorch_records, "csv": long_csv}
"""By the name on the command line: a function from a result to text."""
