"""A file name whose ending promises another format than the one that would be written is refused by every command."""

from pathlib import Path

import pytest

import bench.__main__
import lossscale.__main__
from lossscale.support.errors import check_directory_name

BENCH = [
    (["conform", "--provider", "torch-foreach", "--out", "x.csv"], ".json or .html"),
    (["conform", "--provider", "torch-foreach", "--junit", "x.json"], ".xml"),
    (["golden", "--out", "x.json"], ".npz"),
    (["time", "step", "--out", "x.csv"], ".json"),
    (["time", "host", "--out", "x.html"], ".json"),
    (["time", "population", "--out", "x.csv"], ".json"),
    (["compare", __file__, __file__, "--out", "x.csv"], ".json"),
    (["export", __file__, "--out", "x.html"], ".json"),
    (["export", __file__, "--format", "csv", "--out", "x.json"], ".csv"),
    (["report", "--out", "x.pdf"], ".html"),
    (["static", "--out", "x.html"], ".json"),
]
LOSSSCALE = [
    (["report", "nowhere", "--out", "x.pdf"], ".html"),
    (["picture", "nowhere", "--out", "x.gif"], ".svg or .png or .pdf"),
    (["rescale", "adam", "--scale", "8", "--from", "nowhere.pt", "--out", "x.safetensors"], ".pt or .pth"),
]


@pytest.mark.parametrize("ending", [".csv", ".HTML", ".pt"])
def test_a_runs_directory_has_no_files_name(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"x{ending}"
    assert lossscale.__main__.main(["run", "all", "--quick", "--out", str(out)]) == 2
    captured = capsys.readouterr()
    line = f"error: --out {out}: names a directory here, and the name is a file's; leave {ending} out"
    assert captured.out == "" and line in captured.err and len(captured.err.splitlines()) == 1
    assert not out.exists()


def test_directories_that_are_there_or_have_other_dots_are_taken(tmp_path: Path) -> None:
    (tmp_path / "kept.csv").mkdir()
    for name in ("kept.csv", "new", "v1.2", "scale-0.01"):
        check_directory_name("--out", tmp_path / name)


def test_an_ending_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["rescale", "adam", "--scale", "8", "--from", "a.pt", "--out", str(tmp_path / "o.csv")]
    assert lossscale.__main__.main(arguments) == 2
    assert capsys.readouterr().err.strip().endswith("must end in .pt or .pth or .ckpt or .bin or .tar")


@pytest.mark.parametrize(("arguments", "endings"), BENCH + LOSSSCALE, ids=lambda value: " ".join(value)[:40])
def test_the_line_names_the_endings(
    arguments: list[str], endings: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    main = bench.__main__.main if (arguments, endings) in BENCH else lossscale.__main__.main
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    name, path = arguments[-2:]
    assert f"error: {name} {path}: the file's name must end in {endings}" in captured.err
    assert not Path(path).exists()
