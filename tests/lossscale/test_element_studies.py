"""Laws of single elements, each in a small version with its right value: exactness, eps, float16, the ratchet."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lossscale import studies
from lossscale.analysis.measured import Measured
from lossscale.design.study import StudyContext
from lossscale.engines.populations import BF16, BF16_FUSED, BF16_STATE, FP16_STATE, FP32, FP32_FUSED, Arithmetic
from lossscale.report.neutral import presentation_of
from lossscale.runs.summary import read_summary
from lossscale.studies.bf16_ratchet import mantissas
from lossscale.studies.bf16_ratchet.averages import Gradients, Storage, places, simulate
from lossscale.studies.bf16_ratchet.presentation import at_short_memory
from lossscale.studies.epsilon_law import absorption, flips, steps
from lossscale.studies.exactness.further import mapped_elements, nan_steps
from lossscale.studies.fp16_cliff import ranges


def context(name: str = "exactness", run: Path = Path(), *, steps: int | None = None) -> StudyContext:
    study = studies.get(name)
    return StudyContext(study=study, run=run, seed=3, steps=steps, quick=True, device="cpu", backend="auto")


def test_mapped_elements_differ_only_where_a_second_moment_was_subnormal() -> None:
    differ, subnormal = mapped_elements(context(), FP32, "adam", {"weight_decay": 0.01}, [-20, 40], 10, 1e-3)
    assert not differ.any() and not subnormal.any()
    differ, subnormal = mapped_elements(context(), FP32, "adam", {}, [-40], 10, 1e-5)
    assert differ.any() and not (differ & ~subnormal).any()
    differ, _ = mapped_elements(context(), FP16_STATE, "adam", {}, [-4], 10, 1e-3)
    assert differ.double().mean() > 0.99


def test_centered_rmsprop_is_nan_where_the_spread_is_too_small_for_the_format() -> None:
    risky, calm = nan_steps(context(), BF16, [2.0**-3, 4.0], 32, 700, 100)
    assert risky > 0 and calm == 0


@pytest.mark.parametrize(
    ("held", "nonzero", "normal"),
    [(ranges.GRADIENT, -24, -14), (ranges.SQUARE, -12, -7), (ranges.AVERAGE, -7, -2)],
    ids=lambda value: value.name if isinstance(value, ranges.Held) else str(value),
)
def test_float16_keeps_powers_of_two_from_where_it_is_said(held: ranges.Held, nonzero: int, normal: int) -> None:
    first = ranges.first_powers(context(), held, FP16_STATE)
    assert (first["nonzero"], first["normal"]) == (nonzero, normal)
    assert ranges.wrong_powers(context(), held, FP16_STATE) == (0, 277 * 3)


def test_a_wrong_theory_of_ranges_is_caught() -> None:
    other = ranges.Held(name="g", algorithm="adam", options={"betas": (0.0, 0.9)}, state="exp_avg", power=1, weight=0.5)
    wrong, _ = ranges.wrong_powers(context(), other, FP16_STATE)
    assert wrong == 3  # one power too late at every event


def test_the_border_is_found_to_the_last_bit() -> None:
    found = ranges.border(context(), ranges.SQUARE, FP16_STATE, "normal")
    below = float(np.nextafter(np.float32(found), np.float32(0)))
    held = ranges.SQUARE.after_a_step(context(), FP16_STATE, torch.tensor([below, found]))
    assert (held >= 2.0**-14).tolist() == [False, True] and found == pytest.approx(2.0**-7, rel=1e-3)


@pytest.mark.parametrize(
    ("arithmetic", "row"),
    [(BF16, BF16), (Arithmetic(name="", policy="bf16-state", recipe="fused"), FP32)],
    ids=["bfloat16", "fused"],
)
def test_eps_is_seen_where_the_denominators_arithmetic_says(arithmetic: Arithmetic, row: Arithmetic) -> None:
    r = absorption.numbers(BF16, 128, 0)
    eps = absorption.staircase(2.0 ** (-7 if row is BF16 else -23))
    seen = absorption.seen(context(), arithmetic, eps, r)
    otherwise = (seen != absorption.predicted_seen(row, eps, r)).sum(1)
    # Eager 16-bit sums are rounded twice, to float32 and then to the format: next to half a spacing they meet the tie.
    near = np.abs(np.array(eps) / 2.0**-8 - 1.0) < 2.0**-12 if row is BF16 else np.zeros(len(eps), np.bool_)
    assert (otherwise[~near] == 0).all() and sorted(otherwise[near]) == ([0, 0, 64, 64] if row is BF16 else [])
    assert seen.any() and not seen.all()
    assert (absorption.predicted_seen(FP32, eps, r) != absorption.predicted_seen(BF16, eps, r)).any()


def test_the_closed_form_is_the_steps_change_and_another_is_not() -> None:
    grads = steps.drawn(context(), 512)
    base = steps.updates(context(), "adamw", [1e-3], grads.unsqueeze(0))
    left = steps.updates(context(), "adamw", [1e-3], (grads * 0.125).unsqueeze(0))
    delta = 1e-3 / grads.double().abs()
    off = (left / base / steps.closed_form(delta, 0.125) - 1).abs().max()
    assert float(off) < 5e-7
    assert float((left / base / steps.closed_form(delta, 0.25) - 1).abs().max()) > 0.1


def test_parameters_flip_where_the_rounded_updates_say() -> None:
    at = flips.warm(0, 4096, held_by=torch.bfloat16)
    options = {"lr": 1e-2, "eps": 1.0, "scale": 64.0}
    updates = flips.stepped(context(), FP32_FUSED, at, **options, from_zero=True)
    after = flips.stepped(context(), BF16_FUSED, at, **options, from_zero=False)
    flipped = after[0] != after[1]
    assert torch.equal(flipped, flips.event(at, updates, BF16_FUSED)) and 0 < int(flipped.sum()) < 4096
    assert not torch.equal(flipped, flips.event(at, updates, FP32_FUSED))


def test_a_constant_gradient_stalls_a_bfloat16_second_moment() -> None:
    reference, once, twice = (
        Storage(arithmetic=kind, roundings=count) for count, kind in enumerate((FP32, BF16_STATE, BF16))
    )
    rows = [Gradients(name="constant", constant=True)]
    last = list(simulate(context(), rows, (reference, once, twice), elements=4, checkpoints=[1000]))[-1]
    assert (last.v[once] == 0.25).all() and (last.v[twice] == 0.5).all() and (last.m[once] == 0.984375).all()
    assert last.v_ratio(once, 0, reference)[0] == pytest.approx(0.25 / (1 - 0.999**1000), rel=1e-4)


def test_at_95_a_constant_gradient_holds_v_apart_but_not_the_step() -> None:
    """v sticks where .05 (1 - v) is no more than half a spacing, 2^-9: at .9609. What is said has the worst kind."""
    row = Gradients(name="constant", beta2=0.95, constant=True)
    exact, once = (
        Storage(arithmetic=arithmetic, roundings=count) for arithmetic, count in ((FP32, 0), (BF16_STATE, 1))
    )
    (now,) = simulate(context("bf16-ratchet"), [row], [exact, once], elements=64, checkpoints=[300])
    v, step = now.v_ratio(once, 0, exact), now.step_ratio(once, 0, exact)
    assert 0.05 * (1 - v.max()) <= 2.0**-9 < 0.05 * (1 - v.min() + 2.0**-8)
    assert 0.003 < abs(np.median(step) - 1) < 0.005
    off = [("constant", "v", 0.961), ("constant", "step", 1.0048), ("normal", "v", 1.0001), ("normal", "step", 0.9999)]
    lines = [
        {"options": f"beta2=0.95; {kind}", "quantity": f"{what}_ratio", "measured": ratio} for kind, what, ratio in off
    ]
    lines.append({"options": "beta2=0.95; batch / 4", "quantity": "v_ratio", "measured": 4.0})
    said = "; at .95 the step is off by 0.48 % at most and v by 3.9 % (gradients: constant, normal)"
    assert at_short_memory(pd.DataFrame(lines)) == said and at_short_memory(pd.DataFrame(lines[-1:])) == ""


def test_a_reset_begins_anew() -> None:
    rows = [Gradients(name="normal")]
    plain, reset = (Storage(arithmetic=BF16_STATE, roundings=1, reset_every=every) for every in (0, 10))
    readings = {now.step: now for now in simulate(context(), rows, (plain, reset), elements=8, checkpoints=[10, 11])}
    assert (readings[10].v[plain] == readings[10].v[reset]).all()
    assert (readings[11].v[plain] > readings[11].v[reset]).all()
    assert places(1) == [1] and places(1000)[0] == 10 and places(1000)[-1] == 1000


@pytest.mark.parametrize("arithmetic", [BF16_STATE, FP16_STATE], ids=["bfloat16", "float16"])
def test_an_average_falls_exactly_where_it_loses_half_a_spacing(arithmetic: Arithmetic) -> None:
    betas, start = [0.99, 0.998, 0.9997, 0.9999], mantissas.binade(arithmetic)
    fell = mantissas.without_gradient(context(), arithmetic, betas, start) < start.numpy()
    assert (fell == mantissas.predicted_falls(arithmetic, betas)).all() and fell[0].all() and not fell[-1].any()


def test_parameters_move_and_decay_where_half_a_spacing_says() -> None:
    moved, wrong = mantissas.moving(context("bf16-ratchet"), 1e-5, 65_536)
    assert wrong == 0 and moved / 65_536 == pytest.approx(0.155, abs=0.005)
    below, above = mantissas.decayed(context("bf16-ratchet"), [0.999 * 2.0**-9, 1.001 * 2.0**-9])
    assert not below.any() and above[0]


def test_stalls_have_the_predicted_probability() -> None:
    values = mantissas.binade(BF16_STATE)[[1, 64, 127]]
    predicted = mantissas.predicted_stays(BF16_STATE, 0.99, values)
    found = mantissas.stays(context("bf16-ratchet"), BF16_STATE, 0.99, values, 8192, 0)
    for count, share in zip(found, predicted, strict=True):
        measured = Measured.share(int(count), 8192)
        assert measured.lo - 0.005 < share < measured.hi + 0.005
    assert predicted[0] > 1.9 * predicted[2]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("fp16-cliff", set()),
        # 3e-7 is too little for eight roundings of up to 6e-8 each; sums in 16 bits are rounded twice.
        ("epsilon-law", {"S2.rounding.1", "S4a.always.1", "S4a.staircase.1"}),
        # At lr 6e-7 .00975 of the parameters move, where .0096 was predicted.
        pytest.param("bf16-ratchet", {"S4e.moves.1"}, marks=pytest.mark.slow),
    ],
)
def test_a_quick_run_judges_every_claim_and_tells_its_story(name: str, known: set[str], tmp_path: Path) -> None:
    study = studies.get(name)
    assert study.execute is not None
    study.execute(context(name, tmp_path, steps=200 if name == "bf16-ratchet" else None))
    summary = read_summary(tmp_path)
    judged = set(summary["prediction"]) - {""}
    assert judged == set(study.statements)
    assert set(summary[summary["verdict"] == "fails"]["prediction"]) <= known
    controls = summary[summary["prediction"].str.startswith("S5.controls") & (summary["verdict"] != "not judged")]
    exact = controls["prediction"] != "S5.controls.4"
    assert controls["pairs"].min() == 128 and (controls.loc[exact, "measured"] == 1.0).all()
    assert not exact.all() and (controls.loc[~exact, "measured"].between(0.0, 0.5, inclusive="neither")).all()
    presentation = presentation_of(study)
    question, *_ = presentation.sentences(tmp_path)
    assert "? " in question and "nan" not in question
    parts = list(presentation.sections(tmp_path))
    assert parts[0][0] == "Pictures" and "plotly" in parts[0][2].lower()
    presentation.picture(tmp_path, tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")
