"""Every rounding, contraction, branch and order of operations of every rule is load-bearing: broken, it shows."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from configurations import placed
from mutants import Functions, Mutant
from torch import Tensor
from trials import Trial, corner_trials, large_trials, random_trials, recorded_trials, sharp_trials

import kernels
from kernels import bits
from kernels.algorithms import adagrad, adam, adam_atan2, rmsprop, sgd
from kernels.backends import dispatch, tensor_ops
from kernels.launch.buckets import Bucket
from kernels.rounding import reference
from kernels.rounding.powers import power_table

SEEDS = range(300)
MODULES = {module.__name__: module for module in (sgd, adam, rmsprop, adagrad, adam_atan2)}
_LINES = Path(__file__).with_name("equivalent.txt").read_text().splitlines()
EQUIVALENT = {line.strip() for line in _LINES if line.startswith("    ")}
SOMETIMES = {line.removeprefix("  ? ") for line in _LINES if line.startswith("  ? ")}
BLOCKS = ["narrow", "bias_correction", "round_to", "negate", "mul", "add_scaled", "add_scalar", "div", "exact_sqrt"]
BLOCKS += ["sqrt", "lerp", "addcmul", "addcdiv", "maximum"]


@functools.cache
def trials() -> list[Trial]:
    """Trials of all recipes; torch's recorded bits come first, each part in random order."""
    shuffled: list[Trial] = []
    for part in (recorded_trials(1), sharp_trials(), random_trials(SEEDS) + corner_trials(), large_trials()):
        random.Random(0).shuffle(part)
        shuffled += part
    return shuffled


@functools.cache
def functions_of(module: types.ModuleType) -> tuple[Functions, dict[str, bool]]:
    """The functions behind a module's recipes, and which of them make host scalars: those that stay double are true."""
    recipes = [recipe for algorithm in kernels.ALGORITHMS.values() for recipe in algorithm.recipes.values()]
    ours = [recipe for recipe in recipes if recipe.reference.__module__ == module.__name__]
    rows = {row.__name__: recipe.double for recipe in ours for row in (recipe.row, recipe.mixed_row) if row}
    rules = sorted({recipe.reference.__name__ for recipe in ours})
    functions = Functions(module, [*rows, *rules], blocks="ref.", dtype="at.dtype")
    return functions, {name: double for row, double in rows.items() for name in functions.closure(row)}


def kills_rule(functions: Functions, rows: dict[str, bool], mutant: Mutant) -> Trial | None:
    """The first trial whose bits the mutant changes."""
    names = functions.namespace(mutant.code)
    for trial in trials():
        rule = trial.recipe.reference
        if rule.__module__ != mutant.module.__name__:
            continue
        row_name = trial.row_name
        if mutant.function in rows:
            used = mutant.function in functions.closure(row_name)
        else:
            used = mutant.function in functions.closure(rule.__name__)
        if used and trial.differs(names[rule.__name__], names[row_name] if mutant.function in rows else None):
            return trial
    return None


def check(mutants: list[Mutant], killer: Callable[[Mutant], object], prefix: str) -> None:
    """Every mutant is killed, or is known to be equivalent (and then is not killed)."""
    survivors = set()
    for mutant in mutants:
        # A guard that is left out shows as an exception.
        with contextlib.suppress(ZeroDivisionError, AttributeError):
            if not killer(mutant):
                survivors.add(str(mutant))
    expected = {name for name in EQUIVALENT if name.startswith(prefix)}
    names = set(map(str, mutants))
    assert {name for name in SOMETIMES if name.startswith(prefix)} <= names, "gone"
    assert survivors - expected - SOMETIMES == set(), "no bit shows these"
    assert expected - survivors == set(), "known as equivalent, and killed (or gone)"
    assert len(mutants) > 5


def lane_results() -> list[Tensor]:
    """A step of what torch's kernels contract by lane, for sizes and addresses on both of their paths."""
    results = []
    contracted: list[tuple[str, dict[str, Any], float | None]] = [
        ("adam", {"weight_decay": 0.97}, None),
        ("sgd", {}, 3.0),
        ("sgd", {"momentum": 0.9, "maximize": True}, None),
    ]
    for name, options, scale in contracted:
        algorithm = kernels.get_algorithm(name)
        recipe, hyper = algorithm.recipe("fused"), algorithm.hyperparameters(lr=0.1, **options)
        powers = power_table(torch.device("cpu"))
        rows = torch.tensor([recipe.row(hyper, 3.0, False, powers)], dtype=torch.float64)
        for size, offset in itertools.product((60, 62, 2052, 4098), (0, 2, 4)):
            rng = np.random.default_rng(size)
            p, g, *states = (placed(np.abs(rng.standard_normal(size)), torch.float32, offset) for _ in range(5))
            kept = algorithm.state_names(hyper)
            slots = [[x] if k < len(kept) else None for k, x in enumerate(states)]
            dispatch.step_bucket(
                recipe,
                algorithm.flags(hyper),
                Bucket(params=[p], grads=[g], states=slots, row_of=[0]),
                rows=rows,
                steps=torch.tensor([3.0]),
                powers=powers.values,
                grad_scale=None if scale is None else torch.tensor(scale),
                backend="reference",
            )
            results += [p, *states]
    return results


@pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.__name__.split(".")[-1])
def test_every_rounding_branch_and_scalar_of_a_rule_is_load_bearing(module: types.ModuleType) -> None:
    functions, rows = functions_of(module)
    mutants = list(functions.mutants(rows=rows))
    check(mutants, functools.partial(kills_rule, functions, rows), module.__name__.split(".")[-1] + ".")


def kills_block(functions: Functions, mutant: Mutant) -> Trial | None:
    names = functions.namespace(mutant.code)
    blocks = types.SimpleNamespace(**{**vars(reference), **names})
    rules = {m.__name__: functions_of(m)[0].namespace(ref=blocks) for m in MODULES.values()}
    return next(
        (t for t in trials() if t.differs(rules[t.recipe.reference.__module__][t.recipe.reference.__name__])), None
    )


def test_every_building_block_is_load_bearing() -> None:
    functions = Functions(reference, BLOCKS, blocks="", dtype="dtype")
    chosen = [mutant for mutant in functions.mutants(rows={}) if mutant.function in BLOCKS]
    check(chosen, functools.partial(kills_block, functions), "reference.")


def kills_update(functions: Functions, mutant: Mutant) -> Trial | None:
    update = functions.namespace(mutant.code)["reference_update"]
    return next((t for t in trials() if t.differs(t.recipe.reference, update=update)), None)


def test_every_step_of_taking_out_a_scale_is_load_bearing() -> None:
    functions = Functions(tensor_ops, ["reference_update"], blocks="", dtype="p.dtype")
    check(list(functions.mutants(rows={})), functools.partial(kills_update, functions), "tensor_ops.reference_update")


def test_every_lane_of_the_fused_kernels_is_load_bearing() -> None:
    functions = Functions(tensor_ops, ["lanes"], blocks="", dtype="")
    right = lane_results()

    def kills_lanes(mutant: Mutant) -> bool:
        with mock.patch.object(tensor_ops, "lanes", functions.namespace(mutant.code)["lanes"]):
            return any(bits.mismatches(a, b) for a, b in zip(lane_results(), right, strict=True))

    check(list(functions.mutants(rows={})), kills_lanes, "tensor_ops.lanes")


def test_the_page_counts_what_is_broken() -> None:
    counts = [len(list(functions.mutants(rows=rows))) for functions, rows in map(functions_of, MODULES.values())]
    blocks = Functions(reference, BLOCKS, blocks="", dtype="dtype").mutants(rows={})
    counts.append(sum(mutant.function in BLOCKS for mutant in blocks))
    counts.append(len(list(Functions(tensor_ops, ["reference_update"], blocks="", dtype="p.dtype").mutants(rows={}))))
    counts.append(len(list(Functions(tensor_ops, ["lanes"], blocks="", dtype="").mutants(rows={}))))
    known = len(EQUIVALENT) + len(SOMETIMES)
    page = (Path(__file__).parents[2] / "docs" / "numerics.md").read_text(encoding="utf-8")
    assert f"{sum(counts)} broken rules, {sum(counts) - known} of them seen in bits" in page
    assert f"of the other {known} three show on some CPUs only and {len(EQUIVALENT)} cannot show" in page
    assert len(SOMETIMES) == 3
