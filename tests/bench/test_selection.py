import itertools
from dataclasses import replace

import pytest
import torch

from bench.conformance.cases import Case
from bench.conformance.compare import run_case
from bench.conformance.inputs import make_groups, make_parameters
from bench.conformance.option_sets import option_sets
from bench.conformance.rows import Outcome
from bench.conformance.selection import HAPPENINGS, QUICK_CASES, can_meet, conform_cases, pairwise
from bench.optimizers import registered
from bench.providers import Ours, TorchOptim
from bench.providers.user import OneClass
from tests.bench import example_optimizers as examples

CPU = torch.device("cpu")
FOREACH = TorchOptim(implementation="foreach")
REFERENCE = Ours(recipe="foreach", backend="reference")
TORCHS = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"]
SETTINGS = [
    pytest.param(fields, id=f"{dimension}-{name}")
    for dimension, settings in HAPPENINGS.items()
    for name, fields in settings.items()
    if fields
]


def settings_of(case: Case) -> set[tuple[str, str]]:
    """Which settings of every dimension of the happenings a case has: those that change most of it."""
    found = set()
    for dimension, settings in HAPPENINGS.items():
        fitting = [name for name, fields in settings.items() if case == replace(case, **fields)]
        found.add((dimension, max(fitting, key=lambda name: len(settings[name]))))
    return found


@pytest.mark.parametrize("quick", [True, False])
def test_every_two_happenings_meet_that_can(quick: bool) -> None:
    met = {pair for case in conform_cases("SGD", "foreach", quick=quick) for pair in pairs(settings_of(case))}
    plain = Case(optimizer="SGD", options=option_sets("SGD")[0], steps=3)
    missing = []
    for (one, ones), (other, others) in itertools.combinations(HAPPENINGS.items(), 2):
        for a, b in itertools.product(ones, others):
            if can_meet(replace(plain, **ones[a], **others[b])) and frozenset({(one, a), (other, b)}) not in met:
                missing.append((one, a, other, b))
    assert missing == []


def pairs(settings: set[tuple[str, str]]) -> set[frozenset[tuple[str, str]]]:
    return set(map(frozenset, itertools.combinations(settings, 2)))


@pytest.mark.parametrize("optimizer", TORCHS)
def test_every_option_meets_every_history_of_the_states(optimizer: str) -> None:
    for quick in (True, False):
        cases = conform_cases(optimizer, "foreach", dtypes=("fp32",), quick=quick)
        met = {(case.option_set(), dict(settings_of(case))["states"]) for case in cases if case.options}
        assert len(met) == len(option_sets(optimizer)) * len(HAPPENINGS["states"])


def test_pairs_of_settings_meet() -> None:
    cases = conform_cases("Adam", "foreach")
    assert len(cases) < 400
    met = {(case.option_set(), case.dtype) for case in cases if case.options}
    assert len(met) == 3 * len(option_sets("Adam"))
    assert {(case.layout, case.values) for case in cases if case.steps != 1000} >= {
        (layout, values) for layout in ("edges", "offset", "strides") for values in ("normal", "wide", "special")
    }
    assert all(case.dtype != "fp16" and case.values == "normal" for case in cases if case.power)
    assert max(case.steps for case in cases) == 1000 and any(case.start_step == 999_999 for case in cases)


def test_a_short_selection_has_the_most_useful_cases() -> None:
    cases = conform_cases("Adam", "foreach", quick=True, limit=QUICK_CASES)
    assert len(cases) == QUICK_CASES and cases == conform_cases("Adam", "foreach", quick=True)[:QUICK_CASES]
    assert {setting for case in cases for setting in settings_of(case)} == {
        (dimension, name) for dimension, settings in HAPPENINGS.items() for name in settings
    }


def test_pairwise_leaves_out_what_cannot_meet() -> None:
    found = list(pairwise([(0, 1, 2), "ab", (True, False)], lambda number, letter, flag: not (number == 2 and flag)))
    assert {(number, letter) for number, letter, _ in found} == {(n, c) for n in (0, 1, 2) for c in "ab"}
    assert (2, True) not in {(number, flag) for number, _, flag in found}


def test_an_algorithm_of_the_registry_alone_has_cases() -> None:
    assert {"maximize", "weight_decay"} <= {name for options in option_sets("AdamAtan2") for name in options}
    assert registered("AdamAtan2").name == "adam_atan2"


@pytest.mark.parametrize("optimizer", TORCHS)
@pytest.mark.parametrize("fields", SETTINGS)
def test_happenings_reach_both_sides(optimizer: str, fields: dict[str, object]) -> None:
    plain = Case(optimizer=optimizer, options=option_sets(optimizer)[1], layout="edges", steps=3)
    case = replace(plain, **fields)  # type: ignore[arg-type]
    assert case.option_text() != plain.option_text()
    assert run_case(replace(case, power=0), FOREACH, FOREACH, CPU).outcome == "identical"


def test_empty_tensors_and_the_order_of_groups() -> None:
    def shapes(**fields: object) -> list[list[tuple[int, ...]]]:
        case = Case(optimizer="SGD", options={"lr": 0.1}, layout="offset", groups=2, **fields)  # type: ignore[arg-type]
        return [[tuple(p.shape) for p in group["params"]] for group in make_groups(case, make_parameters(case, CPU))]

    first, second = [(260,), (2051,), (4096,)], [(67,), (1024,)]
    assert shapes() == [first, second]
    assert shapes(empty="last") == [[*first, (0,)], [*second, (0,)]]
    assert shapes(empty="first") == [[(0,), *first], [(0,), *second]]
    assert shapes(empty="group") == [[(0,), (0,)], first, second]
    assert shapes(order="reversed") == [first[::-1], second[::-1]]


def failing(made: type[torch.optim.Optimizer]) -> set[str]:
    """Options of the quick cases that fail for a class that stands for SGD."""
    rows = [
        run_case(case, OneClass(made=made), REFERENCE, CPU)
        for case in conform_cases("SGD", "foreach", dtypes=("fp32",), quick=True)
        if not case.power
    ]
    assert sum(row.outcome is Outcome.IDENTICAL for row in rows) > 10
    return {row.options for row in rows if row.outcome.failed}


def test_a_first_gradient_after_a_reload_shows_who_takes_every_buffer_for_used() -> None:
    found = failing(examples.BuffersFromTheStart)
    assert found and all("idle" in options and "reload" in options for options in found if "added" not in options)
    assert any("dampening" in options and "added" not in options for options in found)


def test_an_empty_tensor_last_in_a_group_shows_who_looks_at_it() -> None:
    found = failing(examples.EmptyTailSkips)
    assert any("empty=last" in options for options in found)
    assert all("empty=" in options or "order=reversed" in options for options in found)


def test_nothing_else_fails() -> None:
    assert failing(examples.RightSGD) == set()


@pytest.mark.parametrize(
    ("made", "outcome", "words"),
    [
        (examples.RightSGD, "identical", ""),
        (examples.ClosureWithoutGradients, "error", "with gradients off"),
        (examples.LossForgotten, "error", "returned None"),
        (examples.ClosureForgotten, "unsupported", "does not call its closure"),
        (examples.NoClosure, "unsupported", "takes no closure"),
    ],
)
def test_closures(made: type[torch.optim.Optimizer], outcome: str, words: str) -> None:
    case = Case(optimizer="SGD", options={"lr": 0.1}, layout="offset", closure=True, steps=2)
    provider = OneClass(made=made)
    row = run_case(case, provider, FOREACH, CPU)
    assert row.outcome == outcome and words in row.detail
    if outcome == "unsupported":
        # On another loss a class is its own reference.
        assert run_case(replace(case, power=3), provider, provider, CPU).outcome == outcome


def test_torchs_fused_sgd_wants_all_first_gradients_at_once() -> None:
    options = {"lr": 0.1, "momentum": 0.9}
    case = Case(optimizer="SGD", options=options, recipe="cpu-fused", layout="blocks", idle=True, steps=2)
    fused = TorchOptim(implementation="fused")
    assert run_case(case, fused, REFERENCE, CPU).outcome == "unsupported"
    assert run_case(case, Ours(recipe="cpu-fused"), fused, CPU).outcome == "no reference"
