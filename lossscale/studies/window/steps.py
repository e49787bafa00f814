"""One step from mapped shared state: what eps alone does to a pair, and the exact event that is predicted of it.

Both runs of a pair begin the step with the unscaled run's parameters and states, the scaled one with its states
multiplied by s to their degree; so nothing but eps, and the ranges of the formats, tells them apart. In range the
scaled step is the unscaled one with eps / s, to the last bit: s is a power of two and only shifts exponents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

import kernels
from kernels.rounding import powers
from kernels.rounding import reference as ref

from ...diagnose import steps as diagnose
from .training import Arm, Families, Runs, Setting

_ROOM: Final = 4.0
"""How far every number must stay from its format's ends for the event to be judged."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Where a step begins.

    Attributes:
        params: [inits, n].
        states: [inits, n] by torch's names.
        taken: steps so far.
        sample: [1, inits, features] of the step.
    """

    params: Tensor
    states: Mapping[str, Tensor]
    taken: int
    sample: Tensor


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """After the step, [inits, arms, n] each."""

    params: Tensor
    states: Mapping[str, Tensor]
    grads: Tensor


def shared(setting: Setting, given: Families, hyper: Any, step: int) -> Shared:
    """The unscaled run just before that step."""
    runs = Runs(setting, given, [Arm(hyper=hyper)])
    runs.to(step - 1)
    return Shared(
        params=runs.params[:, 0].clone(),
        states={name: tensor[:, 0].clone() for name, tensor in runs.state.items()},
        taken=step - 1,
        sample=given.data[step - 1 : step],
    )


def gradients(setting: Setting, begin: Shared) -> Tensor:
    """[inits, n]: the unscaled run's, of the step."""
    one = Families(initial=begin.params, data=torch.cat([begin.sample, begin.sample]))
    return Runs(setting, one, [Arm(hyper=setting.algorithm.hyperparameters())]).step()[:, 0]


def take(setting: Setting, begin: Shared, arms: Sequence[Arm]) -> Stepped:
    """One step of every arm from shared state, mapped by the arm's scale; in the setting's formats."""
    params = begin.params.to(kernels.DTYPES[setting.policy.params].torch)
    one = Families(initial=params, data=torch.cat([begin.sample, begin.sample]))
    runs = Runs(setting, one, arms)
    start = runs.trainer.params.clone()
    grads = runs.step()
    population = kernels.Population(
        setting.optimizer,
        [arm.hyper for arm in arms],
        start,
        recipe=setting.recipe,
        backend=setting.backend,
        state_dtype=kernels.DTYPES[setting.policy.state].torch,
    )
    degrees = setting.algorithm.degrees
    scales = torch.tensor([arm.scale for arm in arms], dtype=torch.float64)[:, None]
    for name, state in population.state.items():
        mapped = begin.states[name].double().unsqueeze(1) * scales ** degrees[name]
        state.copy_(mapped.reshape(state.shape))
    population.step_count = begin.taken
    population.step(grads.reshape(start.shape).contiguous())
    return Stepped(
        params=start.view(runs.shape),
        states={name: state.view(runs.shape) for name, state in population.state.items()},
        grads=grads,
    )


def changes(setting: Setting, begin: Shared, scales: Sequence[float], hyper: Any) -> tuple[Tensor, Tensor]:
    """Elements that the step leaves different when the loss is multiplied by s and eps left alone.

    Args:
        setting: formats and recipe.
        begin: shared state.
        scales: powers of two.
        hyper: the unscaled run's.

    Returns:
        [inits, scales, n] bool each: what was measured, and where both runs stay in range, with room.
    """
    stepped = take(setting, begin, [Arm(hyper=hyper), *(Arm(hyper=hyper, scale=scale) for scale in scales)])
    bits = kernels.bits.bit_view(stepped.params)
    return bits[:, 1:] != bits[:, :1], _in_range(setting, begin, stepped, scales, hyper)


def predicted_changes(setting: Setting, begin: Shared, scales: Sequence[float], hyper: Any) -> Tensor:
    """[inits, scales, n] bool: the same from the unscaled run's own r, m and θ, with eps / s in place of eps."""
    wide = Setting(
        optimizer=setting.optimizer,
        recipe=setting.recipe,
        policy=dataclasses.replace(setting.policy, state="fp32"),
        backend=setting.backend,
    )
    # The step divides by the root of the moment before that is rounded to be stored.
    own = take(wide, begin, [Arm(hyper=hyper)])
    theta = begin.params.float().unsqueeze(1)
    step = begin.taken + 1
    eps = torch.tensor([1.0, *scales], dtype=torch.float64)[:, None]
    eps = torch.tensor(hyper.eps, dtype=torch.float64).float().double() / eps
    after = _tail(wide, hyper, step, theta, own.grads.float(), own.states, eps)
    bits = kernels.bits.bit_view(after.to(kernels.DTYPES[setting.policy.params].torch))
    return bits[:, 1:] != bits[:, :1]


def _tail(
    setting: Setting,
    hyper: Any,
    step: int,
    theta: Tensor,
    grads: Tensor,
    states: Mapping[str, Tensor],
    eps: Tensor,
) -> Tensor:
    """[inits, scales, n] float32: what the step makes of θ, m (or g) and the root of v, for every eps [scales, 1].

    docs/numerics.md has the recipes.
    """
    dtype = kernels.DTYPES[setting.policy.params].torch
    recipe = setting.algorithm.recipe(setting.recipe)
    state = kernels.DTYPES[setting.policy.state].torch
    table = powers.power_table(theta.device)
    row = torch.tensor(recipe.row_for((dtype, dtype, state, None))(hyper, float(step), step == 1, table))
    scalars = dict(zip(recipe.columns, row.double().float().unbind(0), strict=True))
    narrow = eps.float()
    if setting.optimizer in ("adam", "adamw"):
        second = states["max_exp_avg_sq" if hyper.amsgrad else "exp_avg_sq"]
        root = ref.sqrt(second.float(), dtype if setting.recipe == "foreach" else torch.float32)
        moment = states["exp_avg"].float()
        if setting.recipe == "foreach":
            if hyper.decoupled_weight_decay:
                theta = ref.mul(theta, scalars["decay"], dtype)
            d = ref.add_scalar(ref.div(root, scalars["bc2_sqrt"], dtype), narrow, dtype)
            return ref.addcdiv(theta, moment, d, scalars["-step_size"], dtype)
        if hyper.decoupled_weight_decay:
            theta = ref.fma(theta, -(scalars["lr"] * scalars["weight_decay"]).expand_as(theta), theta)
        first, last = (
            ref.bias_correction(table.values, row[place], row[place + 1], torch.tensor(float(step)))
            for place in (recipe.columns.index("powers1_offset"), recipe.columns.index("powers2_offset"))
        )
        d = root / ref.exact_sqrt(last) + narrow
        after: Tensor = theta - ((scalars["lr"] / first) * moment) / d
        return after
    if setting.optimizer == "rmsprop":
        d = ref.add_scalar(ref.sqrt(states["square_avg"].float(), dtype), narrow, dtype)
        return ref.addcdiv(theta, grads, d, scalars["-lr"], dtype)
    if setting.recipe == "foreach":
        d = ref.add_scalar(ref.sqrt(states["sum"].float(), dtype), narrow, dtype)
        return ref.addcdiv(theta, ref.mul(grads, scalars["-clr"], dtype), d, torch.ones(()), dtype)
    # torch's fused Adagrad divides in double, with eps as the host has it.
    total = ref.exact_sqrt(states["sum"].float()).double()
    exact = torch.tensor(hyper.eps, dtype=torch.float64) * (eps / eps[0])
    rate = hyper.lr / (1.0 + (step - 1.0) * hyper.lr_decay)
    divided: Tensor = grads.double() * rate / (total + exact)
    return (theta.double() - divided).float()


def _in_range(setting: Setting, begin: Shared, stepped: Stepped, scales: Sequence[float], hyper: Any) -> Tensor:
    """[inits, scales, n]: whether all that the step makes of an element is 0 or normal at scale 1 and at the given one.

    The scaled run's gradient must be s times the other's, too: what under- or overflows on its way is not eps's doing.
    """
    algorithm = setting.algorithm
    own = stepped.grads[:, 0]
    held: list[tuple[Tensor, int, str]] = [(own, 1, setting.policy.grads), (own, 1, setting.policy.compute)]
    for name, state in begin.states.items():
        held += [(each, algorithm.degrees[name], setting.policy.state) for each in (state, stepped.states[name][:, 0])]
    # What a square is multiplied by, 1 - beta2, is a thousandth at least.
    held.append((own.double().square() / 1024.0, 2, setting.policy.params))
    factors = torch.tensor(scales, dtype=torch.float64)[:, None]
    inside = stepped.grads[:, 1:].double() == own.double().unsqueeze(1) * factors
    for values, degree, name in held:
        form, size = kernels.DTYPES[name], values.double().abs().unsqueeze(1)
        for factor in (torch.ones_like(factors), factors):
            mapped = size * factor**degree
            inside &= (size == 0) | ((mapped >= _ROOM * form.smallest_normal) & (mapped * _ROOM <= form.largest))
    # The sum of root and eps, which is nowhere 0, in the arithmetic that forms it.
    states = {name: tensor[:, :1] for name, tensor in stepped.states.items()}
    root = diagnose.root(algorithm, states, hyper, begin.taken + 1)
    assert root is not None, "an optimizer with eps has a root"
    form = kernels.DTYPES["fp32" if setting.recipe == "fused" else setting.policy.params]
    divisor = root + hyper.eps / factors
    for factor in (torch.ones_like(factors), factors):
        inside &= (divisor * factor >= _ROOM * form.smallest_normal) & (divisor * factor * _ROOM <= form.largest)
    return inside
