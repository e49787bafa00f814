"""What is measured on a pair, against plain loops over numpy numbers."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import kernels
from lossscale.design.arms import Member, get_arm
from lossscale.design.measures import STANDARD
from lossscale.design.policies import Policy
from lossscale.design.spec import Pairing
from lossscale.engines.observer import Columns, Observer, Snapshot

FAMILIES, N = 3, 40
FAMILY = (Member(arm=get_arm("base")), *(Member(arm=get_arm(name), scale=4.0) for name in ("loss", "lr", "mapped")))
PAIRINGS = (Pairing(arm=1, against=0), Pairing(arm=2, against=0), Pairing(arm=3, against=0), Pairing(arm=1, against=2))


def snapshot(algorithm: str, *, step: int = 3, **changes: torch.Tensor) -> Snapshot:
    generator = torch.Generator().manual_seed(1)

    def draw(scale: float = 1.0) -> torch.Tensor:
        return torch.randn(FAMILIES * len(FAMILY), N, generator=generator) * scale

    states = {"adam": ("exp_avg", "exp_avg_sq"), "rmsprop": ("square_avg",), "adagrad": ("sum",), "sgd": ()}
    values: dict[str, Any] = {
        "initial": draw(),
        "before": draw(),
        "params": draw(),
        "grads": draw(),
        "losses": draw()[:, 0].contiguous(),
        "state": {name: draw().abs() for name in states[algorithm]},
    }
    return Snapshot(step=step, **{**values, **changes})


def observe(now: Snapshot, algorithm: str, families: int = FAMILIES, **options: Any) -> Columns:
    record = kernels.get_algorithm(algorithm)
    base = record.hyperparameters(lr=0.01, **options)
    hyper = [base, base, record.hyperparameters(lr=0.04, **options), record.rescale(base, 4.0)]
    observer = Observer(
        algorithm=record,
        hyperparameters=hyper,
        family=FAMILY,
        pairings=PAIRINGS,
        kept=families,
        policy=Policy(),
        measures=(*STANDARD, "distance_over_moved"),
    )
    return observer.observe(now)


def of_pair(tensor: torch.Tensor, family: int, pairing: Pairing) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rows = tensor.view(FAMILIES, len(FAMILY), -1)[family].numpy()
    return rows[pairing.arm], rows[pairing.against]


def test_distances() -> None:
    params = snapshot("sgd").params
    params[1] = params[0]  # loss is base in the first family
    params[3, 5] = torch.nextafter(params[0, 5], torch.tensor(9.0))
    now = snapshot("sgd", params=params)
    columns = observe(now, "sgd")
    rows = [(family, pairing) for family in range(FAMILIES) for pairing in PAIRINGS]
    for row, (family, pairing) in enumerate(rows):
        a, b = of_pair(params, family, pairing)
        xor = a.view(np.uint32) ^ b.view(np.uint32)
        bits = sum(int(word).bit_count() for word in xor)
        assert columns["differing_bits"][row] == bits and columns["identical"][row] == (bits == 0)
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        distance = np.linalg.norm(wide_a - wide_b) / np.linalg.norm(wide_b)
        assert columns["rel_distance"][row] == pytest.approx(distance, rel=1e-12)
        way = np.linalg.norm(wide_b - of_pair(now.initial, family, pairing)[1])
        d = np.linalg.norm(wide_a - wide_b) / way
        assert columns["distance_over_moved"][row] == pytest.approx(d, rel=1e-12)
        updates = [
            np.subtract(*pair) for pair in zip((wide_a, wide_b), of_pair(now.before, family, pairing), strict=True)
        ]
        ratio = np.linalg.norm(updates[0]) / np.linalg.norm(updates[1])
        assert columns["update_norm_ratio"][row] == pytest.approx(ratio, rel=1e-12)
        moved = np.linalg.norm(wide_a - of_pair(now.initial, family, pairing)[0])
        assert columns["moved"][row] == pytest.approx(moved, rel=1e-12)
        losses = of_pair(now.losses, family, pairing)
        assert (columns["loss_arm"][row], columns["loss_against"][row]) == (losses[0][0], losses[1][0])
        smallest = np.abs(of_pair(now.grads, family, pairing)[0]).min()
        assert columns["smallest_grad"][row] == smallest
    assert columns["identical"].tolist() == [row == 0 for row in range(len(rows))]
    assert columns["max_ulp"][0] == 0 and columns["rel_distance"][0] == 0


def test_max_ulp() -> None:
    params = snapshot("sgd").params
    params[1] = params[0]
    params[1, 7] = torch.nextafter(torch.nextafter(params[0, 7], torch.tensor(9.0)), torch.tensor(9.0))
    params[1, 8] = torch.nextafter(params[0, 8], torch.tensor(9.0))
    columns = observe(snapshot("sgd", params=params), "sgd")
    assert columns["max_ulp"][0] == 2 and not columns["identical"][0]


def test_dropped_families_are_not_measured() -> None:
    now = snapshot("adam")
    some, all_of_them = observe(now, "adam", families=2), observe(now, "adam")
    for name, column in some.items():
        assert len(column) == 2 * len(PAIRINGS)
        np.testing.assert_array_equal(column, all_of_them[name][: len(column)])


@pytest.mark.parametrize("step", [1, 7])
@pytest.mark.parametrize(
    ("algorithm", "moment"), [("adam", "exp_avg_sq"), ("rmsprop", "square_avg"), ("adagrad", "sum")]
)
def test_quantiles_of_eps_over_r(algorithm: str, moment: str, step: int) -> None:
    state = dict(snapshot(algorithm).state)
    state[moment][:, :10] = 0.0
    columns = observe(snapshot(algorithm, state=state, step=step), algorithm, eps=1e-3)
    correction = 1 - 0.999**step if algorithm == "adam" else 1.0
    v = state[moment].view(FAMILIES, len(FAMILY), N)[1, 2].double().numpy()[10:]
    ratio = 1e-3 / np.sqrt(v / correction)
    row = 1 * len(PAIRINGS) + 3  # the second family's loss against lr: the moments of lr
    for level, name in ((0.05, "q05"), (0.25, "q25"), (0.5, "q50"), (0.75, "q75"), (0.95, "q95")):
        assert columns[f"eps_over_r_{name}"][row] == pytest.approx(np.quantile(ratio, level), rel=1e-12)
    assert columns["v_zero_share"].tolist() == [0.25] * len(columns["v_zero_share"])


def test_without_a_second_moment_there_is_no_eps_over_r() -> None:
    columns = observe(snapshot("sgd", step=1), "sgd")
    for name in ("eps_over_r_q50", "v_zero_share", "predicted_update_norm_ratio", "update_norm_ratio_tolerance"):
        assert np.isnan(columns[name]).all()
    assert columns["state_identical"].all() and not columns["state_subnormal"].any()


@pytest.mark.parametrize(("weight_decay", "predicts"), [(0.0, True), (0.1, False)])
def test_the_closed_form_speaks_of_loss_against_base_at_step_1(weight_decay: float, predicts: bool) -> None:
    first = observe(snapshot("adam", step=1), "adam", weight_decay=weight_decay)["predicted_update_norm_ratio"]
    given = ~np.isnan(first.reshape(FAMILIES, -1))
    assert given.tolist() == [[predicts, False, False, False]] * FAMILIES  # not where decay is part of the gradient
    assert np.isnan(observe(snapshot("adam", step=2), "adam")["predicted_update_norm_ratio"]).all()


def test_nonfinite_models_are_counted_and_nan_equals_nan() -> None:
    params = snapshot("sgd").params
    params[1] = params[0]
    params[0, 3], params[1, 3] = torch.nan, -torch.nan
    params[3, :2] = torch.inf
    columns = observe(snapshot("sgd", params=params), "sgd")
    assert columns["nonfinite"][:3].tolist() == [1, 0, 2]
    assert columns["identical"][0] and columns["max_ulp"][0] == 0
    assert math.isnan(columns["rel_distance"][0])


def test_smallest_gradient_leaves_zeros_out() -> None:
    grads = snapshot("sgd").grads
    grads[1] = 0.0
    grads[2, :39] = 0.0
    grads[2, 39] = -1e-42
    columns = observe(snapshot("sgd", grads=grads), "sgd")
    assert math.isnan(columns["smallest_grad"][0])
    assert columns["smallest_grad"][1] == pytest.approx(1e-42, rel=1e-3)


def test_state_is_compared_at_the_scale_of_the_loss() -> None:
    state = {name: tensor.view(FAMILIES, len(FAMILY), N) for name, tensor in snapshot("adam").state.items()}
    tiny = 2.0**-127
    state["exp_avg"][0, 0, :2] = torch.tensor([2 * tiny, tiny])  # smallest normal, subnormal
    for arm, degrees in ((1, (1, 2)), (2, (0, 0)), (3, (1, 2))):
        for name, degree in zip(("exp_avg", "exp_avg_sq"), degrees, strict=True):
            state[name][:, arm] = state[name][:, 0] * 4.0**degree
    state["exp_avg"][0, 3, 1] *= 1.5  # lost bits of an element that is subnormal in base: not counted as a difference
    state["exp_avg_sq"][1, 1, 0] = torch.nextafter(state["exp_avg_sq"][1, 1, 0], torch.tensor(9.0))
    state["exp_avg_sq"][2, 2, 0] = 0.0
    columns = observe(snapshot("adam", state={name: tensor.view(-1, N) for name, tensor in state.items()}), "adam")
    same = columns["state_identical"].reshape(FAMILIES, -1).tolist()
    # Pairs: loss, lr, mapped against base; loss against lr.
    assert same == [[True] * 4, [False, True, True, False], [True, False, True, False]]
    assert columns["state_subnormal"].reshape(FAMILIES, -1).tolist() == [[1, 1, 1, 1], [0] * 4, [0] * 4]


def test_an_underflow_in_one_run_is_no_difference() -> None:
    state = {name: tensor.view(FAMILIES, len(FAMILY), N) for name, tensor in snapshot("adam").state.items()}
    for name, degree in (("exp_avg", 1), ("exp_avg_sq", 2)):
        state[name][:, 1:] = state[name][:, :1]
        for arm in (1, 3):
            state[name][:, arm] *= 4.0**degree
    state["exp_avg_sq"][0, 0, 0] = 0.0
    state["exp_avg_sq"][0, 3, 0] = 2.0**-126 * 12  # 2^-126 * .75 at base's scale: could not be held there exactly
    columns = observe(snapshot("adam", state={name: tensor.view(-1, N) for name, tensor in state.items()}), "adam")
    assert columns["state_identical"][2] and columns["state_subnormal"][2] == 1
