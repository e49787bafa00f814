"""Precision policies: the presets that a study names are those that the trainer executes."""

import pytest

from kernels.population.policy import POLICIES as EXECUTED
from lossscale.design.policies import POLICIES, Policy
from lossscale.support.errors import InputError


def test_the_presets_are_those_of_the_trainer() -> None:
    assert {name: vars(policy) for name, policy in POLICIES.items()} == {n: vars(p) for n, p in EXECUTED.items()}


def test_a_format_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="policy: params fp23"):
        Policy(params="fp23")
