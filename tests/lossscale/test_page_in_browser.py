"""A page of several runs as a reader meets it, wide and narrow, in headless Chromium."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lossscale import studies
from lossscale.analysis.judging import Lines
from lossscale.analysis.measured import Measured
from lossscale.report.page import write_report
from lossscale.runs import parts, records
from lossscale.runs.sources import SOURCES
from lossscale.runs.summary import write_lines
from lossscale.studies.window.cells import PLAIN
from lossscale.studies.window.diagram import Diagram, Plane
from lossscale.studies.window.scan import Scan
from tests.lossscale.browser import CHROMIUM, open_page

DOCS = Path(__file__).resolve().parents[2] / "docs"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the PATH"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def window(tmp_path: Path) -> Path:
    """A run of `window` by other code: the kept thresholds and causes, one judged line, one small diagram."""
    run, study = tmp_path / "window", studies.get("window")
    run.mkdir()
    shutil.copy(DOCS / "window.csv", run / "thresholds.csv")
    shutil.copy(DOCS / "causes.csv", run / "causes.csv")
    plane = Plane(powers=tuple(range(-48, 48, 8)), rows_per_binade=1)
    scan = Scan(cell=PLAIN, seed=0, inits=8, largest=4, trained=4)
    drawn = Diagram(cell=PLAIN, plane=plane, seed=0, inits=4, sample=8, trained=4)
    for part in (scan, drawn):
        parts.advance(run, [part], title=part.name, note=lambda text: None, workers=1)
    claim = next(claim for claim in study.claims if claim.id == "S5.window.1")
    lines = Lines(dataclasses.replace(study, claims=(claim,), predictions=()))
    lines.add("wrong_events", Measured(value=0, count=1024), claim, step=100, **PLAIN.columns)
    write_lines(run, lines.frame())
    manifest = records.Manifest(
        study="window", seed=0, spec=None, options={}, provenance={}, resume_key={SOURCES: "of other code"}
    )
    records.write_manifest(run, dataclasses.replace(manifest, finished=True))
    return run


def test_a_page_of_several_runs(window: Path, clip_run: Path, make_run: Callable[..., Path], tmp_path: Path) -> None:
    """No complaint, every chart drawn with its numbers under the pointer, and nothing wider than the window."""
    pytest.importorskip("plotly")
    begun = make_run(name="begun")
    records.write_manifest(begun, dataclasses.replace(records.read_manifest(begun), finished=False))
    (begun / "summary.csv").unlink()
    page = write_report([make_run(), clip_run, window, begun], tmp_path / "page.html", find_study=studies.get)
    for width in (1280, 390):
        told = open_page(page, tmp_path, width=width)
        assert told["seen"] == []
        assert told["width"] <= width and told["needs"] <= told["width"], width
        charts = {re.sub("-[0-9a-f]{8}$", "", chart["id"]): chart for chart in told["charts"]}
        expected = {"window-phase-0", "clip-0", "loss-vs-lr-distance-0", "loss-vs-lr-ratio-0"}
        assert set(charts) == expected and all(chart["drawn"] for chart in charts.values())
    # On a phone a single panel is no wider than the window; panels side by side scroll.
    assert charts["clip-0"]["width"] < 390 and charts["window-phase-0"]["width"] < 390
    assert charts["loss-vs-lr-distance-0"]["width"] > 800
    hovers = {name: chart["hover"] for name, chart in charts.items()}
    assert re.search(
        r"s = 2\^−24, eps / RMS g = 2\^-\d.*class \d: \d of 4 inits.*d ≈ 2\^.*ρ ≈", hovers["window-phase-0"]
    )
    assert re.search(r"s = 0.003906: 0\.\d+", hovers["clip-0"])
    assert "distance" in hovers["loss-vs-lr-distance-0"] and "8 pairs" in hovers["loss-vs-lr-distance-0"]
    assert "closed form" in hovers["loss-vs-lr-ratio-0"]
    text = " ".join(re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]+>", " ", page.read_text(), flags=re.S).split())
    head = text[: text.index("Studies of this page")]
    assert "In float32?" in head and "In bfloat16?" in head and "In float16?" in head and "1,024 pairs a scale" in head
    assert "This run was made by another version of the code" in head
    overview = text[text.index("Studies of this page Predictions are counted") :]
    assert "1 0 0 made by another version of the code loss-vs-lr" in overview
    assert "a part or variant of the study (--quick)" in overview and "loss-vs-lr (begun) not finished" in overview
    assert text.count(" holds ") > 5 and "S5.window.1" in text


def test_a_page_that_complains_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<html><head></head><body><div style='width:700px'>wide</div><script>console.error('a complaint'); "
        "nobody.knows();</script></body></html>"
    )
    told = open_page(page, tmp_path, width=390)
    assert told["seen"] == ["a complaint", "Uncaught ReferenceError: nobody is not defined"] and told["charts"] == []
    assert told["needs"] >= 700 > told["width"]
