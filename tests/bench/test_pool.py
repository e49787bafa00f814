import time
from typing import Any

from bench.conformance import pool, table
from bench.conformance.cases import Case
from bench.providers import TorchOptim
from tests.bench import planted
from tests.bench.planted import Planted

FOREACH = TorchOptim(implementation="foreach")


def run(provider: Any, *, case_limit_s: float, seconds: float = 60) -> pool.PoolReport:
    good = Case(optimizer="SGD", options={"lr": 0.1}, layout="one", steps=1)
    bad = Case(optimizer="SGD", options={"lr": 0.1, "momentum": 0.9}, layout="one", steps=1)
    tasks = pool.group([(provider, FOREACH, bad), (provider, FOREACH, good)])
    workers = pool.Pool(workers=1, device="cpu", case_limit_s=case_limit_s)
    return workers.run(tasks, time.monotonic() + seconds, lambda row: None)


def test_a_case_that_hangs_is_ended_and_the_rest_goes_on() -> None:
    report = run(Planted(planted.Hangs, only_with_momentum=True), case_limit_s=4)
    assert sorted(row.outcome for row in report.rows) == ["identical", "timeout"]
    assert (report.not_run, report.replaced_workers) == (0, 1)


def test_a_worker_that_dies_costs_one_case() -> None:
    report = run(Planted(planted.Dies, only_with_momentum=True), case_limit_s=30)
    assert sorted(row.outcome for row in report.rows) == ["error", "identical"]
    assert "exit code 11" in next(row.detail for row in report.rows if row.outcome == "error")


def test_what_does_not_fit_is_counted() -> None:
    assert run(FOREACH, case_limit_s=30, seconds=-1).not_run == 2


def test_table_counts_outcomes_and_names_failures() -> None:
    good = Case(optimizer="SGD", options={"lr": 0.1}, layout="one", steps=1)
    task = pool.Task(provider=FOREACH, against=FOREACH, cases=(good,))
    rows = [pool.unfinished_row(good, task, outcome, "why") for outcome in ("identical", "timeout", "timeout")]
    assert table.tally(rows) == [
        {"optimizer": "SGD", "recipe": "foreach", "dtype": "fp32", "cases": 3, "identical": 1, "timeout": 2}
    ]
    text = "\n".join(table.markdown(rows))
    assert "timeout SGD foreach fp32 `lr=0.1` [one/normal] ×2: why" in text
