"""What has a time limit keeps it, by a clock that the tests set: timings, their campaign, and launch shapes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from bench.campaign import campaign
from bench.providers import Ours, TorchOptim
from bench.providers.base import Provider
from bench.timing import host_cost, launch_shape, run, tune
from bench.timing.clock import HostClock
from bench.timing.stopping import ENOUGH, Rounds
from bench.timing.workloads import StepWorkload, many
from kernels import step_kernel

BUILD_S, STEP_S = 3.0, 0.2


@dataclass
class Now:
    """Time, which passes when something says so."""

    s: float = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    clock = Now()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@dataclass(frozen=True)
class Slow(Provider):
    """Takes its time to be built and compiled."""

    now: Now
    label: str

    @property
    def name(self) -> str:
        return self.label

    def build(self, optimizer: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
        self.now.s += BUILD_S
        return TorchOptim(implementation="foreach").build(optimizer, groups, options)


class Simulated(HostClock):
    """A clock by which every step takes as long, and what is not timed nothing."""

    def __init__(self, now: Now, step_s: float = STEP_S) -> None:
        super().__init__()
        self.now, self.step_s = now, step_s

    def step(self, work: Any) -> tuple[int, int | None]:
        work()
        self.now.s += self.step_s
        return round(self.step_s * 1e9), None

    def queued(self, work: Any, count: int) -> int:
        return round(self.step_s * 1e9)

    def copy_gb_per_s(self, bytes_moved: int) -> float:
        return 100.0

    def rates(self, bytes_moved: int) -> dict[str, float]:
        return dict.fromkeys(("copy_gb_per_s", "read_gb_per_s", "write_gb_per_s"), 100.0)

    def launch_ns(self) -> float:
        return 100.0


@pytest.mark.parametrize("limit_s", [0.0, 2.5, 20.0, 60.0])
@pytest.mark.parametrize("step_s", [STEP_S, 2.5])
def test_timings_end_in_time_and_say_what_they_left_out(
    limit_s: float, step_s: float, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_header", lambda clock: {})
    workloads = [StepWorkload(optimizer=name, tensors=many(count, 4)) for count in (2, 3) for name in ("AdamW", "SGD")]
    providers = [Slow(now, "a"), Slow(now, "b")]
    written: list[int] = []
    began = now.s
    document = run.time_all(
        workloads,
        lambda workload: providers,
        Simulated(now, step_s),
        deadline=began + limit_s,
        write=lambda found: written.append(len(found["rows"])),
    )
    # What cannot be interrupted is one provider's being built, or one round.
    assert now.s <= began + limit_s + max(BUILD_S, 2 * step_s)
    timed = {(row["optimizer"], row["workload"]) for row in document["rows"]}
    left = {(row["optimizer"], row["workload"]) for row in document["not_run"]}
    assert timed | left == {(w.optimizer, w.tensors.name) for w in workloads} and not timed & left
    assert len(document["rows"]) == 2 * len(timed) == written[-1]
    assert all(row["step_us"] and row["rounds"] >= ENOUGH and not row["error"] for row in document["rows"])
    if limit_s >= 60 and step_s <= STEP_S:
        assert not left
    if limit_s >= 60:
        assert timed


def test_no_workload_begins_that_would_not_be_over(now: Now, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_header", lambda clock: {})
    workloads = [StepWorkload(optimizer="SGD", tensors=many(2, 4)), StepWorkload(optimizer="AdamW", tensors=many(2, 4))]
    ends = []
    for limit_s in (1e6, 2 * BUILD_S + 5.0):
        began = now.s
        document = run.time_all(
            workloads[: 1 + (limit_s < 1e6)],
            lambda workload: [Slow(now, "a"), Slow(now, "b")],
            Simulated(now),
            deadline=began + limit_s,
        )
        ends.append((now.s - began, len(document["rows"]), len(document["not_run"])))
    # The first takes its builds and a few rounds; there is time left for one build of the second, and none is begun.
    (alone_s, *_), (both_s, *counts) = ends
    assert counts == [2, 1] and both_s <= alone_s and 2 * BUILD_S + 5.0 - both_s > 2.0


def test_no_round_begins_that_would_not_be_over(now: Now) -> None:
    rounds, began = Rounds(limit_s=100.0, deadline=now.s + 10.0), now.s
    for took in (1.0, 3.0, 1.0, 3.0):
        assert rounds.go_on(0, [])
        now.s += took
    # Two seconds are left, and one of three has been seen.
    assert not rounds.go_on(0, []) and (rounds.count, rounds.stopped_by) == (4, "time") and now.s < began + 10


def test_a_part_is_given_the_campaigns_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float]] = []

    class Recorded(campaign.Pool):  # type: ignore[type-arg, misc]
        def __init__(self, **options: Any) -> None:
            seen.append((options["limit_s"], 0.0))

        def run(self, batches: Any, **options: Any) -> Any:
            (batch,) = batches
            (call,) = batch.items
            seen[-1] = (seen[-1][0], call.deadline)
            return mock.Mock(results=[""])

    monkeypatch.setattr(campaign, "Pool", Recorded)
    began = time.monotonic()
    assert campaign.campaign_command(tmp_path, minutes=2.0, dry_run=True, parts=["conform", "timing"]) == 0
    assert len(seen) == 2
    for limit_s, deadline in seen:
        # To be ended by force counts as well.
        assert deadline <= began + 120 and began + limit_s <= began + 121
    assert seen[1][1] > began + 110


@dataclass
class Tuned(HostClock):
    """A device whose kernels take a time that hangs on the shape; a shape that was not compiled ahead takes longer."""

    now: Now
    launched: list[tuple[str, tuple[int, int]]] = field(default_factory=list)
    slow: tuple[int, int] = (0, 0)
    sample_s: float = 0.01

    def __post_init__(self) -> None:
        super().__init__()

    def kernel(self, work: Any, sleep_s: float) -> tuple[int | None, float]:
        work()
        self.now.s += self.sample_s
        _, (block, warps) = self.launched[-1]
        return 1_000 + abs(block - 2048) + 10 * warps + 10_000 * ((block, warps) == self.slow), 0.0

    def copy_gb_per_s(self, bytes_moved: int) -> float:
        return 100.0


class Compiling:
    """Compiles ahead, and what was not takes its time when it is built."""

    def __init__(self, now: Now, clock: Tuned, each_s: float, *, ahead: bool = True) -> None:
        self.now, self.clock, self.each_s, self.ahead = now, clock, each_s, ahead
        self.ready: set[Any] = set()
        self.asked: list[int] = []

    def __call__(self, jobs: Any, limit_s: float) -> None:
        self.asked.append(len(jobs))
        for job in jobs[: int(8 * limit_s / self.each_s)] if self.ahead else ():
            self.ready.add(job)
            self.now.s += self.each_s / 8

    def stepper(self, workload: StepWorkload, recipe: str, parameters: Any, shape: tuple[int, int]) -> Any:
        kernel = (workload.optimizer, recipe, workload.dtype)
        if (kernel, shape) not in self.ready:
            self.now.s += self.each_s
        return lambda: self.clock.launched.append((str(kernel), shape))


def tuned(
    now: Now, monkeypatch: pytest.MonkeyPatch, limit_s: float, **options: Any
) -> tuple[dict[str, Any], Tuned, Any]:
    clock = Tuned(now)
    compiling = Compiling(now, clock, options.pop("each_s", 1.2), ahead=options.pop("ahead", True))
    monkeypatch.setattr(tune, "stepper", compiling.stepper)
    document = tune.tune(clock, elements=64, deadline=now.s + limit_s, compiled=compiling, **options)
    return document, clock, compiling


def reached(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys(map(launch_shape.kernel_of, document["rows"])))


def test_all_kernels_are_reached_in_a_campaigns_share(now: Now, monkeypatch: pytest.MonkeyPatch) -> None:
    every = list(tune.kernels_to_tune())
    began = now.s
    document, _, compiling = tuned(now, monkeypatch, 40.0)
    assert reached(document) == every and document["not_run"] == [] and now.s < began + 40
    # All shapes on the first two, half on the next four, the best four and the one at hand on the others.
    shapes = {kernel: [r for r in document["rows"] if launch_shape.kernel_of(r) == kernel] for kernel in every}
    at_hand = (step_kernel.BLOCK, step_kernel.LAUNCH_OPTIONS["num_warps"])
    counts = [len(shapes[kernel]) for kernel in every]
    assert counts[:2] == [12, 12] and set(counts[2:6]) <= {6, 7} and set(counts[6:]) <= {4, 5}
    assert compiling.asked == [sum(counts[:2]), sum(counts[2:6]), sum(counts[6:])]
    for kernel in every:
        sampled = {(r["block"], r["num_warps"]): len(r["samples_ns"]) for r in shapes[kernel]}
        assert sampled[2048, 2] == sampled[at_hand] == tune.ROUNDS and min(sampled.values()) >= tune.ROUNDS // 3
    assert (document["chosen"]["block"], document["chosen"]["num_warps"]) == (2048, 2)
    assert [kernel[0] for kernel in every[:4]] == ["AdamW", "AdamW", "SGD", "SGD"]
    assert {kernel[2] for kernel in every[:2]} == {"fp32", "bf16"}


@pytest.mark.parametrize("limit_s", [0.0, 5.0, 20.0])
@pytest.mark.parametrize("ahead", [True, False])
def test_what_was_measured_is_kept_and_a_later_run_goes_on(
    limit_s: float, ahead: bool, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, began, written = list(tune.kernels_to_tune()), now.s, []
    first, _, _ = tuned(now, monkeypatch, limit_s, ahead=ahead, write=lambda d: written.append(len(d["rows"])))
    # One kernel that is compiled, or one round over the shapes, is not interrupted.
    assert now.s <= began + limit_s + 1.5
    done = reached(first)
    assert done == every[: len(done)] and first["not_run"] == [list(kernel) for kernel in every[len(done) :]]
    assert written[-1] == len(first["rows"]) and ("chosen" in first) == bool(done)
    second, clock, _ = tuned(now, monkeypatch, 1e6, ahead=ahead, earlier=[{}, first])
    assert second["resumed"] == [list(kernel) for kernel in done] and reached(second) == every
    assert second["rows"][: len(first["rows"])] == first["rows"]
    assert not {str(kernel) for kernel in done} & {kernel for kernel, _ in clock.launched}
    again, _, _ = tuned(now, monkeypatch, 1e6, earlier=[second])
    assert again["rows"] == second["rows"] and again["chosen"] == second["chosen"]


def test_other_kernels_and_machines_are_measured_again(now: Now, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, _ = tuned(now, monkeypatch, 1e6)
    for change in (
        {"elements": 128},
        {"now": [1, 1]},
        {"fingerprints": {}},
        {"provenance": {**first["provenance"], "device_name": "another"}},
        {"rows": [{**row, "block": 3} for row in first["rows"]]},
        {"rows": [{**row, "gb_per_s": "fast"} for row in first["rows"]]},
        {"rows": [{**row, "recipe": []} for row in first["rows"]]},
        {"rows": [row for row in first["rows"] if (row["block"] > 1024) == (row["dtype"] == "fp32")]},
        {"rows": [5, None, {}, {"optimizer": "Nope"}]},
    ):
        again, _, _ = tuned(now, monkeypatch, 1e6, earlier=[{**first, **change}])
        assert again["resumed"] == [] and reached(again) == list(tune.kernels_to_tune())
    prints = {**first["fingerprints"], "sgd": "another"}
    again, _, _ = tuned(now, monkeypatch, 1e6, earlier=[{**first, "fingerprints": prints}])
    assert {kernel[0] for kernel in again["resumed"]} == {k[0] for k in tune.kernels_to_tune()} - {"SGD"}
    assert set(reached(again)) == set(tune.kernels_to_tune())


def test_compiling_ahead_takes_the_steps_that_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.timing import compilers

    with host_cost.without_launches() as sent:
        compilers._compile("cpu", ("AdamW", "foreach", "fp32"), (2048, 2))
    assert sent.launches == 2 and Ours(recipe="foreach").offers("AdamW")
    with compilers.Compilers("cpu") as pool:
        assert pool.compile([], 0.0) == 0
