"""All recorded bits of torch's CUDA kernels, replayed on the CPU."""

from collections import defaultdict

import pytest
from replay import load_cases, replay

CASES, ARRAYS = load_cases()
GROUPS = defaultdict(list)
for number, case in enumerate(CASES):
    GROUPS[case["optimizer"], case["recipe"], case["dtype"]].append(number)


def _replay_group(key: tuple[str, str, str], backend: str) -> None:
    wrong = {k: found for k in GROUPS[key] if (found := replay(CASES[k], ARRAYS, k, backend))}
    assert not wrong, f"{len(wrong)} of {len(GROUPS[key])} cases differ; first: {next(iter(wrong.items()))}"


def test_all_cases_are_covered() -> None:
    assert sum(map(len, GROUPS.values())) == 576


@pytest.mark.parametrize("key", GROUPS, ids="-".join)
def test_reference_replays(key: tuple[str, str, str]) -> None:
    _replay_group(key, "reference")


@pytest.mark.parametrize("key", GROUPS, ids="-".join)
def test_simd_replays(key: tuple[str, str, str]) -> None:
    _replay_group(key, "simd")


@pytest.mark.interpreter
@pytest.mark.parametrize("key", GROUPS, ids="-".join)
def test_interpreter_replays(key: tuple[str, str, str]) -> None:
    _replay_group(key, "interpreter")
