"""The study of the window, small: its exact predictions, its plane, its parts after a kill, its page's words."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import kernels
from lossscale.analysis.phases import WORDS
from lossscale.design.policies import POLICIES
from lossscale.design.study import StudyContext
from lossscale.report.neutral import presentation_of
from lossscale.runs import parts
from lossscale.studies import get
from lossscale.studies.window import answers, kept, script, steps
from lossscale.studies.window.cells import AMSGRAD, PLAIN_TRUE, Cell, cells, repaired
from lossscale.studies.window.compare import bases, differing, watch
from lossscale.studies.window.diagram import Diagram, Plane
from lossscale.studies.window.extremes import Extremes
from lossscale.studies.window.floor import floor_of, upper_quantile
from lossscale.studies.window.look import drawing, shade
from lossscale.studies.window.numbers import Numbers
from lossscale.studies.window.scan import Scan, half_border
from lossscale.studies.window.training import Arm, Runs, Setting, families, with_eps
from lossscale.support.errors import InputError

EIGHT = families(0, 8, 6)
SCALES = [2.0**k for k in (-30, -20, -8, -1, 1, 8)]


def _setting(cell: Cell) -> Setting:
    return Setting(optimizer=cell.optimizer, recipe=cell.recipe, policy=cell.formats)


@pytest.mark.parametrize(
    "cell",
    [
        Cell(optimizer="adam", policy="fp32"),
        Cell(optimizer="adam", policy="fp32", options=AMSGRAD),
        Cell(optimizer="adam", policy="bf16-true", recipe="fused", options=AMSGRAD),
        Cell(optimizer="adamw", policy="bf16-true"),
        Cell(optimizer="adamw", policy="bf16-true", recipe="fused"),
        Cell(optimizer="rmsprop", policy="bf16-state"),
        Cell(optimizer="adagrad", policy="fp16-mixed"),
        Cell(optimizer="adagrad", policy="bf16-true", recipe="fused"),
        Cell(optimizer="adam", policy="fp16-state"),
    ],
    ids=lambda cell: cell.name,
)
def test_the_predicted_event_is_the_measured_one(cell: Cell) -> None:
    begin = steps.shared(_setting(cell), EIGHT, cell.base, 3)
    measured, inside = steps.changes(_setting(cell), begin, SCALES, cell.base)
    predicted = steps.predicted_changes(_setting(cell), begin, SCALES, cell.base)
    assert int(((measured != predicted) & inside).sum()) == 0
    assert (measured & inside).any() and (~measured & inside).any()


def test_a_denominator_of_another_format_would_be_seen() -> None:
    """The prediction of a fused step with an eager step's denominator fails: storage does not decide the row."""
    fused = Cell(optimizer="adam", policy="bf16-true", recipe="fused")
    begin = steps.shared(_setting(fused), EIGHT, fused.base, 3)
    measured, inside = steps.changes(_setting(fused), begin, SCALES, fused.base)
    eager = Setting(optimizer="adam", recipe="foreach", policy=fused.formats)
    predicted = steps.predicted_changes(eager, begin, SCALES, fused.base)
    assert int(((measured != predicted) & inside).sum()) > 0


@pytest.mark.parametrize("policy", ["fp32", "bf16-true", "bf16-state"])
def test_in_range_the_plane_has_one_dimension(policy: str) -> None:
    cell = Cell(optimizer="adam", policy=policy)
    arms = []
    for scale, eps in ((2.0**-12, 2.0**-30), (64.0, 2.0**-10), (2.0**-4, 2.0**-6)):
        arms.append(Arm(hyper=with_eps(cell.base, eps / scale), base=len(arms)))
        arms.append(Arm(hyper=with_eps(cell.base, eps), scale=scale, base=len(arms) - 1))
    seen = watch(_setting(cell), EIGHT, arms, [1, 3, 5], ranges=False)
    assert seen.exact[:, [1, 3, 5]].all()
    # Against the unscaled run with the same eps they differ.
    other = [Arm(hyper=with_eps(cell.base, 2.0**-6)), Arm(hyper=with_eps(cell.base, 2.0**-6), scale=2.0**-4)]
    assert not watch(_setting(cell), EIGHT, other, [1], ranges=False).exact[:, 1].any()


def test_what_comes_back_has_not_been_exact() -> None:
    """Bits are compared after every step: in bf16-true pairs part and meet again."""
    cell = Cell(optimizer="adam", policy="bf16-true")
    given = families(0, 64, 60)
    arms = [Arm(hyper=cell.base), Arm(hyper=cell.base, scale=2.0**-6)]
    runs = Runs(_setting(cell), given, arms)
    runs.to(60)
    at_the_end = ~differing(runs.params, bases(arms))[:, 1].numpy()
    throughout = watch(_setting(cell), given, arms, [1], ranges=False).exact[:, 1]
    assert (throughout <= at_the_end).all() and throughout.sum() < at_the_end.sum()


def test_a_walk_has_the_bits_of_a_run_at_every_step() -> None:
    cell = Cell(optimizer="adam", policy="bf16-state")
    arms = [Arm(hyper=with_eps(cell.base, 2.0**-k), scale=2.0**k) for k in range(5)]
    walked, run = (Runs(_setting(cell), EIGHT, arms) for _ in range(2))
    for step in walked.trainer.walk(EIGHT.data[:5]):
        run.to(step)
        assert kernels.bits.mismatches(walked.params, run.params) == 0
        if step == 4:
            break
    assert walked.trainer.step_count == 4
    assert all(kernels.bits.mismatches(walked.state[name], run.state[name]) == 0 for name in run.state)


def test_float32_stays_in_range_where_float16_does_not() -> None:
    scales = np.array([2.0**-60, 2.0**-4, 1.0, 2.0**4, 2.0**70])
    found = {}
    for policy in ("fp32", "fp16-mixed"):
        cell = Cell(optimizer="adam", policy=policy)
        runs = Runs(_setting(cell), EIGHT, [Arm(hyper=cell.base)])
        extremes = Extremes(runs)
        for _ in range(3):
            extremes.see(runs.step())
        found[policy] = extremes.in_range(scales)[:, 0].mean(0).tolist()
    assert found == {"fp32": [0.0, 1.0, 1.0, 1.0, 0.0], "fp16-mixed": [0.0] * 5}


def test_repairs_change_what_they_name() -> None:
    true = POLICIES["fp16-true"]
    assert vars(repaired(true, frozenset("V"))) == {**vars(true), "state": "fp32"}
    assert repaired(true, frozenset("VG")) == POLICIES["fp32"]
    assert repaired(POLICIES["fp16-mixed"], frozenset("G")) == POLICIES["fp32"]
    assert repaired(true, frozenset()) == true


def test_the_predicted_numbers_come_from_many_initialisations_and_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Numbers(cell=PLAIN_TRUE, seed=0, inits=24, trained=6)
    whole = part.compute(Path())
    monkeypatch.setattr("lossscale.studies.window.numbers._AT_ONCE", 10)
    assert all(np.array_equal(whole[name], array) for name, array in part.compute(Path()).items())
    scan = Scan(cell=PLAIN_TRUE, seed=0, inits=24, largest=2, trained=6).compute(Path())
    assert all(np.array_equal(whole[name], scan[name]) for name in ("rms", "ulp", "ulp_first", "root_last", "moved"))
    assert whole["biased"].shape == (24,) and (whole["biased"] > 0).any()


def test_under_amsgrad_the_largest_moment_divides() -> None:
    cell = Cell(optimizer="adam", policy="fp32", options=AMSGRAD)
    assert cell.name == "adam-amsgrad=True-foreach-fp32-lr0.01" and cell.columns["options"] == "lr=0.01,amsgrad=True"
    runs = Runs(_setting(cell), EIGHT, [Arm(hyper=cell.base)])
    runs.to(6)
    assert (runs.second_moment == runs.state["max_exp_avg_sq"]).all()
    assert (runs.state["max_exp_avg_sq"] > runs.state["exp_avg_sq"]).any()


def test_a_floor_that_judges_nothing_is_replaced_by_float32s() -> None:
    values = np.linspace(0.0, 0.1, 1000)
    part = {"floor": values, "ulp": values, "float32_floor": values / 1e6}
    assert floor_of(part).used == floor_of(part).mapped == pytest.approx(0.099, abs=1e-3)
    part["floor"] = values + 1.0
    assert floor_of(part).used == pytest.approx(0.099e-6, rel=0.01) and floor_of(part).mapped > 1.0
    assert upper_quantile(np.array([np.nan, 1.0, np.inf])) == np.inf


def test_half_of_the_pairs_differ_from_their_border_on() -> None:
    part = {
        "eps": 2.0 ** np.arange(-4.0, 0.0),
        "eps_differs": np.eye(4, dtype=bool)[[1, 3]],
        "rms": np.array([0.5, 1.0]),
    }
    assert half_border(part).tolist() == [-2.0, -1.0]


PLANE = Plane(powers=tuple(range(-48, 48, 16)), rows_per_binade=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("window")
    cell = Cell(optimizer="adam", policy="bf16-true")
    made = [Scan(cell=cell, seed=0, inits=8, largest=4, trained=6)]
    parts.advance(run, made, title="thresholds", note=lambda text: None, workers=1)
    parts.advance(run, [_diagram()], title="diagrams", note=lambda text: None, workers=1)
    return run


def _diagram() -> Diagram:
    return Diagram(cell=Cell(optimizer="adam", policy="bf16-true"), plane=PLANE, seed=0, inits=4, sample=8, trained=6)


def test_a_part_that_was_lost_comes_back_with_the_same_bytes(small: Path) -> None:
    path = small / "parts" / f"{_diagram().name}.npz"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-7])
    said: list[str] = []
    parts.advance(small, [_diagram()], title="diagrams", note=said.append, workers=1)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before and said[0] == "diagrams: 1 parts"
    parts.advance(small, [_diagram()], title="diagrams", note=said.append, workers=1)
    assert said[-1] == "diagrams: 0 parts; 1 are there already"


def test_the_diagram_is_what_running_every_pixel_shows(small: Path) -> None:
    """The column of s = 1 is exact, pixels that were drawn are those that are run, and eps / s decides."""
    arrays = parts.read_part(small, _diagram().name)
    assert int(arrays["sampled"]) == 32 and int(arrays["sample_differs"]) == 0
    column = PLANE.powers.index(0)
    reference = arrays["phase"][:, column] != 1
    assert reference.any() and (arrays["phase"][reference, column] == 3).all()
    cell = Cell(optimizer="adam", policy="bf16-true")
    given = families(0, 4, 6)
    rows = np.flatnonzero(reference)[::7]
    arms = [Arm(hyper=with_eps(cell.base, float(arrays["eps"][row])), base=place) for place, row in enumerate(rows)]
    arms += [Arm(hyper=arm.hyper, scale=2.0**-16, base=place) for place, arm in enumerate(arms)]
    exact = watch(_setting(cell), given, arms, range(len(rows), len(arms)), ranges=False).exact[:, len(rows) :]
    shown = arrays["phase"][rows, PLANE.powers.index(-16)] == 3
    assert (shown == (exact.mean(0) > 0.5)).all() and shown.any() and not shown.all()


def test_the_drawing_has_colours_and_predicted_borders(small: Path) -> None:
    drawn = drawing(Cell(optimizer="adam", policy="bf16-true"), parts.read_part(small, _diagram().name))
    assert drawn.level.shape == (64, len(PLANE.powers)) and drawn.level.max() < 24
    assert [border.dash for border in drawn.borders][:2] == ["solid", "dash"]
    assert shade(drawn.present[0], 1.0) != shade(drawn.present[0], 0.5)


def test_what_is_kept_of_a_run(small: Path, tmp_path: Path) -> None:
    """Thresholds whole, causes of the borders and of every fourth power, a sheet per optimizer."""
    pytest.importorskip("matplotlib")
    cell = {"optimizer": "adam", "options": None, "recipe": "foreach", "policy": "bf16-true", "lr": 0.01}
    borders = [{**cell, "kind": "floor", "side": "s < 1", "inits": 64, "q50": -3.0}]
    borders += [{**cell, "kind": "run", "side": "s < 1", "inits": 64, "q50": -2.0}, {**borders[0], "policy": "fp32"}]
    causes = pd.DataFrame([{**cell, "at": "run", "power": power, "share_E": 1 / 3} for power in range(-5, 6)])
    run, out = tmp_path / "run", tmp_path / "kept"
    run.mkdir()
    out.mkdir()
    pd.DataFrame(borders).to_csv(run / "thresholds.csv", index=False)
    causes.to_csv(run / "causes.csv", index=False)
    drawn = drawing(PLAIN_TRUE, parts.read_part(small, _diagram().name))
    other = dataclasses.replace(drawn, cell=dataclasses.replace(PLAIN_TRUE, options=AMSGRAD))
    written = list(kept.keep(run, out, [drawn, other], 6))
    assert [path.name for path in written] == ["window.csv", "causes.csv", "window.png", "window-adam-amsgrad.png"]
    assert (out / "window.csv").read_bytes() == (run / "thresholds.csv").read_bytes()
    found = pd.read_csv(out / "causes.csv")
    assert found["power"].tolist() == [-4, -3, 0, 4] and found["share_E"].iloc[0] == 0.333333
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[2:])


def test_a_study_with_nothing_to_keep_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the study clip has nothing to keep but its verdicts"):
        presentation_of(get("clip")).keep(tmp_path, tmp_path)


def test_the_page_draws_every_pixel(small: Path) -> None:
    """Whatever number of rows has its numbers under the pointer."""
    pytest.importorskip("plotly")
    from lossscale.report.pixels import palette_uri
    from lossscale.studies.window.figures import phase_figure
    from lossscale.studies.window.look import shades

    drawn = drawing(PLAIN_TRUE, parts.read_part(small, _diagram().name))
    figure = phase_figure(drawn, every=4)
    (image,) = figure.layout.images
    assert image.source == palette_uri(drawn.level[::-1], shades())
    assert (image.sizex, image.sizey) == (pytest.approx(96), pytest.approx(64)) and image.x == -56
    assert figure.data[0].customdata.shape == (16, len(PLANE.powers), 3)
    # The class under the pointer has the number that it has in the legend.
    assert (figure.data[0].z == drawn.arrays["phase"][::4]).all()
    assert {trace.name for trace in figure.data} >= {f"{int(phase)} {WORDS[phase]}" for phase in drawn.present}


def test_a_picture_of_a_palette_has_its_colours(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import base64

    import matplotlib.image

    from lossscale.report.pixels import palette_uri

    uri = palette_uri(np.array([[0, 1, 1], [2, 0, 1]], np.uint8), ["#0072B2", "#ffffff", "#010203"])
    (tmp_path / "picture.png").write_bytes(base64.b64decode(uri.removeprefix("data:image/png;base64,")))
    found = (matplotlib.image.imread(tmp_path / "picture.png")[..., :3] * 255).round().astype(int)
    blue, white, black = [0, 0x72, 0xB2], [255] * 3, [1, 2, 3]
    assert found.tolist() == [[blue, white, white], [black, blue, white]]


def test_the_answer_names_pairs_interval_and_cause() -> None:
    row = {
        "optimizer": "adam",
        "options": "",
        "recipe": "foreach",
        "policy": "bf16-mixed",
        "lr": 0.01,
        "eps": 1e-8,
        "inits": 1024,
    }
    row |= {"denominator": "fp32", "storage": "fp32", "floor": 0.005, "moved": 1.0, "mapped_floor": 0.005}
    both = [
        {**row, "kind": kind, "side": side, "q50": border, "q50_lo": border - 1, "q50_hi": border, **more}
        for kind, side, border, more in (
            ("step", "s < 1", -1.0, {}),
            ("step", "s > 1", 2.0, {}),
            ("run", "s < 1", -1.0, {}),
            ("run", "s > 1", 1.0, {}),
            ("floor", "s < 1", -10.0, {"eps_over_r": -13.3, "binades": 25, "open": False, "limit": "E"}),
            ("floor", "s > 1", 15.0, {"binades": 25, "open": False, "limit": "G"}),
            ("outcome", "s < 1", -22.0, {"eps_over_r": -1.3, "last_equivalent": -19.0}),
            ("outcome", "s > 1", np.inf, {"last_equivalent": 40.0}),
        )
    ]
    frame = pd.DataFrame(both)
    said = answers.sentence(frame, "bfloat16")
    assert said == (
        "In bfloat16? Adam (eps 1e-08, lr 0.01): weights end more than rounding apart at s ≤ 2^-10 [2^-11, 2^-10] "
        "(eps / (s · RMS g) = 2^-13), ≥ 2^15 [2^14, 2^15] with bfloat16 passes. The loss is another at "
        "s ≤ 2^-22 [2^-22, 2^-20] (2^-1) with bfloat16 passes. 1,024 pairs a scale; 95 % intervals in brackets where "
        "wider than one power."
    )
    assert answers.sentence(frame, "float16") == ""
    (shown,) = answers.rows_of(frame, answers.FORMATS["bfloat16"])
    assert shown["window"] == "25" and shown["limits"] == "eps | range of g"
    weights, loss = answers.glance(frame)
    head = {"numbers": "bfloat16 passes", "policy": "bf16\u2011mixed"}
    spaced = "≤\u00a02^-10\u00a0[2^-11, 2^-10] (2^-13), ≥\u00a02^15\u00a0[2^14, 2^15]"
    assert weights == {**head, "notices": "weights", "Adam": spaced}
    assert loss == {**head, "notices": "loss", "Adam": "≤\u00a02^-22\u00a0[2^-22, 2^-20] (2^-1)"}
    assert "1,024 pairs for each of 80 powers of two" in answers.glance_caption(frame)
    assert shown["equal loss"] == "2^-19 … 2^40" and shown["another loss"] == "≤ 2^-22 [2^-22, 2^-20] (2^-1)"
    assert shown["run"] == "any s" and shown["one step"] == "≤ 2^-1 [2^-2, 2^-1], ≥ 2^2 [2^1, 2^2]"
    (stalled,) = answers.rows_of(frame.assign(moved=0.075), answers.FORMATS["bfloat16"])
    assert stalled["φ"] == "stalled: 7.5% of the elements move" and "window" not in stalled


def test_every_recipe_and_policy_has_a_cell() -> None:
    full = cells(quick=False)
    assert {cell.policy for cell in full} == set(POLICIES) and len(set(full)) == len(full)
    fused = {(cell.typed, cell.policy) for cell in full if cell.recipe == "fused"}
    assert fused == {
        (name, p) for name in ("adam", "adam:amsgrad=True", "adamw", "adagrad") for p in ("bf16-true", "fp16-true")
    }
    assert all(claim.tolerance is not None for claim in get("window").claims)


@pytest.mark.parametrize(("device", "backend", "used"), [("cpu", "reference", "reference"), ("cuda", "triton", "auto")])
def test_it_trains_on_the_cpu_wherever_it_is_asked_for(device: str, backend: str, used: str, tmp_path: Path) -> None:
    context = StudyContext(
        study=get("window"), run=tmp_path, seed=0, steps=None, quick=True, device=device, backend=backend
    )
    assert script._backend(context) == used
    with pytest.raises(InputError, match="--backend"):
        script._backend(dataclasses.replace(context, device="cpu", backend="interpreter"))
