"""One seed, one device fixture, and the marks that need a certain process or machine."""

import os
import random
import signal

import hypothesis
import numpy as np
import pytest
import torch

SEED = 20

# The same examples in every run, and no time limit on one: two workers share two cores here and on the build machine.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

# A shell's background jobs ignore Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skips = {
        "interpreter": (os.environ.get("TRITON_INTERPRET") != "1", "needs a process started with TRITON_INTERPRET=1"),
        "cuda": (not torch.cuda.is_available(), "needs a CUDA device"),
    }
    for item in items:
        for mark, (missing, reason) in skips.items():
            if missing and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def device() -> torch.device:
    """The best device here; a test that needs CUDA is marked so."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    random.seed(SEED)
    np.random.seed(SEED)  # for code that uses the global generator
    torch.manual_seed(SEED)
