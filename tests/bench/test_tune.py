"""Every launch shape reaches the kernel that is timed, and what is chosen reaches the source."""

import ast
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from bench.__main__ import main
from bench.timing import host_cost, launch_shape, tune
from bench.timing.clock import HostClock
from kernels import step_kernel
from kernels.backends import triton


class Shaped(HostClock):
    """A device whose kernels take a time that hangs on the shape that was launched."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: list[tuple[int, int]] = []

    def kernel(self, work: Any, sleep_s: float) -> tuple[int | None, float]:
        before = len(self.launched)
        work()
        assert len(self.launched) == before + 1
        block, warps = self.launched[-1]
        return 1_000 + abs(block - 2048) + 10 * warps, 0.0

    def copy_gb_per_s(self, bytes_moved: int) -> float:
        return 100.0


def test_every_shape_is_launched_and_the_best_is_chosen() -> None:
    clock = Shaped()

    def find(recipe: Any, kind: Any, *arguments: Any) -> Any:
        # What a launch is compiled for is what stands in the constants when it is looked for.
        *_, block, _ = kind
        shape = (block, step_kernel.LAUNCH_OPTIONS["num_warps"])
        return lambda programs, given: clock.launched.append(shape)

    now = (step_kernel.BLOCK, dict(step_kernel.LAUNCH_OPTIONS))
    with host_cost.without_launches(), mock.patch.object(triton, "_find", find):
        document = tune.tune(clock, elements=10_000, rounds=2, shapes=[(1024, 4), (2048, 2), (2048, 8)])
    assert now == (step_kernel.BLOCK, step_kernel.LAUNCH_OPTIONS)
    assert {(row["block"], row["num_warps"]) for row in document["rows"]} == {(1024, 4), (2048, 2), (2048, 8)}
    assert {len(row["samples_ns"]) for row in document["rows"]} == {2}
    kernels_tuned = {(row["optimizer"], row["recipe"], row["dtype"]) for row in document["rows"]}
    assert kernels_tuned == set(tune.kernels_to_tune()) and ("AdamAtan2", "native", "fp32") in kernels_tuned
    for row in document["rows"]:
        assert set(row["samples_ns"]) == {1_000 + abs(row["block"] - 2048) + 10 * row["num_warps"]}
    assert (document["chosen"]["block"], document["chosen"]["num_warps"]) == (2048, 2)
    assert document["chosen"]["worst_loss"] == 0.0 and document["now"] == [1024, 4]


def rows(**rates: tuple[float, float]) -> list[dict[str, Any]]:
    """GB/s of two kernels by shape, given as b1024w4."""
    return [
        {"optimizer": name, "recipe": "fused", "dtype": "fp32", "block": block, "num_warps": warps, "gb_per_s": rate}
        for shape, both in rates.items()
        for block, warps in [tuple(map(int, shape[1:].split("w")))]
        for name, rate in zip(("SGD", "Adam"), both, strict=True)
    ]


def test_the_worst_kernel_decides_and_little_changes_nothing() -> None:
    found = launch_shape.choose_shape(rows(b1024w4=(95.0, 95.0), b2048w4=(100.0, 90.0), b512w2=(99.0, 98.0)), (1024, 4))
    assert (found["block"], found["num_warps"]) == (512, 2)
    assert found["worst_loss"] == pytest.approx(0.01) and found["now_loss"] == pytest.approx(0.05)
    kept = launch_shape.choose_shape(rows(b1024w4=(99.7, 100.0), b2048w4=(100.0, 99.9)), (1024, 4))
    assert (kept["block"], kept["num_warps"]) == (1024, 4) and kept["worst_loss"] == pytest.approx(0.003)
    assert launch_shape.choose_shape(rows(b2048w4=(1.0, 1.0)), (1024, 4))["now_loss"] is None


def test_the_chosen_shape_is_written_into_the_source(tmp_path: Path) -> None:
    path = tmp_path / "step_kernel.py"
    source = Path(step_kernel.__file__).read_text()
    path.write_text(source)
    document = {
        "chosen": {"block": 2048, "num_warps": 8, "worst_loss": 0.012},
        "provenance": {"device_name": "NVIDIA H200", "packages": {"triton": "3.7.1"}},
        "elements": 1 << 26,
    }
    launch_shape.write_constants(path, document)
    changed = path.read_text()
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(changed).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("BLOCK", "LAUNCH_OPTIONS")
    }
    assert values == {"BLOCK": 2048, "LAUNCH_OPTIONS": {**step_kernel.LAUNCH_OPTIONS, "num_warps": 8}}
    assert "NVIDIA H200, Triton 3.7.1" in changed and "within 1.2% of the best shape" in changed
    # Nothing else: as many lines differ as the two constants and their reason have.
    assert len(set(source.splitlines()) ^ set(changed.splitlines())) <= 12
    path.write_text("BLOCK = 1")
    with pytest.raises(ValueError, match="does not have BLOCK"):
        launch_shape.write_constants(path, document)


def test_it_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    # Neither has an option --device, so none is named.
    for arguments, remedy in (
        (["tune"], "launch shapes are measured on a GPU alone"),
        (["campaign", "--out", "nowhere"], "give --dry-run to walk it on the CPU"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert "no CUDA device" in error and remedy in error and "--device" not in error
    assert main(["tune", "--elements", "0"]) == 2 and "--elements 0" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", "{", '{"steps": {}, "tune": {}}', "\\x00"])
def test_a_file_of_something_else_is_not_written_over(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lossscale.support.cli.resolve_device", lambda *arguments: "cuda")
    path = tmp_path / "timing.json"
    path.write_text(text)
    assert main(["tune", "--out", str(path)]) == 2
    out, error = capsys.readouterr()
    assert out == "" and len(error.splitlines()) == 1 and "move it away" in error and path.read_text() == text
