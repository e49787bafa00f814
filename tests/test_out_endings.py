"""A file name whose ending promises another format than the one that would be written is refused by every command."""

from pathlib import Path

import pytest

import bench.__main__
import lossscale.__main__

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
