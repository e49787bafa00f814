"""Interpreter and reference agree to the bit over a random space of algorithms, recipes, options, dtypes and values."""

import os

import pytest
from configurations import draw, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels import bits

EXAMPLES = int(os.environ.get("AGREEMENT_EXAMPLES", "250"))


@pytest.mark.interpreter
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 250,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(seed=st.integers(0, 2**62))
def test_interpreter_equals_reference(seed: int) -> None:
    interpreted, referenced = run(seed, "interpreter"), run(seed, "reference")
    for name, tensor in interpreted.items():
        found = bits.report(tensor, referenced[name])
        assert found is None, f"{name}: {found}; {draw(seed)[0]}"
