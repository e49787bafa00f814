"""The page: self-contained, complete, and honest about what failed."""

import dataclasses
import functools
import importlib.util
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from lossscale import studies
from lossscale.__main__ import main
from lossscale.design.spec import RunSpec
from lossscale.report import libraries, literature
from lossscale.report import page as report
from lossscale.report.again import command_of
from lossscale.report.curves import below, decades, panels, spread, zero_level
from lossscale.report.neutral import presentation_of
from lossscale.report.page import _once
from lossscale.runs import records
from lossscale.runs.records import read_manifest
from lossscale.runs.sources import SOURCES, digest
from lossscale.runs.summary import read_summary
from lossscale.studies.loss_vs_lr import STUDY
from lossscale.studies.loss_vs_lr.figures import distance_figure
from lossscale.studies.loss_vs_lr.picture import draw
from lossscale.support.errors import InputError
from lossscale.support.html import Section

write_report = functools.partial(report.write_report, find_study=studies.get)

LOADING = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}


class _Loads(HTMLParser):
    """Collects what a browser would fetch, and the text that people see."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.scripts = 0
        self.styles: list[str] = []
        self.text: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.scripts += tag == "script"
        self.fetched += [
            value or "" for name, value in attrs if name in LOADING and not (value or "").startswith(("#", "data:"))
        ]
        self.styles += [value or "" for name, value in attrs if name == "style"]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.styles.append(data)
        elif self._inside != "script":
            self.text.append(data)


def _read(page: Path) -> tuple[_Loads, str]:
    loads = _Loads()
    loads.feed(page.read_text(encoding="utf-8"))
    return loads, " ".join(" ".join(loads.text).split())


def test_the_page_loads_nothing_and_holds_plotly_once(make_run: Callable[..., Path]) -> None:
    page = write_report([make_run()])
    loads, _ = _read(page)
    assert page.name == "report.html"
    assert loads.fetched == []
    assert not any(re.search(r"@import|url\(\s*['\"]?(?!data:|#)", style) for style in loads.styles)
    assert page.read_text(encoding="utf-8").count("* plotly.js v") == 1


def test_the_page_has_answer_table_pictures_controls_limits_and_provenance(make_run: Callable[..., Path]) -> None:
    page = write_report([make_run()])
    _, text = _read(page)
    for words in (
        *("Does multiplying the loss by s change training?", "Is it the same as multiplying the learning rate by s?"),
        *(
            "Yes: all 48 pairs agree",
            "No prediction failed.",
            "one-ulp control",
            "Controls",
            "Limits",
            "Adam eps=0.001",
        ),
        *("seed 7", "provenance.packages.torch", "2.x <test>"),
    ):
        assert words in text, words
    html = page.read_text(encoding="utf-8")
    assert 'id="loss-vs-lr-distance-0-' in html and 'id="loss-vs-lr-ratio-0-' in html


def test_a_failed_prediction_is_in_the_answer_and_listed(make_run: Callable[..., Path]) -> None:
    _, text = _read(write_report([make_run(mapped_identical=False)]))
    assert "Not always: 0 of 48 pairs agree" in text
    assert "Failed predictions: 6" in text
    assert "No prediction failed" not in text


def test_several_runs_make_one_page_and_are_told_apart(make_run: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    assert write_report([make_run(name="a"), make_run(name="b", mapped_identical=False)], out) == out
    html = out.read_text(encoding="utf-8")
    assert html.count("* plotly.js v") == 1
    assert "loss-vs-lr (a): Pictures" in html and "loss-vs-lr (b): Pictures" in html
    # At the head each one's first sentence; the others stand with their study.
    head, _, rest = html.partition("<nav")
    assert head.count("Does multiplying the loss by s change training?") == 2 and "Not always" not in head
    assert "loss-vs-lr (b): Answer" in rest and "Not always" in rest
    anchors = re.findall(r'<section id="([^"]*)"', html)
    assert len(anchors) == len(set(anchors)) == 17


def test_the_navigation_wraps_and_wide_things_scroll_in_themselves(make_run: Callable[..., Path]) -> None:
    html = write_report([make_run()]).read_text(encoding="utf-8")
    assert re.search(r"nav \{ display: flex; flex-wrap: wrap", html)
    assert ".scroll { overflow-x: auto" in html and ".drawing { overflow-x: auto" in html
    assert html.count("<table>") == html.count('<div class="scroll"><table>') > 3
    assert html.count("<figure>") == html.count('<figure><div class="drawing">') > 1


def test_without_plotly_one_line_says_how_to_get_the_page(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    real = importlib.util.find_spec
    monkeypatch.setattr(libraries, "find_spec", lambda name: None if name == "plotly" else real(name))
    with pytest.raises(libraries.LibraryMissing, match=r"pip install plotly") as caught:
        write_report([run])
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


def test_a_folder_without_a_finished_run_is_refused(make_run: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        write_report([tmp_path])
    run = make_run()
    (run / "summary.csv").unlink()
    with pytest.raises(InputError, match="holds no finished run"):
        write_report([run])
    assert main(["picture", str(run)]) == 2


def test_the_picture_names_what_it_draws_and_is_the_same_again(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run()
    assert main(["picture", str(run)]) == 0
    picture = (run / "picture.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(picture)
    drawn = set(re.findall(r"<!-- (.*?) -->", picture))  # matplotlib draws letters as shapes and names them
    assert {"SGD", "Adam", "loss × s", "lr × s", "rounding (one-ulp control)", "same bits"} <= drawn
    assert main(["picture", str(run), "--out", str(tmp_path / "again.svg")]) == 0
    assert (tmp_path / "again.svg").read_text(encoding="utf-8") == picture
    assert main(["picture", str(run), "--out", str(tmp_path / "some.png")]) == 0
    assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_is_one_line(
    make_run: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_run()
    with pytest.raises(ValueError, match="'elsewhere'"):
        draw(read_summary(run), tmp_path / "x.svg", "elsewhere")
    assert main(["picture", str(run), "--out", str(tmp_path / "x.doc")]) == 2
    assert "x.doc: the file's name must end in .svg or .png or .pdf" in capsys.readouterr().err
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    assert main(["picture", str(run)]) == 2
    assert "the picture needs matplotlib: pip install matplotlib" in capsys.readouterr().err
    assert not list(run.glob("picture*")) and not list(tmp_path.glob("x.*"))


def test_zero_is_drawn_below_every_distance(make_run: Callable[..., Path]) -> None:
    found = panels(read_summary(make_run()))
    assert [panel.options for panel in found] == ["", "", "eps=0.001"]
    assert zero_level([0.5, 0.0, 1.5e-7, float("nan")]) == pytest.approx(1e-8)
    assert zero_level([0.0]) > 0
    assert found[0].floor == pytest.approx(1e-7)


def test_axes_mark_a_handful_of_decades() -> None:
    assert decades(-4.0, 4.0) == [-4, -2, 0, 2, 4]
    assert decades(-1.2, 3.0) == [-1, 0, 1, 2, 3]
    assert decades(0.0, 30.1) == [0, 8, 16, 24]


def test_labels_are_moved_apart_and_keep_their_order() -> None:
    placed = spread([1.0, 1.1, 5.0, 0.9], gap=0.5)
    assert [int(place) for place in np.argsort(placed)] == [3, 0, 1, 2]
    assert np.diff(sorted(placed)).min() >= 0.5 - 1e-6
    assert placed[2] == 5.0
    assert spread([1.0, 3.0], gap=0.5) == [1.0, 3.0]
    assert below(5.0, [5.2, 4.9, 1.0], gap=0.5) == [5.0, 4.5, 1.0]


def test_labels_at_line_ends_do_not_touch(make_run: Callable[..., Path]) -> None:
    figure = distance_figure(read_summary(make_run()), "mlp-6-6-1")
    inside = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    panels_of: dict[str, list[float]] = {}
    for note in figure.layout.annotations:
        if str(note.yref).startswith("y"):
            axis = figure.layout[str(note.yref).replace("y", "yaxis")]
            pixels = (axis.domain[1] - axis.domain[0]) * inside
            panels_of.setdefault(note.yref, []).append(
                (note.y - axis.range[0]) / (axis.range[1] - axis.range[0]) * pixels
            )
            assert note.y <= axis.range[1]
    assert len(panels_of) == 3
    for heights in panels_of.values():
        # Letters of 11 points are 15 pixels high.
        assert len(heights) >= 2 and min(np.diff(sorted(heights))) >= 15


def test_a_page_says_how_to_make_its_run_again(make_run: Callable[..., Path]) -> None:
    manifest = read_manifest(make_run())
    assert STUDY.grid is not None
    whole = RunSpec.of(STUDY.name, STUDY.grid, seed=7, device="cpu", backend="simd").as_dict()
    spec = {**whole, "policies": ["bf16-true"], "engine": "trainer", "scales": [0.5, 2.0]}
    again = command_of(dataclasses.replace(manifest, spec=spec, seed=7), studies.get("loss-vs-lr"))
    for words in ("run loss-vs-lr", "--policy bf16-true", "--engine trainer", "--scale 0.5 --scale 2", "--seed 7"):
        assert words in again, again
    script = dataclasses.replace(manifest, study="mid-run", spec=None, options={"quick": True, "steps": None}, seed=0)
    assert command_of(script, studies.get("mid-run")) == "python -m lossscale run mid-run --quick"


def test_published_numbers_stand_beside_ours() -> None:
    columns = ["network", "policy", "quantity", "measured", "step", "prediction", "verdict", "pairs"]
    lines = [
        ["char-transformer", "fp32", "share_g_zero_in_fp16", share, step, "", "", 8]
        for share, step in ((0.5, 1), (0.03, 9))
    ]
    (row,) = literature.rows("real-gradients", pd.DataFrame(lines, columns=columns))
    assert row["ours"] == "lost in float16 (|g| ≤ 2⁻²⁵): 3 % (char-transformer)" and "1710.03740" in row["source"]
    assert row["published"] and row["beside each other"].startswith("Less is lost here")
    assert list(literature.rows("clip", pd.DataFrame(lines, columns=columns))) == []


def test_a_published_number_is_beside_ours_of_the_same_thing() -> None:
    # AdamW's inert decay moves a share of 0 at step 100; the anchor is about updates, of step 1.
    columns = ["network", "quantity", "measured", "step", "prediction"]
    lines = [["", "share_moved", 0.25, 1, "S4e.moves.1"], ["", "share_moved", 0.0, 100, "S8.decay.1"]]
    summary = pd.DataFrame(lines, columns=columns).assign(
        policy="bf16-true", options="", verdict="", pairs=1, lo=0, hi=1
    )
    found = {row["source"]: row["ours"] for row in literature.rows("bf16-ratchet", summary)}
    assert found == {"Zamirai et al. 2020, arXiv 2010.06192": "parameters that move in a step, lr 6e-7 to 1e-3: 25 %"}
    cited = " ".join(anchor.source for anchor in literature.ANCHORS)
    papers = ("2601.21739", "2501.00656", "2603.16731", "2507.07101", "1910.05446", "2412.19437", "2309.14322")
    for paper in (*papers, "branch completep"):
        assert paper in cited, paper
    assert {anchor.study for anchor in literature.ANCHORS} <= set(studies.names())


def test_every_study_has_limits_of_its_own() -> None:
    own = [tuple(presentation_of(study).limits) for study in studies.every()]
    assert all(own) and len(set(own)) == len(own)
    assert not [text for texts in own for text in texts if len(text) < 60 or not text.endswith(".")]


def test_a_run_of_other_code_says_so(make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    words = "made by another version of the code"
    assert words not in write_report([run]).read_text(encoding="utf-8")
    manifest = read_manifest(run)
    records.write_manifest(run, dataclasses.replace(manifest, resume_key={SOURCES: "0123456789abcdef"}))
    assert words in write_report([run]).read_text(encoding="utf-8")
    assert main(["verdicts", str(run)]) == 0 and words in capsys.readouterr().out
    assert main(["verdicts", str(run), "--json"]) == 0 and words in capsys.readouterr().err
    records.write_manifest(run, dataclasses.replace(manifest, resume_key={SOURCES: digest("loss-vs-lr")}))
    assert words not in write_report([run]).read_text(encoding="utf-8")


def test_a_part_of_a_study_says_so(make_run: Callable[..., Path]) -> None:
    run, words = make_run(), "This run is a part or variant of the study (--scale 0.5 --scale 2 --policy bf16-true)"
    assert STUDY.grid is not None
    whole = RunSpec.of(STUDY.name, STUDY.grid, seed=7, device="cpu", backend="simd").as_dict()
    for spec, said in ((whole, False), ({**whole, "policies": ["bf16-true"], "scales": [0.5, 2.0]}, True)):
        # Which engine makes the pairs decides nothing that the page shows.
        spec = {**spec, "engine": "batched"}
        records.write_manifest(run, dataclasses.replace(read_manifest(run), spec=spec))
        assert (words in write_report([run]).read_text(encoding="utf-8")) is said
    records.write_manifest(run, dataclasses.replace(read_manifest(run), spec=None, options={"quick": True}))
    assert "part or variant of the study (--quick)" in write_report([run]).read_text(encoding="utf-8")


def test_a_page_of_several_runs_says_how_each_stands(make_run: Callable[..., Path], tmp_path: Path) -> None:
    whole, failed, begun = make_run(name="a"), make_run(name="b", mapped_identical=False), make_run(name="begun")
    (begun / "summary.csv").unlink()
    for run in (failed, begun):
        records.write_manifest(run, dataclasses.replace(read_manifest(run), finished=False))
    _, text = _read(write_report([whole, failed, begun], tmp_path / "page.html"))
    overview = text[text.index("Studies of this page") :]
    asks = "Is a loss multiplied by s a learning rate multiplied by s?"
    assert f"loss-vs-lr (a) {asks} 19 0 0 whole, of today’s code loss-vs-lr (b) {asks} 13 6 0 not finished" in overview
    assert "loss-vs-lr (begun) not finished" in overview
    assert "This run is not finished: continue it with --resume." in text
    with pytest.raises(InputError, match="holds no finished run"):
        write_report([begun])
    with pytest.raises(InputError, match="holds no finished run"):
        write_report([begun, begun], tmp_path / "none.html")


def test_the_study_with_the_answer_comes_first_and_alone(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = [make_run(name="a"), make_run(name="b", mapped_identical=False)]
    leading = dataclasses.replace(STUDY, leads=True)
    # The second run is of the study that leads.
    found = iter([STUDY, leading])
    html = write_report(runs, tmp_path / "page.html", find_study=lambda name: next(found)).read_text(encoding="utf-8")
    head, _, rest = html.partition("<nav")
    assert "Not always" in head and "Yes: all" not in head
    assert "loss-vs-lr (a): Answer" in rest and "Yes: all" in rest


def test_the_list_at_the_top_has_every_run_of_several_once() -> None:
    sections = [
        Section(title=title, body="", anchor=title) for title in ("clip: Answer", "clip: Limits", "origin: Answer")
    ]
    assert [section.listed for section in sections] == ["clip: Answer", "clip: Limits", "origin: Answer"]
    assert [section.listed for section in _once(sections)] == ["clip", "", "origin"]


def test_the_page_of_a_script_has_its_limits_too(clip_run: Path) -> None:
    page = (clip_run / "report.html").read_text(encoding="utf-8")
    assert 'id="clip-limits"' in page and "Intervals are exact 95 % intervals" in page
    assert "Clipping per layer is not looked at" in page
