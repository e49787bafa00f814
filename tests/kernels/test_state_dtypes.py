"""The dtype of a state is torch's: like the parameter or like the gradient, and lines round as torch promotes."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import kernels
from kernels import bits

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
PAIRS = list(itertools.permutations((BF16, FP16, FP32), 2))
SWITCHES: dict[str, dict[str, bool]] = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}}
# Exact in every dtype: torch's CPU kernels round the scalars of 16-bit operations, its CUDA kernels do not.
SGD_OPTIONS = [
    {"lr": 0.125, "momentum": momentum, "dampening": dampening, "weight_decay": decay, "nesterov": nesterov, **rest}
    for momentum, dampening, nesterov in ((0.0, 0.0, False), (0.875, 0.25, False), (0.875, 0.0, True))
    for decay in (0.0, 0.125)
    for rest in ({"maximize": False}, {"maximize": True})
]
TAKEN = [
    # torch's foreach refuses float16 gradients of other parameters.
    (implementation, dtypes)
    for implementation in SWITCHES
    for dtypes in PAIRS
    if implementation == "for-loop" or dtypes[1] != FP16
]
STATES = [(algorithm, state) for algorithm in kernels.ALGORITHMS.values() for state in algorithm.states]
ALL_KEPT = {"sgd": {"momentum": 0.5}, "adam": {"amsgrad": True}, "adamw": {"amsgrad": True}}
ALL_KEPT["rmsprop"] = {"momentum": 0.5, "centered": True}


def parameter(dtype: torch.dtype, grad: torch.dtype) -> torch.nn.Parameter:
    # A whole number of vectors: torch's CPU kernels round the rest otherwise.
    p = torch.nn.Parameter(torch.randn(128, generator=torch.Generator().manual_seed(1)).to(dtype))
    p.grad_dtype = grad
    return p


def run(root: Any, name: str, dtypes: tuple[torch.dtype, torch.dtype], steps: int, **options: Any) -> list[Any]:
    """The parameter and its states after these steps."""
    p = parameter(*dtypes)
    optimizer = getattr(root, name)([p], **options)
    continued(optimizer, p, steps, seed=2)
    return [p.detach(), *(v for v in optimizer.state[p].values() if torch.is_tensor(v))]


def continued(optimizer: Any, p: torch.Tensor, steps: int, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        p.grad = torch.randn(p.shape, generator=generator).to(p.grad_dtype)
        optimizer.step()


def differences(ours: list[Any], theirs: list[Any]) -> int:
    assert [x.dtype for x in ours] == [x.dtype for x in theirs]
    return sum(bits.mismatches(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("backend", ["reference", "simd"])
@pytest.mark.parametrize(("implementation", "dtypes"), TAKEN, ids=str)
def test_sgd_has_torchs_bits_when_gradients_have_another_dtype(implementation: str, dtypes: Any, backend: str) -> None:
    for options in SGD_OPTIONS:
        theirs = run(torch.optim, "SGD", dtypes, 4, **options, **SWITCHES[implementation])
        ours = run(kernels, "SGD", dtypes, 4, **options, **SWITCHES[implementation], backend=backend)
        assert differences(ours, theirs) == 0, options


@pytest.mark.interpreter
@pytest.mark.parametrize("dtypes", PAIRS, ids=str)
def test_the_interpreter_agrees(dtypes: Any) -> None:
    cases = [("SGD", options) for options in SGD_OPTIONS[-4:]]
    cases += [("RMSprop", {"momentum": 0.9, "weight_decay": 0.1}), ("Adagrad", {"weight_decay": 0.1})]
    for name, options in cases:
        one, two = (run(kernels, name, dtypes, 2, **options, backend=b) for b in ("interpreter", "reference"))
        assert differences(one, two) == 0, (name, options)


@pytest.mark.parametrize(("implementation", "dtypes"), TAKEN, ids=str)
def test_a_loaded_buffer_has_the_parameters_dtype_and_goes_on_with_torchs_bits(
    implementation: str, dtypes: Any
) -> None:
    for options in SGD_OPTIONS:
        results = []
        for root in (torch.optim, kernels):
            p = parameter(*dtypes)
            first, second = (root.SGD([p], **options, **SWITCHES[implementation]) for _ in range(2))
            continued(first, p, 2, seed=2)
            second.load_state_dict(first.state_dict())
            continued(second, p, 3, seed=3)
            results.append([p.detach(), *filter(torch.is_tensor, second.state[p].values())])
        assert differences(results[1], results[0]) == 0, options


@pytest.mark.parametrize(("implementation", "dtypes"), [case for case in TAKEN if case[1][0] != FP32], ids=str)
def test_second_moments_of_the_first_step_are_torchs(implementation: str, dtypes: Any) -> None:
    """Later ones, and the parameters, differ on a CPU alone: its roots are inexact, its 16-bit scalars rounded."""
    for name, options in (("RMSprop", {}), ("Adagrad", {"initial_accumulator_value": 0.5})):
        for decay in (0.0, 0.3):
            given = {**options, "weight_decay": decay, **SWITCHES[implementation]}
            theirs = run(torch.optim, name, dtypes, 1, **given)
            for backend in ("reference", "simd"):
                ours = run(kernels, name, dtypes, 1, **given, backend=backend)
                assert differences(ours[1:], theirs[1:]) == 0, (name, decay, backend)


def test_a_float32_buffer_under_bfloat16_parameters_does_not_stall() -> None:
    p = torch.nn.Parameter(torch.ones(2, dtype=BF16))
    p.grad_dtype = FP32
    optimizer = kernels.SGD([p], lr=1e-3, momentum=0.99)
    for _ in range(200):
        p.grad = torch.tensor([1.0, 0.1])
        optimizer.step()
    assert optimizer.state[p]["momentum_buffer"].tolist() == [86.60209655761719, 8.660213470458984]
    assert p.tolist() == [-9.6875, -0.1630859375]


@pytest.mark.parametrize("algorithm", kernels.ALGORITHMS.values(), ids=lambda a: a.name)
@pytest.mark.parametrize("dtypes", PAIRS, ids=str)
def test_new_states_have_the_dtype_that_the_algorithms_file_says(algorithm: Any, dtypes: Any) -> None:
    options = {"lr": 0.1, **ALL_KEPT.get(algorithm.name, {})}
    p = parameter(*dtypes)
    optimizer = kernels.CLASSES[algorithm.title]([p], **options)
    continued(optimizer, p, 1, seed=2)
    kept = {state.name: optimizer.state[p][state.name].dtype for state in algorithm.states}
    assert kept == {state.name: dtypes[state.like == "grad"] for state in algorithm.states}


@pytest.mark.parametrize(("algorithm", "state"), [case for case in STATES if hasattr(torch.optim, case[0].title)])
def test_torch_makes_a_state_like_the_one_that_the_file_names_or_refuses_such_a_gradient(
    algorithm: Any, state: Any
) -> None:
    """Torch's moving averages by lerp refuse a gradient of another dtype at the step, after they were made."""
    for dtypes in PAIRS:
        p = parameter(*dtypes)
        options = {"lr": 0.1, "foreach": False, **ALL_KEPT.get(algorithm.name, {})}
        optimizer = getattr(torch.optim, algorithm.title)([p], **options)
        try:
            continued(optimizer, p, 1, seed=2)
        except RuntimeError as error:
            assert "expected dtype" in str(error) and state.like == "param"
        assert optimizer.state[p][state.name].dtype == dtypes[state.like == "grad"]


def test_masters_keep_float32_buffers() -> None:
    p = parameter(BF16, BF16)
    optimizer = kernels.SGD([p], lr=0.1, momentum=0.9, master_weights=True)
    continued(optimizer, p, 1, seed=2)
    assert optimizer.state[p]["momentum_buffer"].dtype == FP32


def test_the_manuals_table_is_the_registry() -> None:
    text = (Path(kernels.__file__).parents[1] / "docs" / "optimizers.md").read_text()
    table = text.split("| state | of | made like |\n|---|---|---|\n")[1].split("\n\n")[0]
    said = set()
    for line in table.splitlines():
        names, classes, like = (cell.strip() for cell in line.strip("|").split("|"))
        said |= {(c, n, like.split()[1]) for n in re.findall(r"`(\w+)`", names) for c in classes.split(", ")}
    words = {"param": "parameter", "grad": "gradient"}
    assert said == {(a.title, state.name, words[state.like]) for a, state in STATES}
