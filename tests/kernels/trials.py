"""Single steps of single tensors with their exact results: what a faulty rule is tried on."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from configurations import DTYPES, SPECIAL, draw, random_hyper, run
from replay import load_cases, replay
from torch import Tensor

import kernels
from kernels.algorithm import Algorithm, Recipe
from kernels.backends import dispatch, tensor_ops
from kernels.launch.buckets import Bucket
from kernels.rounding.powers import power_table
from kernels.rounding.reference import Context


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A call of `kernels.backends.tensor_ops.reference_update` and what it left.

    Attributes:
        recipe, context, grad_scale: its arguments.
        scalars: arguments (hyperparameters, step, first) of the recipe's row.
        row_name: of the function that made the row.
        before, after: parameter, gradient and states.
        recorded: whether ``after`` are bits of torch's own CUDA kernels.
    """

    recipe: Recipe
    context: Context
    grad_scale: Tensor | None
    scalars: tuple[Any, float, bool]
    row_name: str
    before: list[Tensor | None]
    after: list[Tensor | None]
    recorded: bool

    def differs(self, reference: Callable[..., Any], row: Callable[..., Any] | None = None, update: Any = None) -> bool:
        """Whether a rule, its host scalars or the update around it give other bits (any NaN equals any NaN)."""
        p, g, *states = (None if x is None else x.clone() for x in self.before)
        context = self.context
        if row is not None:
            powers = power_table(torch.device("cpu"))
            scalars = torch.tensor(row(*self.scalars, powers), dtype=torch.float64)
            context = dataclasses.replace(context, row=scalars, powers=powers.values)
        recipe = dataclasses.replace(self.recipe, reference=reference)
        (update or tensor_ops.reference_update)(recipe, context, p, g, states, self.grad_scale)
        return any(_unlike(a, b) for a, b in zip((p, g, *states), self.after, strict=True) if b is not None)


def _unlike(a: Tensor | None, b: Tensor) -> bool:
    assert a is not None
    integer = torch.int32 if a.dtype == torch.float32 else torch.int16
    wrong = a.view(integer) != b.view(integer)
    return bool(wrong.any()) and bool((wrong & ~(a.isnan() & b.isnan())).any())


@contextmanager
def _recording(into: list[Trial], *, recorded: bool) -> Iterator[None]:
    """While this is open, every update of the reference backend is kept with the arguments of its host scalars."""
    made_by: dict[tuple[str, tuple[float, ...]], tuple[str, tuple[Any, float, bool]]] = {}
    update = tensor_ops.reference_update

    def noted(recipe: Recipe) -> Recipe:
        def noting(made: Callable[..., tuple[float, ...]]) -> Callable[..., tuple[float, ...]]:
            def row(hyper: Any, step: float, first: bool, powers: Any) -> tuple[float, ...]:
                values = tuple(map(float, made(hyper, step, first, powers)))
                made_by[recipe.name, values] = made.__name__, (hyper, step, first)
                return values

            return row

        mixed = None if recipe.mixed_row is None else noting(recipe.mixed_row)
        return dataclasses.replace(recipe, row=noting(recipe.row), mixed_row=mixed)

    def kept(
        recipe: Recipe, context: Context, p: Tensor, g: Tensor, states: Any, scale: Any = None, copy: Any = None
    ) -> None:
        before = [None if x is None else x.clone() for x in (p, g, *states)]
        update(recipe, context, p, g, states, scale, copy)
        made = made_by.get((recipe.name, tuple(context.row.flatten().tolist())))
        if context.row.dim() == 1 and made is not None and p.numel():
            after = [None if x is None else x.clone() for x in (p, g, *states)]
            into.append(
                Trial(
                    recipe=recipe,
                    context=context,
                    grad_scale=scale,
                    scalars=made[1],
                    row_name=made[0],
                    before=before,
                    after=after,
                    recorded=recorded,
                )
            )

    with ExitStack() as stack:
        for algorithm in kernels.ALGORITHMS.values():
            noted_recipes = {name: noted(recipe) for name, recipe in algorithm.recipes.items()}
            stack.enter_context(mock.patch.dict(algorithm.recipes, noted_recipes))
        stack.enter_context(mock.patch.object(tensor_ops, "reference_update", kept))
        yield


def recorded_trials(stride: int) -> list[Trial]:
    """The recorded bits of torch's CUDA kernels, every ``stride``-th case, as trials."""
    cases, arrays = load_cases()
    found: list[Trial] = []
    with _recording(found, recorded=True):
        for index in range(0, len(cases), stride):
            assert not replay(cases[index], arrays, index, "reference")
    return found


def random_trials(seeds: range) -> list[Trial]:
    """Trials from random configurations, special values included."""
    found: list[Trial] = []
    with _recording(found, recorded=False):
        for seed in seeds:
            if max(draw(seed)[0].sizes) <= 4096:
                run(seed, "reference")
    return found


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """A step to take: ``taken`` steps were taken before."""

    algorithm: Algorithm
    recipe: Recipe
    hyper: Any
    dtype: torch.dtype
    taken: float
    scale: float | None
    state: torch.dtype

    def step(self, *tensors: Tensor | None) -> Tensor:
        """The stepped parameter, from parameter, gradient and states."""
        powers = power_table(torch.device("cpu"))
        # Looked up again, so that a recorder set up meanwhile sees it.
        recipe = self.algorithm.recipes[self.recipe.name]
        p, g, *states = (None if x is None else x.clone() for x in tensors)
        assert p is not None
        assert g is not None
        bucket = Bucket(params=[p], grads=[g], states=[None if x is None else [x] for x in states], row_of=[0])
        row = recipe.row_for(bucket.dtypes)(self.hyper, self.taken + 1, self.taken == 0, powers)
        dispatch.step_bucket(
            recipe,
            self.algorithm.flags(self.hyper),
            bucket,
            rows=torch.tensor([row], dtype=torch.float64),
            steps=torch.tensor([self.taken + 1]),
            powers=powers.values,
            grad_scale=None if self.scale is None else torch.tensor(self.scale),
            backend="reference",
        )
        return p


def _made_trials(choices: Iterable[_Choice], values: Callable[[int], Tensor], *, cancel: bool = False) -> list[Trial]:
    """Each of the steps, on ``values(number of the tensor)``.

    With ``cancel`` it is followed by the same step from the negated update: what is left are the roundings themselves.
    """
    found: list[Trial] = []
    with _recording(found, recorded=False):
        for choice in choices:
            p, g, *states = (values(k).to(choice.dtype if k < 2 else choice.state) for k in range(5))
            names = choice.algorithm.state_names(choice.hyper)
            kept: list[Tensor | None] = [None, None, None]
            for k, state in enumerate(choice.algorithm.states):
                if state.name in names:
                    kept[k] = states[k].abs() if state.degree == 2 else states[k]
            update = choice.step(p, g, *kept)
            if cancel:
                choice.step(-update, g, *kept)
    return found


def corner_trials(each: int = 24) -> list[Trial]:
    """Every recipe under random options on every triple of special values in parameter, gradient and first state."""
    rng = np.random.default_rng(5)
    count = len(SPECIAL)
    digits = np.indices((count, count, count)).reshape(3, -1)
    index = [*digits, *rng.permuted(digits[:2], axis=1)]
    choices = _choices(rng, each, itertools.product(DTYPES, (None, 2.0)))
    return _made_trials(choices, lambda k: torch.from_numpy(SPECIAL[index[k]]).float())


def sharp_trials(each: int = 96, size: int = 256) -> list[Trial]:
    """Every recipe under random options on parameters that are 0 or tiny: they show the last bit of an update."""
    rng = np.random.default_rng(6)
    tiny = torch.tensor([0.0, 1e-6]).repeat(size // 2)

    def values(k: int) -> Tensor:
        x = torch.from_numpy(rng.standard_normal(size)).float()
        return x * tiny if k == 0 else x

    return _made_trials(_choices(rng, each, itertools.product(DTYPES, (None, 3.0))), values, cancel=True)


def large_trials(each: int = 6, size: int = 1 << 15) -> list[Trial]:
    """Recipes that round only at stores, in float16: a float32 rounding shows there once in thousands of values."""
    rng = np.random.default_rng(7)
    choices = _choices(rng, each, itertools.product([torch.float16], (None, 3.0)))
    chosen = [choice for choice in choices if choice.recipe.unscale == "divide"]
    return _made_trials(chosen, lambda k: torch.from_numpy(rng.standard_normal(size)).float())


def _choices(
    rng: np.random.Generator, each: int, kinds: Iterable[tuple[torch.dtype, float | None]]
) -> Iterator[_Choice]:
    """``each`` random options of every recipe, with the dtypes and scales of ``kinds`` in turn."""
    turns = list(kinds)
    for algorithm in [*kernels.ALGORITHMS.values()]:
        for recipe in [*algorithm.recipes.values()]:
            # The last bit of a double shows in few of a thousand values.
            for k in range(4 * each if recipe.double else each):
                hyper = random_hyper(algorithm, rng)
                # Every other one is ordinary: extreme values hide roundings.
                while k % 2 and not (hyper.lr >= 1e-3 and max(_numbers(hyper)) <= 1):
                    hyper = random_hyper(algorithm, rng)
                if k % 8 == 1:
                    # Here 1 - lr·weight_decay cancels, and shows how the product was rounded.
                    hyper = dataclasses.replace(hyper, lr=1.0, weight_decay=0.97)
                dtype, scale = turns[k // 2 % len(turns)]
                taken = float(rng.choice([0, 3, 9, 40, 999]))
                # Mixed dtypes where the recipe has host scalars of their own.
                mixed = recipe.mixed_row is not None and dtype == torch.float32 and k // (2 * len(turns)) % 2 == 1
                yield _Choice(
                    algorithm=algorithm,
                    recipe=recipe,
                    hyper=hyper,
                    dtype=dtype,
                    taken=taken,
                    scale=scale,
                    state=torch.bfloat16 if mixed else dtype,
                )


def _numbers(hyper: Any) -> list[float]:
    return [value for value in dataclasses.astuple(hyper) if isinstance(value, float)]
