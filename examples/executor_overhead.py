"""What executors cost on this machine: `python examples/executor_overhead.py` prints a table.

Cohorts that train for almost no time are given to each executor. Until the first is written it starts (processes,
torch's import, a Ray cluster of this machine); what the others take is the time of a cohort. Seconds are those of a
clock, and of processors over all processes that work, Ray's own included: the latter say more where others use the
machine. The least of several rounds is printed. Ray is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import tempfile
import time
from pathlib import Path

from lossscale import studies
from lossscale.design.spec import Cohort, RunSpec
from lossscale.runs.executor import open_executor
from lossscale.runs.planning import Choices, planned_manifest
from lossscale.support.output import format_table

CHOICES = Choices(
    networks=("mlp-6-6-1",), optimizers=("sgd:momentum=0",), scales=("4",), inits=1, steps=1, device="cpu"
)
KINDS = (("here", 1, ""), ("processes", 1, ""), ("processes", 2, ""))
RAY_KINDS = tuple(("ray", workers, by) for by in ("workers", "driver") for workers in (1, 2))


def cohorts_of(spec: RunSpec, count: int) -> list[Cohort]:
    """The spec's only cohort under as many names."""
    (cohort,) = spec.cohorts()
    return [dataclasses.replace(cohort, first=index, kept=1, size=1) for index in range(count)]


def processor_s(process: int) -> float:
    """Seconds of processors that a process and those below it have used; those that have ended count no more."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        below = [
            child for task in Path(f"/proc/{process}/task").glob("*/children") for child in task.read_text().split()
        ]
    except OSError:
        return 0.0
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(processor_s(int(child)) for child in below)


def measure(choices: Choices, count: int) -> dict[str, float]:
    """Seconds until the first cohort is written, and milliseconds for each of the others."""
    manifest = planned_manifest(studies.get("loss-vs-lr"), choices)
    spec = manifest.run_spec
    assert spec is not None

    def now() -> tuple[float, float]:
        return time.perf_counter(), processor_s(os.getpid())

    with tempfile.TemporaryDirectory() as folder:
        begin = now()
        with open_executor(choices, print) as executor:
            executor.check(Path(folder), manifest)
            ended = executor.train(Path(folder), manifest, cohorts_of(spec, count))
            next(ended)
            first = now()
            for done, _ in enumerate(ended, start=2):
                if done == count - 2:  # a worker that has nothing left may end, and its seconds with it
                    last = now()
    start, each = (tuple(b - a for a, b in zip(*pair, strict=True)) for pair in ((begin, first), (first, last)))
    return {
        "start s": start[0],
        "start processor-s": start[1],
        "ms a cohort": 1e3 * each[0] / (count - 3),
        "processor-ms a cohort": 1e3 * each[1] / (count - 3),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    kinds = KINDS + (RAY_KINDS if importlib.util.find_spec("ray") is not None else ())
    rounds: dict[tuple[str, int, str], list[dict[str, float]]] = {kind: [] for kind in kinds}
    measure(dataclasses.replace(CHOICES, executor="here"), 4)  # imports and compiled code count for no executor
    for _ in range(arguments.rounds):
        for executor, workers, by in kinds:
            choices = dataclasses.replace(CHOICES, executor=executor, workers=workers, shards_by=by or "workers")
            rounds[executor, workers, by].append(measure(choices, arguments.cohorts))
    rows = [
        {"executor": executor, "workers": workers, "shards by": by}
        | {name: f"{min(one[name] for one in measured):.2f}" for name in measured[0]}
        for (executor, workers, by), measured in rounds.items()
    ]
    print(format_table(rows))


if __name__ == "__main__":
    main()
