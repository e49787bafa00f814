"""Real training frameworks with our classes: `make test-clients`. Without the extra `clients` these tests are skipped.

With CLIENTS_TABLE=FILE in the environment a run writes its versions and results into FILE, between two marks.
"""

import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

BEGIN, END = "<!-- clients: written by make test-clients -->", "<!-- end -->"
Record = Callable[[str, str, str], None]
_ROWS: dict[str, tuple[str, str, str]] = {}
_RESULTS: dict[str, str] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            # The frameworks' own warnings are not ours to mend.
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Record:
    """``client(package, what is used of it, optimizers)``: a row of the table; skips where the package is missing."""

    def row(package: str, used: str, optimizers: str) -> None:
        pytest.importorskip(package, reason=f"{package} is not installed; see make test-clients")
        _ROWS[request.node.nodeid] = (f"{package} {version(package)}", used, optimizers)

    return row


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed or report.when == "call":
        _RESULTS[report.nodeid] = report.outcome


def pytest_sessionfinish() -> None:
    target = os.environ.get("CLIENTS_TABLE")
    if not target or not _ROWS:
        return
    lines = [
        f"Python {platform.python_version()}, torch {version('torch')}, triton {version('triton')}, on a CPU.",
        "",
        "| client | what runs | optimizers | result |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} | {_RESULTS.get(node, 'not run')} |" for node, row in _ROWS.items()),
    ]
    file = Path(target)
    before, _, rest = file.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    file.write_text("\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{after}"]))


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Whatever a framework leaves behind lies in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "WANDB_DISABLED"):
        monkeypatch.setenv(name, "1")
    yield
    if "accelerate" in sys.modules:
        # One process has one state there, which knows one precision.
        sys.modules["accelerate"].state.AcceleratorState._reset_state(reset_partial_state=True)
