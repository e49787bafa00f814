"""The closed forms against arithmetic done the long way."""

import math

import numpy as np
import pytest
import torch

from lossscale import theory


@pytest.mark.parametrize("delta", [0.0, 1e-6, 0.1, 1.0, 1e4])
@pytest.mark.parametrize("scale", [1e-8, 0.1, 1.0, 100.0, 1e8])
def test_update_ratio_is_the_quotient_of_the_two_directions(delta: float, scale: float) -> None:
    root, moment = 0.37, 0.11
    eps = delta * root
    direction = moment / (root + eps)
    scaled = scale * moment / (scale * root + eps)
    assert theory.update_ratio(delta, scale) == pytest.approx(scaled / direction, rel=1e-12)
    assert theory.relative_change(delta, scale) == pytest.approx(scaled / direction - 1, rel=1e-9, abs=1e-12)


def test_known_values_of_the_closed_form() -> None:
    assert theory.update_ratio(0.1, 100.0) - 1 == pytest.approx(0.099, abs=5e-4)
    assert theory.update_ratio(0.1, 0.1) - 1 == pytest.approx(-0.45, abs=5e-3)
    assert theory.update_ratio(1.0, 1e12) == pytest.approx(2.0)  # saturates at 1 + delta
    assert theory.update_ratio(math.inf, 8.0) == 8.0
    # At the knee the scaled step is half of the one without eps, whose ratio to the unscaled one is 1 + delta.
    assert theory.update_ratio(0.25, theory.knee(0.25)) == pytest.approx((1 + 0.25) / 2)


@pytest.mark.parametrize(("dtype", "kind"), [("fp32", np.float32), ("fp16", np.float16)])
def test_absorption_bounds_are_where_adding_eps_stops_to_matter(dtype: str, kind: type) -> None:
    found = theory.absorption(dtype)
    roots = np.linspace(1.0, 2.0, 513, endpoint=False).astype(kind)
    just_below = (roots.astype(np.float64) * found.invisible_below * 0.999).astype(kind)
    just_above = (roots.astype(np.float64) * found.visible_above * 1.01).astype(kind)
    assert (roots + just_below == roots).all()
    assert (roots + just_above != roots).all()
    inside = (roots.astype(np.float64) * (found.invisible_below + found.visible_above) / 2).astype(kind)
    visible = roots + inside != roots
    assert visible.any() and not visible.all()


def test_absorption_of_bfloat16_and_of_an_unknown_dtype() -> None:
    assert theory.absorption("bf16").invisible_below == 2.0**-9
    assert theory.absorption("bf16").visible_above == 2.0**-8
    with pytest.raises(ValueError, match="'fp8' is unknown: use one of fp32, bf16, fp16"):
        theory.absorption("fp8")


def _adam_step(p: np.ndarray, g: np.ndarray, eps: float, lr: float = 0.01) -> np.ndarray:
    """One Adam step in float32, element by element, with the rounding of each operation."""
    one, f = np.float32(1), np.float32
    m = (one - f(0.9)) * g
    v = (one - f(0.999)) * g * g
    root = np.sqrt(v) / np.sqrt(one - f(0.999)) + f(eps)
    return p - f(lr) / (one - f(0.9)) * (m / root)


@pytest.mark.parametrize("eps", [1e-8, 1e-3])
@pytest.mark.parametrize("scale", [1e-3, 0.5, 7.0, 1e4])
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_norm_ratio_of_a_brute_force_step_lies_within_the_bound(eps: float, scale: float, spread: float) -> None:
    generator = np.random.default_rng(3)
    p = generator.uniform(-0.4, 0.4, (5, 64)).astype(np.float32)
    g = (10.0 ** generator.uniform(-7, -1, (5, 64)) * generator.choice([-1, 0, 1], (5, 64))).astype(np.float32)
    arm_g = np.float32(scale) * g * (1 + spread * generator.normal(size=g.shape)).astype(np.float32)
    base, scaled = _adam_step(p, g, eps), _adam_step(p, arm_g, eps)
    updates = base.astype(np.float64) - p
    measured = np.linalg.norm(scaled.astype(np.float64) - p, axis=1) / np.linalg.norm(updates, axis=1)
    column = torch.ones(5, 1, dtype=torch.float64)
    shared = (torch.from_numpy(np.abs(g)).double(), eps * column, scale * column)
    predicted = theory.predicted_update_norm_ratio(torch.from_numpy(updates), *shared).numpy()
    bound = theory.update_norm_ratio_tolerance(
        torch.from_numpy(updates),
        torch.from_numpy(base),
        torch.from_numpy(scaled),
        *shared,
        grads=torch.from_numpy(g),
        arm_grads=torch.from_numpy(arm_g),
    ).numpy()
    error = np.abs(measured / predicted - 1)
    assert (error <= bound).all(), (error, bound)
    # The bound is of use: an eps that is wrong by a tenth is told apart wherever eps matters at all.
    if eps == 1e-3 and not spread:
        wrong = theory.predicted_update_norm_ratio(
            torch.from_numpy(updates), shared[0], 1.1 * shared[1], shared[2]
        ).numpy()
        assert (np.abs(measured / wrong - 1) > bound).all()


def test_norm_ratio_keeps_decoupled_decay_out_of_the_scaling() -> None:
    p = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    r = torch.tensor([[1e-3, 1e-2, 0.0]], dtype=torch.float64)
    eps, scale = torch.tensor([[1e-3]], dtype=torch.float64), torch.tensor([[10.0]], dtype=torch.float64)
    decay = -1e-4 * p
    step = torch.tensor([[-5e-3, 9e-3, 0.0]], dtype=torch.float64)
    by_hand = decay + step * torch.tensor([[2 / 1.1, 1.1 / 1.01, 1.0]], dtype=torch.float64)
    found = theory.predicted_update_norm_ratio(step + decay, r, eps, scale, decay=decay)
    assert found.item() == pytest.approx((by_hand.norm() / (step + decay).norm()).item(), rel=1e-12)


def test_elements_without_gradient_do_not_loosen_the_bound() -> None:
    updates, r = torch.tensor([[1e-2, 0.0]]), torch.tensor([[0.1, 0.0]])
    one = torch.ones(1, 1)
    small = torch.tensor([[0.3, 0.3]])
    large = torch.tensor([[0.3, 3e5]])
    grads = {"grads": r, "arm_grads": 2 * r}
    bounds = [
        theory.update_norm_ratio_tolerance(updates, p, p, r, 1e-8 * one, 2 * one, **grads).item()
        for p in (small, large)
    ]
    assert bounds[0] == bounds[1] < 1e-5


def test_a_gradient_that_cancels_in_one_run_alone_counts_in_full() -> None:
    updates, params = torch.tensor([[-1e-2, 0.0]]).double(), torch.tensor([[0.25, 0.25]])
    arm = params.clone()
    arm[0, 1] += 0.0078125
    r, one = torch.tensor([[0.1, 0.0]]), torch.ones(1, 1)
    grads = {"grads": r, "arm_grads": torch.tensor([[1.0, 1e-9]])}
    found = theory.update_norm_ratio_tolerance(updates, params, arm, r, 1e-8 * one, 10 * one, **grads).item()
    assert 0.78 < found < 0.79
    exact = {"grads": r, "arm_grads": torch.tensor([[1.0, 0.0]])}
    assert theory.update_norm_ratio_tolerance(updates, params, params, r, 1e-8 * one, 10 * one, **exact).item() < 5e-6
