import pytest
import torch

from bench.conformance.cases import Case, cuda_cases
from bench.conformance.compare import run_case
from bench.providers import Ours, TorchOptim
from tests.bench import planted
from tests.bench.planted import Planted

CPU = torch.device("cpu")
FOREACH = TorchOptim(implementation="foreach")


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("values", ["normal", "wide", "subnormal", "special"])
def test_a_provider_equals_itself(dtype: str, values: str) -> None:
    for layout in ("edges", "offset", "transposed", "tiny"):
        case = Case(optimizer="Adam", options={"lr": 0.01}, dtype=dtype, values=values, layout=layout, steps=2)
        row = run_case(case, FOREACH, FOREACH, CPU)
        assert row.outcome == "identical", row


FAULTS = [
    (planted.NoOp, {"optimizer": "SGD", "options": {"lr": 0.1}}),
    (planted.TailSkipped, {"optimizer": "SGD", "options": {"lr": 0.1}}),
    (planted.DecayIgnored, {"optimizer": "AdamW", "options": {"lr": 0.1, "weight_decay": 0.1}}),
    (planted.LateEps, {"optimizer": "Adam", "options": {"lr": 0.1}}),
    (planted.LrCaptured, {"optimizer": "Adam", "options": {"lr": 0.1}, "schedule": "falling"}),
    (planted.ScaleIgnored, {"optimizer": "Adam", "options": {"lr": 0.1}, "grad_scale": 3000.0}),
    (planted.ScaleIgnored, {"optimizer": "Adam", "options": {"lr": 0.1}, "found_inf_at": 1}),
]


@pytest.mark.parametrize(("fault", "fields"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_planted_faults_are_caught_and_located(fault: type[torch.optim.Optimizer], fields: dict[str, object]) -> None:
    row = run_case(Case(layout="edges", **fields), Planted(fault), FOREACH, CPU)  # type: ignore[arg-type]
    assert row.outcome == "mismatch"
    assert row.mismatching_bits > 0 and row.max_ulp > 0
    first = row.first_mismatch
    assert first is not None
    assert first.provider[first.quantity] != first.against[first.quantity]
    assert set(first.inputs) >= {"param", "grad"}
    assert all(text.startswith("0x") and len(text) == 10 for text in first.inputs.values())


def test_a_wrong_element_is_found_where_it_is() -> None:
    case = Case(optimizer="SGD", options={"lr": 0.1}, layout="one", steps=3)
    row = run_case(case, Planted(planted.TailSkipped), FOREACH, CPU)
    assert row.elements == {"param": 1}
    assert row.first_mismatch is not None
    assert (row.first_mismatch.index, row.first_mismatch.step) == (999, 0)


def test_what_is_not_a_comparison_has_its_own_outcome() -> None:
    case = Case(optimizer="SGD", options={"lr": 0.1}, layout="one")
    raised = run_case(case, Planted(planted.Raises), FOREACH, CPU)
    assert raised.outcome == "error" and "planted" in raised.detail
    refused = run_case(case, Planted(planted.Refuses), FOREACH, CPU)
    assert refused.outcome == "unsupported" and "no such option" in refused.detail
    assert run_case(case, FOREACH, Planted(planted.Refuses), CPU).outcome == "no reference"
    assert run_case(case, FOREACH, Planted(planted.Raises), CPU).outcome == "no reference"
    assert run_case(case, Ours(recipe="foreach", backend="triton"), FOREACH, CPU).outcome == "missing"
    adam = Case(optimizer="Adam", options={"lr": 0.1}, layout="one")
    surprised = run_case(adam, Planted(planted.WrongState), FOREACH, CPU)
    assert surprised.outcome == "mismatch" and "surprise" in surprised.detail


def test_a_resumed_step_number_reaches_both_sides() -> None:
    plain = Case(optimizer="Adam", options={"lr": 0.1}, layout="one", steps=3)
    late = Case(optimizer="Adam", options={"lr": 0.1}, layout="one", steps=3, start_step=999_999)
    assert run_case(late, FOREACH, FOREACH, CPU).outcome == "identical"
    assert "start_step" in late.option_text() and "start_step" not in plain.option_text()


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_ours_equals_fused_torch_on_the_cpu(optimizer: str) -> None:
    from bench.conformance.cases import cpu_cases

    for case in cpu_cases(optimizers=[optimizer]):
        reference = TorchOptim(implementation="fused" if case.recipe == "cpu-fused" else case.recipe)
        row = run_case(case, Ours(recipe=case.recipe), reference, CPU)
        assert row.outcome == "identical", row


def test_cases_start_with_every_cell_and_cover_the_options() -> None:
    cases = list(cuda_cases())
    first = {(c.optimizer, c.recipe, c.dtype) for c in cases[:42]}
    assert len(first) == 42
    assert ("RMSprop", "fused", "fp32") not in first
    options = {name for case in cases for name in case.options}
    wanted = "momentum dampening nesterov weight_decay maximize amsgrad betas eps alpha centered lr_decay capturable"
    assert options >= {*wanted.split(), "initial_accumulator_value"}
    assert len({(*case.variant(), case.layout, case.values, case.steps) for case in cases}) == len(cases)
