"""Habits that plain steps do not show: which cases do, and who is right in all of them."""

import subprocess
import sys
from functools import cache

import pytest
import torch

from bench.conformance.compare import run_case
from bench.conformance.report.common import common_text
from bench.conformance.report.document import sentence
from bench.conformance.rows import Outcome, Row
from bench.conformance.selection import conform_cases
from bench.providers import TorchOptim
from bench.providers.user import OneClass
from tests.bench import wrong_habits as habits

CPU = torch.device("cpu")
FOR_LOOP = TorchOptim(implementation="for-loop")


@cache
def rows_of(made: type[torch.optim.Optimizer], optimizer: str) -> list[Row]:
    """A class's rows in the quick cases of two dtypes."""
    cases = conform_cases(optimizer, "foreach", dtypes=("fp32", "bf16"), quick=True)
    provider = OneClass(made=made)
    return [run_case(case, provider, provider if case.power else FOR_LOOP, CPU) for case in cases]


WRONG = [
    (habits.ClosureTwice, "SGD", ("closure",), "called its closure 2 times"),
    (habits.KeepsItsRates, "SGD", ("reload_at",), "param["),
    (habits.CopiesAreItself, "SGD", ("copied=deep",), "param["),
    (habits.PicklesWithoutState, "SGD", ("copied=deep", "copied=pickled"), "momentum_buffer["),
    (habits.HooksForgotten, "SGD", ("hooks",), "did not call the hook"),
    (habits.DecayOfTheFirstStep, "SGD", ("schedule=cycled",), "param["),
    (habits.RestsAtZero, "SGD", ("schedule=warming",), "momentum_buffer["),
    (habits.LowersItsRate, "SGD", ("tensor_lr",), "param["),
    (habits.FirstDtypeForAll, "SGD", ("mixed",), "param in float32["),
    (habits.ZerosForNone, "SGD", ("pausing",), "param["),
    (habits.DecaysTheGradient, "SGD", ("weight_decay", "groups=2"), "grad["),
    (habits.OneFlagForAll, "Adam", ("flags",), "param["),
    (habits.CorrectionGivenUp, "Adam", ("start_step",), "param["),
    (habits.NotNegative, "RMSprop", ("repeated",), "square_avg["),
    (habits.NoDecayByDefault, "AdamW", ("defaults",), "weight_decay is 0.0 by default, that of torch-for-loop is 0.01"),
]


@pytest.mark.parametrize(("made", "optimizer", "settings", "words"), WRONG, ids=[entry[0].__name__ for entry in WRONG])
def test_a_habit_shows_where_it_matters_and_nowhere_else(
    made: type[torch.optim.Optimizer], optimizer: str, settings: tuple[str, ...], words: str
) -> None:
    failed = [row for row in rows_of(made, optimizer) if row.outcome.failed]
    assert failed and all(any(setting in row.options for setting in settings) for row in failed)
    assert all(any(setting in row.options for row in failed) for setting in settings)
    assert any(words in sentence(row) for row in failed)


def test_images_lie_channels_last_with_the_matrices() -> None:
    failed = [row for row in rows_of(habits.ImagesInMemorysOrder, "SGD") if row.outcome.failed]
    assert failed and all(row.shape == "strides" for row in failed)


@pytest.mark.parametrize(
    ("made", "optimizer", "settings", "words"),
    [
        (torch.optim.SGD, "SGD", (), ""),
        (torch.optim.Adagrad, "Adagrad", (), ""),
        (habits.CountsUnderAnotherName, "Adam", ("start_step=",), "no step to set"),
        (habits.Logs, "Adam", ("copied=",), "AttributeError"),
        (habits.Wraps, "SGD", ("copied=", "hooks"), ""),
        (habits.TakesAnyOption, "Adagrad", ("lr_decay", "groups="), "no option lr_decay"),
    ],
)
def test_who_is_right_fails_nowhere(
    made: type[torch.optim.Optimizer], optimizer: str, settings: tuple[str, ...], words: str
) -> None:
    rows = rows_of(made, optimizer)
    assert [sentence(row) for row in rows if row.outcome.failed] == []
    refused = [row for row in rows if row.outcome is Outcome.UNSUPPORTED]
    assert all(any(setting in row.options for setting in settings) and words in row.detail for row in refused)
    assert bool(refused) == bool(settings)


def test_a_step_that_raises_on_another_loss_too_is_the_classs_own_error() -> None:
    class Raises(torch.optim.SGD):
        def step(self, closure=None):  # type: ignore[no-untyped-def, override]
            raise ValueError("planted")

    assert {row.outcome for row in rows_of(Raises, "SGD") if "loss=" in row.options} == {Outcome.ERROR}


def test_zeros_of_the_other_sign_are_said_to_be_that() -> None:
    class Positive(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):  # type: ignore[no-untyped-def, override]
            loss = super().step(closure)
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(0.0)
            return loss

    texts = [sentence(row) for row in rows_of(Positive, "SGD") if row.outcome.failed]
    assert texts and all("; largest difference at " in text and ", 0 for -0, " in text for text in texts)
    assert all("off in the sign of zero alone" in text for text in texts)


@pytest.mark.parametrize(
    ("made", "optimizer", "words"),
    [
        (habits.KeepsItsRates, "SGD", "have reload_at, as do "),
        (habits.RestsAtZero, "SGD", "have schedule=warming"),
        (habits.OneFlagForAll, "Adam", "have flags, as does none of the "),
        (torch.optim.SGD, "SGD", ""),
    ],
)
def test_what_failures_have_in_common_is_said(made: type[torch.optim.Optimizer], optimizer: str, words: str) -> None:
    rows = rows_of(made, optimizer)
    text = common_text(rows, [row for row in rows if row.outcome.failed])
    assert len(text) == bool(words) and all(words in line for line in text)


def test_nothing_is_in_common_where_everything_fails() -> None:
    rows = rows_of(habits.KeepsItsRates, "SGD")
    failed = [row for row in rows if row.outcome.failed]
    assert common_text(failed, failed) == [] and common_text(rows, failed[:1]) == []


def test_a_worker_that_is_ready_has_loaded_what_takes_seconds() -> None:
    # In a process of its own, as a worker is: this one has loaded all of it.
    text = """
import sys
from bench.conformance.execution import case_pool
case_pool(workers=1, limit_s=1.0)._setup()
before = set(sys.modules)
import torch
p = torch.ones(3, requires_grad=True)
p.grad = torch.ones(3)
torch.optim.Adam([p]).step()
print(len(set(sys.modules) - before), "bench.conformance.compare" in before)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    late, loaded = done.stdout.split()
    assert int(late) < 10 and loaded == "True"
