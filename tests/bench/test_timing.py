import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.__main__ import main
from bench.providers import Ours, TorchOptim, Traits
from bench.providers.base import Provider
from bench.store.schema import COLUMNS, StepRow
from bench.timing import measure
from bench.timing.clock import HostClock
from bench.timing.measure import time_workload
from bench.timing.timed import Timed
from bench.timing.workloads import StepWorkload, many, one, parse_tensors

SMALL = StepWorkload(optimizer="SGD", tensors=many(3, 64))


@dataclass(frozen=True)
class WrongLater(Provider):
    """Says that its bits are those of the reference; from some step on they are not."""

    at: int

    @property
    def name(self) -> str:
        return f"wrong-at-{self.at}"

    @property
    def traits(self) -> Traits:
        return Traits(bits_known=True)

    def build(self, optimizer: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
        made = Ours(recipe="foreach").build(optimizer, groups, options)
        counted, sound = [0], made.step

        def step(closure: Any = None) -> None:
            counted[0] += 1
            sound()
            if counted[0] == self.at:
                with torch.no_grad():
                    groups[0]["params"][0][5] += 1

        vars(made)["step"] = step
        return made


@pytest.mark.parametrize("at", [1, 12])
def test_a_row_with_wrong_bits_has_no_time(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # However slow the machine, the reference catches up.
    monkeypatch.setattr(measure, "_CATCH_UP_S", 1e9)
    providers = [TorchOptim(implementation="foreach"), WrongLater(at=at), Ours(recipe="foreach")]
    rows, lacking = time_workload(SMALL, providers, HostClock(), 0.05)
    assert lacking == []
    sound, wrong, ours = rows
    assert wrong.differing_elements == 1 and "wrong bits: 1 of" in wrong.error and "reference-foreach" in wrong.error
    assert wrong.step_time_ns is wrong.gb_per_s is wrong.queued_time_ns is None and wrong.samples_step_ns == []
    # Torch claims nothing here, and so nothing is checked.
    assert sound.differing_elements is None and sound.step_time_ns
    assert ours.differing_elements == 0 and ours.step_time_ns and ours.gb_per_s and ours.share_of_copy


def test_what_is_not_offered_has_a_line_and_no_row() -> None:
    workload = StepWorkload(optimizer="RMSprop", tensors=one(64))
    rows, lacking = time_workload(workload, [TorchOptim(implementation="fused")], HostClock(), 0.01)
    assert rows == [] and lacking == ["torch-fused: torch has no fused RMSprop"]


def test_a_provider_that_breaks_has_a_row_that_says_so() -> None:
    class Broken(TorchOptim):
        def build(self, *arguments: Any) -> torch.optim.Optimizer:
            raise ZeroDivisionError("planted")

    (row,), _ = time_workload(SMALL, [Broken(implementation="foreach")], HostClock(), 0.01)
    assert "planted" in row.error and row.step_time_ns is None


def test_command_has_the_columns_of_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "times.json"
    arguments = ["--device", "cpu", "--quick", "--workload", "2^6", "--workload", "3x50", "--optimizer", "adam_atan2"]
    assert main(["time", "step", *arguments, "--provider", "kernels-native", "--json", "--out", str(out)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["workload"] for row in document["rows"]] == ["2^6", "3x50"]
    for row in document["rows"]:
        assert list(row)[: len(COLUMNS) + 1] == [*COLUMNS[:7], "queued_us", *COLUMNS[7:]]
        assert row["optimizer"] == "AdamAtan2" and row["step_us"] > 0 and row["host_us"] > 0
        assert StepRow.from_dict(row).step_time_ns == pytest.approx(1000 * row["step_us"])
    assert json.loads(out.read_text())["rows"] == document["rows"]


def test_the_command_says_whose_times_are_those_of_a_device_held_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def settled(one: Timed, fewest: int) -> None:
        one.throttled, one.throttled_by = one.provider.name == "torch-fused", {"power"}

    monkeypatch.setattr(Timed, "settle", settled)
    providers = ("--provider", "torch-fused", "--provider", "torch-foreach")
    assert (
        main(["time", "step", "--device", "cpu", "--quick", "--workload", "2^8", "--optimizer", "SGD", *providers]) == 0
    )
    notes = [line for line in capsys.readouterr().out.splitlines() if "held back" in line]
    assert notes == ["times of a device that was held back by power: torch-fused SGD 2^8"]


def test_a_command_that_timed_nothing_failed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["time", "step", "--device", "cpu", "--quick", "--workload", "2^6", "--optimizer", "adam"]
    refuses = ["--provider", "torch.optim:SparseAdam"]
    assert main([*arguments, *refuses]) == 1
    assert "no time: torch.optim:SparseAdam" in "".join(capsys.readouterr())
    assert main([*arguments, *refuses, "--provider", "torch-fused"]) == 0
    assert "no time: torch.optim:SparseAdam" in "".join(capsys.readouterr())


def test_rows_of_the_version_before_are_read() -> None:
    old = {"provider": "torch-fused", "optimizer": "SGD", "dtype": "fp32", "tensors": 10_000, "elements": 640_000}
    assert StepRow.from_dict(old).workload == "10000x64"
    with pytest.raises(ValueError, match="not a row of step times"):
        StepRow.from_dict({"provider": "torch-fused"})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--workload", "gpt2"), "did you mean gpt2-124m?"),
        (("--workload", "2^40"), "at most 2^32"),
        (("--workload", "0x3"), "1x1"),
        (("--workload", "2^32", "--optimizer", "adam"), "GB"),
        (("--provider", "torch-fussed"), "did you mean torch-fused?"),
        (("--provider", "apex"), "cuda"),
        (("--optimizer", "ADMA"), "did you mean Adam?"),
        (("--dtype", "fp64"), "--dtype"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostClock, "free_bytes", lambda self: 1 << 32)
    assert main(["time", "step", "--device", "cpu", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert complaint in captured.err


class PretendedDevice(HostClock):
    """A device whose launch queue is too short, or is not."""

    def __init__(self, enqueue_s: float) -> None:
        super().__init__()
        self.enqueue_s, self.sleeps = enqueue_s, [0.0]

    def kernel(self, work: Any, sleep_s: float) -> tuple[int | None, float]:
        work()
        self.sleeps.append(sleep_s)
        return 5_000, self.enqueue_s

    def step(self, work: Any) -> tuple[int, int | None]:
        return super().step(work)[0] + 1, 1


def test_kernel_times_come_from_events_where_the_host_keeps_ahead() -> None:
    (row,), _ = time_workload(SMALL, [TorchOptim(implementation="foreach")], PretendedDevice(0.0), 0.05)
    assert (row.kernel_time_ns, row.kernel_time_from, row.host_time_ns) == (5_000, "events", 1)
    assert len(row.samples_kernel_ns) == len(row.samples_step_ns) == row.rounds >= 7
    assert len(row.samples_queued_ns) == -(-row.rounds // 3)


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_a_step_that_overruns_the_launch_queue_has_no_time_from_events() -> None:
    clock = PretendedDevice(9.0)
    (row,), _ = time_workload(SMALL, [TorchOptim(implementation="foreach")], clock, 0.05)
    assert row.samples_kernel_ns == [] and row.kernel_time_from is None and row.step_time_ns
    assert max(clock.sleeps) == 0.2 and len(clock.sleeps) < 6


def test_what_does_not_fit_together_is_timed_apart_with_its_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [TorchOptim(implementation="fused"), TorchOptim(implementation="foreach")]
    providers = [*pairs, Ours(recipe="fused"), Ours(recipe="foreach")]
    assert len(measure._fitting(SMALL, providers, HostClock())) == 1
    monkeypatch.setattr(HostClock, "free_bytes", lambda self: SMALL.state_bytes() * 4)
    names = [[provider.name for provider in group] for group in measure._fitting(SMALL, providers, HostClock())]
    assert names == [["torch-fused", "kernels-fused"], ["torch-foreach", "kernels-foreach"]]


def test_names_of_tensors() -> None:
    assert parse_tensors("2^10").shapes == ((1024,),)
    assert len(parse_tensors("10000x49").shapes) == 10_000 and parse_tensors("10000x49").elements == 490_000
    assert parse_tensors("ResNet50").name == "resnet50"
